"""Closing of days, on both databases: who had agreed to what at a day's end, and what that brought in."""

from __future__ import annotations

import asyncio

import pytest
from headgate.quota.v1 import quota_pb2 as pb

from services.clock import DAY_MS, next_day_ms
from services.quota import closing
from services.quota.closing import CLOSE_AFTER_MS, INTERVAL_MS, Closing
from services.quota.ledger import Ledger
from services.quota.revenue import day_revenue
from services.quota.store import SqlStore
from tests.servers.quota import NOON_MS, Quota, refused

ACTOR = "admin:test"
PRO, BASIC = 79_000_000_000, 15_000_000_000
HOUR_MS = 3_600_000
FIRST = "2026-01-01"
# The clock of the tests stands at noon of that day.
TO_CLOSING_MS = DAY_MS // 2 + CLOSE_AFTER_MS


async def set_tier(quota: Quota, user_id: str, tier: str) -> None:
    await quota.stub.SetUserTier(pb.SetUserTierRequest(user_id=user_id, tier=tier, actor=ACTOR))


async def execute(quota: Quota, *statements: str) -> None:
    """What another release, or an administrator's own hand, does to the rows."""
    for statement in statements:
        await quota.database.write(lambda connection, s=statement: connection.exec_driver_sql(s).rowcount)


async def revenue(quota: Quota) -> list[tuple[str, str, str, int]]:
    rows = await quota.rows("SELECT day, user_id, tier, revenue_nano_usd FROM quota_revenue ORDER BY day, user_id")
    return [tuple(row) for row in rows]


async def tier_days(quota: Quota, day: str) -> dict[str, tuple[int, int]]:
    rows = await quota.rows("SELECT tier, users, revenue_nano_usd FROM quota_tier_days WHERE day = :day", day=day)
    return {row[0]: (row[1], row[2]) for row in rows}


async def terms(quota: Quota) -> list[tuple[str, int, str, int | None]]:
    rows = await quota.rows(
        "SELECT user_id, from_ms, tier, own_price_nano_usd_per_month FROM quota_terms ORDER BY number"
    )
    return [tuple(row) for row in rows]


class TestTerms:
    """What is noted of what users agree to."""

    async def test_they_are_noted_with_whatever_changes_them(self, quota: Quota) -> None:
        await quota.user("pro", "ann")
        caller = pb.Caller(user_id="bob", create_if_missing=True)
        for _ in range(2):
            await quota.stub.Authenticate(pb.AuthenticateRequest(caller=caller))
        quota.clock.advance(5)
        for tier in ("basic", "basic", "pro"):
            await set_tier(quota, "ann", tier)
        assert await terms(quota) == [
            ("ann", NOON_MS, "pro", None),
            ("bob", NOON_MS, "free", None),
            ("ann", NOON_MS + 5, "basic", None),
            ("ann", NOON_MS + 5, "pro", None),
        ]

    async def test_what_is_refused_notes_nothing(self, quota: Quota) -> None:
        await quota.user("pro", "ann")
        before = await terms(quota)
        await refused(quota.stub.CreateUser(pb.CreateUserRequest(user_id="ann", tier="free", actor=ACTOR)))
        await refused(quota.stub.SetUserTier(pb.SetUserTierRequest(user_id="ann", tier="gold", actor=ACTOR)))
        await refused(quota.stub.SetUserTier(pb.SetUserTierRequest(user_id="nobody", tier="pro", actor=ACTOR)))
        assert await terms(quota) == before


