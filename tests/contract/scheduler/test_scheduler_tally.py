"""What was spent, on both databases: no cent is lost or doubled on its way from the outbox to the sums.

Broken on purpose, and red here: sums and outbox read one after the other (PostgreSQL), rows added up by who delivered
them rather than by who removed them, a sum of another day added to.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from services import sql
from services.clock import DAY_MS
from services.scheduler.spend import Spent
from services.scheduler.store import SqlRequests
from services.scheduler.tally import SqlTally
from tests.contract.scheduler.test_scheduler_store import (
    DONE,
    NOW,
    TERMS,
    accepted,
    database,
    database_url,
    running,
    store,
    turn,
)

__all__ = ["database", "database_url", "store"]
DAY = NOW // DAY_MS


async def spend(store: SqlRequests, number: int, *costs: int, day: int = DAY, **changes: object) -> None:
    """A request is accepted, attempted and completed, and its turns cost that."""
    row = await accepted(store, number, **changes)
    assert await store.begin(row.request_id, 0, NOW)
    moment = NOW + (day - DAY) * DAY_MS
    turns = [replace(turn(1, n + 1, cost), ended_ms=moment) for n, cost in enumerate(costs)]
    assert await store.finish(row.request_id, 1, DONE, turns, moment)


async def deliver(store: SqlRequests) -> None:
    await store.settled([s.outbox_id for s in await store.settlements(500)])


async def test_every_end_counts_before_and_after_it_was_delivered(database: sql.Database, store: SqlRequests) -> None:
    tally, free = SqlTally(database), replace(TERMS, name="free")
    await tally.limit_tier("free", 99)
    await spend(store, 1, 5, 6)
    await spend(store, 2, 7, user_id="bob", tier=free)
    wanted = {
        Spent("tier/pro", 11, None),
        Spent("tier/free", 7, 99),
        Spent("user/ada", 11, None),
        Spent("user/x", 0, None),
    }
    assert set(await tally.read(DAY, ["ada", "x"])) == wanted
    await deliver(store)
    assert set(await tally.read(DAY, ["ada", "x"])) == wanted
    await spend(store, 3, 1)
    assert Spent("tier/pro", 12, None) in await tally.read(DAY, [])
    await deliver(store)
    assert set(await tally.read(DAY, ["bob"])) == {
        Spent("tier/pro", 12, None), Spent("tier/free", 7, 99), Spent("user/bob", 7, None),
    }  # fmt: skip


async def test_a_cost_counts_on_the_day_on_which_its_last_turn_ended(
    database: sql.Database, store: SqlRequests
) -> None:
    tally = SqlTally(database)
    await spend(store, 1, 5)
    await spend(store, 2, 3, day=DAY + 1)
    for delivered in (False, True):
        if delivered:
            await deliver(store)
        assert await tally.read(DAY + 1, ["ada"]) == [Spent("tier/pro", 3, None), Spent("user/ada", 3, None)]
    # Said late: that day is over.
    await spend(store, 3, 5)
    await deliver(store)
    assert await tally.read(DAY + 1, []) == [Spent("tier/pro", 3, None)]


async def test_whatever_is_charged_counts_once(database: sql.Database, store: SqlRequests) -> None:
    tally, row = SqlTally(database), await running(store)
    await store.cancel(row.request_id, "ada", erase=False, now_ms=NOW)
    for _ in range(2):
        await store.charge(row.request_id, 1, [turn(1, 1, 9)])
    assert await tally.read(DAY, []) == [Spent("tier/pro", 9, None)]
    # Two replicas deliver the same rows.
    ids = [s.outbox_id for s in await store.settlements(500)]
    await asyncio.gather(store.settled(ids), store.settled(ids), store.settled(ids))
    assert await tally.read(DAY, ["ada"]) == [Spent("tier/pro", 9, None), Spent("user/ada", 9, None)]


@pytest.mark.parametrize("delivered", [True, False])
async def test_a_guess_counts_until_the_truth_is_known(
    database: sql.Database, store: SqlRequests, delivered: bool
) -> None:
    tally, row = SqlTally(database), await running(store)
    await store.cancel(row.request_id, "ada", erase=False, now_ms=NOW)
    for cost, estimated in ((99, True), (9, False)):
        await store.charge(row.request_id, 1, [replace(turn(1, 1, cost), estimated=estimated)])
        if delivered:
            await deliver(store)
        assert await tally.read(DAY, ["ada"]) == [Spent("tier/pro", cost, None), Spent("user/ada", cost, None)]


async def test_no_reader_sees_a_cent_less_or_more_while_rows_move(database: sql.Database, store: SqlRequests) -> None:
    tally, total = SqlTally(database), 0
    for number in range(120):
        await spend(store, number, number)
        total += number
    ids, over = [s.outbox_id for s in await store.settlements(500)], asyncio.Event()

    async def read() -> None:
        while not over.is_set():
            assert await tally.read(DAY, ["ada"]) == [Spent("tier/pro", total, None), Spent("user/ada", total, None)]

    async def move() -> None:
        for i in range(0, len(ids), 2):
            await asyncio.gather(store.settled(ids[i : i + 2]), store.settled(ids[i : i + 3]))
        over.set()

    await asyncio.gather(read(), read(), move())


async def test_who_has_a_limit_and_something_that_has_not_ended_is_found(
    database: sql.Database, store: SqlRequests
) -> None:
    tally = SqlTally(database)
    assert not await tally.limited()
    limited = replace(TERMS, user_spend_nano_usd_per_day=5)
    for number, user_id in enumerate(("c", "a", "b", "d")):
        await accepted(store, number, user_id=user_id, tier=limited if user_id != "d" else TERMS)
    await store.cancel("req_2", "b", erase=False, now_ms=NOW)
    assert await tally.limited()
    assert await tally.limited_users("", 1) == ["a"]
    assert await tally.limited_users("a", 9) == ["c"]
    assert set(await tally.read(DAY, ["a", "d"])) == {Spent("user/a", 0, 5), Spent("user/d", 0, None)}
    ((kept, _),) = await store.apply_tiers(
        [
            ("a", replace(TERMS, version=2)),
        ]
    )
    assert kept.user_spend_nano_usd_per_day is None
    ((kept, _),) = await store.apply_tiers([("a", replace(limited, version=1))])
    assert kept.user_spend_nano_usd_per_day is None, "an older one changes nothing"
    await store.apply_tiers([("c", replace(TERMS, version=2)), ("b", replace(TERMS, version=2))])
    assert not await tally.limited()
    await tally.limit_tier("pro", 7)
    assert await tally.limited()
    await tally.limit_tier("pro", None)
    assert not await tally.limited()
