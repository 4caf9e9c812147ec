"""When sums are read and told, and what the owner hears of it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

import pytest

from services.clock import DAY_MS
from services.scheduler.life import LineUnavailable, Request
from services.scheduler.spend import Spend, Spent
from services.sql import StoreUnavailable
from tests.servers.spending import KeptAlerts
from tests.unit.test_scheduler_outcomes import RUNNING, a_request


class Books:
    """A tally whose reading takes until the test says so, and a line that notes what it is told."""

    def __init__(self) -> None:
        self.now_ms_ = DAY_MS
        self.committed = 0
        self.read_: list[set[str]] = []
        self.told: list[int] = []
        self.door = asyncio.Event()
        self.away = False

    def now_ms(self) -> int:
        return self.now_ms_

    async def sleep(self, delay_ms: float) -> None: ...

    async def read(self, day: int, user_ids: Collection[str]) -> list[Spent]:
        if self.away:
            raise StoreUnavailable("away")
        self.read_.append(set(user_ids))
        sum_ = self.committed if day == 1 else 0
        await self.door.wait()
        return [Spent("tier/free", sum_, None)]

    async def limited(self) -> bool:
        return False

    async def limited_users(self, after: str, many: int) -> list[str]:
        return []

    async def limit_tier(self, tier: str, cap_nano_usd: int | None) -> None: ...

    async def tell_spent(self, pool: str, day: int, spent: Sequence[Spent]) -> None:
        (site,) = (s for s in spent if s.scope == "site")
        self.told.append(site.nano_usd)


def made(books: Books, cap: int | None = 10) -> tuple[Spend, KeptAlerts]:
    alerts = KeptAlerts()
    return Spend(books, ["p"], cap, clock=books, alerts=alerts), alerts


def of(user: str) -> Request:
    return a_request(user_id=user, attempt=1)


async def test_those_who_ask_while_sums_are_read_wait_for_the_next_reading() -> None:
    """Broken once: they joined the one under way, which had begun before they committed."""
    books = Books()
    spend, _ = made(books)
    first = asyncio.create_task(spend.count(books, of("a")))
    while not books.read_:
        await asyncio.sleep(0)
    books.committed = 7
    later = [asyncio.create_task(spend.count(books, of(user))) for user in "bc"]
    await asyncio.sleep(0)
    books.door.set()
    await asyncio.gather(first, *later)
    assert books.read_ == [{"a"}, {"b", "c"}], "together"
    assert books.told == [0, 7]


async def test_no_lease_is_freed_while_nobody_can_read_the_sums() -> None:
    books = Books()
    books.away = True
    with pytest.raises(LineUnavailable):
        await made(books)[0].count(books, RUNNING)


async def test_what_was_never_attempted_and_what_has_no_limit_is_not_asked_about() -> None:
    books = Books()
    await made(books)[0].count(books, a_request())
    await made(books, cap=None)[0].count(books, RUNNING)
    assert books.read_ == []


async def test_an_alert_is_raised_once_and_ends_on_the_next_day() -> None:
    books = Books()
    books.door.set()
    books.committed = 12_340_000_000
    spend, alerts = made(books, cap=10_000_000_000)
    for _ in range(3):
        await spend.count(books, RUNNING)
    (alert,) = await alerts.active()
    assert alert.subject == "spend/site"
    books.now_ms_ += DAY_MS
    await spend.look(books)
    assert await alerts.active() == []


def test_the_owner_is_told_what_to_do() -> None:
    site = Spent("site", 12_340_000_000, 10_000_000_000)
    assert site.advice == (
        "The spend limit of the site, $10.00 a day, is reached: $12.34 today. Requests wait until midnight UTC. "
        "Raise HEADGATE_MAX_SPEND_PER_DAY to let them go on now."
    )
    assert "PUT /api/admin/users/ada/limits" in Spent("user/ada", 1, 0).advice
    assert "config/plans.yaml" in Spent("tier/pro", 1, 0).advice