async def test_a_day_brings_in_what_the_tier_held_at_its_end_costs(quota: Quota) -> None:
    for user_id, tier in (("ann", "basic"), ("bob", "pro"), ("cy", "free")):
        await quota.user(tier, user_id)
    quota.clock.advance(DAY_MS // 2 - 1)
    await set_tier(quota, "ann", "pro")
    await set_tier(quota, "bob", "free")
    quota.clock.advance(1)
    await set_tier(quota, "ann", "basic")
    quota.clock.advance(CLOSE_AFTER_MS)
    await quota.service.closing.close_all()
    share = day_revenue(PRO, FIRST)
    assert await revenue(quota) == [(FIRST, "ann", "pro", share)]
    assert await tier_days(quota, FIRST) == {"free": (2, 0), "basic": (0, 0), "pro": (1, share), "enterprise": (0, 0)}


async def test_a_month_of_days_adds_up_to_the_price_and_missed_days_are_caught_up(quota: Quota) -> None:
    await quota.user("pro", "ann")
    await quota.user("basic", "bob")
    quota.clock.advance(58 * DAY_MS + TO_CLOSING_MS)
    await quota.service.closing.close_all()
    days = await quota.rows("SELECT DISTINCT day FROM quota_tier_days ORDER BY day")
    assert (days[0][0], days[-1][0], len(days)) == (FIRST, "2026-02-28", 59)
    sums = await quota.rows(
        "SELECT substr(day, 1, 7), user_id, sum(revenue_nano_usd), count(*) FROM quota_revenue"
        " GROUP BY 1, 2 ORDER BY 1, 2"
    )
    assert [tuple(row) for row in sums] == [
        ("2026-01", "ann", PRO, 31),
        ("2026-01", "bob", BASIC, 31),
        ("2026-02", "ann", PRO, 28),
        ("2026-02", "bob", BASIC, 28),
    ]


async def test_closing_again_and_by_several_at_once_changes_nothing(quota: Quota) -> None:
    for i in range(5):
        await quota.user("pro", f"user{i}")
    quota.clock.advance(2 * DAY_MS + TO_CLOSING_MS)
    store = SqlStore(quota.database)
    others = [Closing(store, quota.plans, quota.clock, Ledger(store, quota.prices, quota.clock)) for _ in range(3)]
    await asyncio.gather(*(each.close_all() for each in others))
    closed = await revenue(quota), await tier_days(quota, FIRST)
    assert len(closed[0]) == 15
    assert closed[1]["pro"] == (5, 5 * day_revenue(PRO, FIRST))
    await execute(quota, "DELETE FROM quota_tier_days WHERE day = '2026-01-03'")
    await quota.service.closing.close_all()
    assert (await revenue(quota), await tier_days(quota, FIRST)) == closed
    assert await tier_days(quota, "2026-01-03") == {**closed[1], "pro": (5, 5 * day_revenue(PRO, "2026-01-03"))}


async def test_it_goes_in_batches_and_on_where_it_broke_off(quota: Quota, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closing, "BATCH", 2)
    for i in range(5):
        await quota.user("free" if i == 2 else "pro", f"user{i}")
    quota.clock.advance(TO_CLOSING_MS)
    await quota.service.closing._record(FIRST, "")
    assert [row[1] for row in await revenue(quota)] == ["user0", "user1"]
    assert await tier_days(quota, FIRST) == {}
    await quota.service.closing.close_all()
    assert [row[1] for row in await revenue(quota)] == ["user0", "user1", "user3", "user4"]
    assert (await tier_days(quota, FIRST))["pro"] == (4, 4 * day_revenue(PRO, FIRST))


async def test_a_day_is_closed_a_minute_after_its_end(quota: Quota) -> None:
    await quota.service.closing.close_all()
    await quota.user("pro", "ann")
    loop = asyncio.create_task(quota.service.closing.run())
    assert await quota.clock.until_asleep() == INTERVAL_MS
    quota.clock.advance(DAY_MS // 2 + 59_999)
    await quota.clock.until_asleep()
    assert await revenue(quota) == []
    quota.clock.advance(INTERVAL_MS)
    await quota.clock.until_asleep()
    assert [row[:3] for row in await revenue(quota)] == [(FIRST, "ann", "pro")]
    loop.cancel()
    await asyncio.wait([loop])


async def test_an_own_price_counts_from_when_it_was_agreed_on(quota: Quota) -> None:
    for user_id, tier in (("ann", "enterprise"), ("bob", "pro"), ("cy", "enterprise")):
        await quota.user(tier, user_id)
    quota.clock.advance(DAY_MS)
    prices = {"ann": 1_000_000_000_007, "bob": 0}
    for user_id, price in prices.items():
        await execute(
            quota, f"UPDATE quota_users SET own_price_nano_usd_per_month = {price} WHERE user_id = '{user_id}'"
        )
        now_ms = quota.clock.now_ms()
        await SqlStore(quota.database).write(lambda tx, of=user_id, now_ms=now_ms: tx.note_terms(of, now_ms))
    quota.clock.advance(TO_CLOSING_MS)
    await quota.service.closing.close_all()
    second = day_revenue(prices["ann"], "2026-01-02")
    assert await revenue(quota) == [
        (FIRST, "bob", "pro", day_revenue(PRO, FIRST)),
        ("2026-01-02", "ann", "enterprise", second),
    ]
    assert (await tier_days(quota, "2026-01-02"))["enterprise"] == (2, second)


async def test_what_the_release_before_this_one_changed_is_noticed(quota: Quota) -> None:
    await quota.user("free", "ann")
    await execute(
        quota,
        "UPDATE quota_users SET tier = 'pro' WHERE user_id = 'ann'",
        "INSERT INTO quota_users (user_id, email, tier, tier_version, status, create_time_ms)"
        f" VALUES ('bob', '', 'basic', 1, 'active', {NOON_MS + 1})",
    )
    quota.clock.advance(TO_CLOSING_MS)
    await quota.service.closing.close_all()
    assert [row[1:] for row in await revenue(quota)] == [
        ("ann", "pro", day_revenue(PRO, FIRST)),
        ("bob", "basic", day_revenue(BASIC, FIRST)),
    ]
    noted = await terms(quota)
    assert sorted(noted[1:]) == [("ann", next_day_ms(FIRST) - 1, "pro", None), ("bob", NOON_MS + 1, "basic", None)]
    quota.clock.advance(DAY_MS)
    await quota.service.closing.close_all()
    assert await terms(quota) == noted


async def test_of_two_changes_the_one_committed_later_holds_whatever_clocks_say(quota: Quota) -> None:
    await quota.user("free", "ann")
    quota.clock.advance(HOUR_MS)
    await set_tier(quota, "ann", "basic")
    quota.clock.advance(-HOUR_MS // 2)
    await set_tier(quota, "ann", "pro")
    quota.clock.advance(TO_CLOSING_MS)
    await quota.service.closing.close_all()
    assert [row[2] for row in await revenue(quota)] == ["pro"]


async def test_a_tier_that_is_no_more_brings_in_nothing_and_is_counted(quota: Quota) -> None:
    await quota.user("pro", "ann")
    await execute(quota, "UPDATE quota_terms SET tier = 'gold'", "UPDATE quota_users SET tier = 'gold'")
    quota.clock.advance(TO_CLOSING_MS)
    await quota.service.closing.close_all()
    assert await revenue(quota) == []
    assert (await tier_days(quota, FIRST))["gold"] == (1, 0)
