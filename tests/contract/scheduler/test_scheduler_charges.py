"""What stands for an attempt whose usage is told late, or by two who do not know of each other; on both databases."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import text

from services import sql
from services.scheduler.life import Retry
from services.scheduler.store import SqlRequests
from tests.contract.scheduler.test_scheduler_store import DONE, NOW, database, database_url, running, store, turn

__all__ = ["database", "database_url", "store"]

GUESS = replace(turn(cost=99), estimated=True)


async def told(store: SqlRequests) -> list[list[tuple[int, int, bool]]]:
    found = [[(t.attempt, t.cost_nano_usd, t.estimated) for t in s.turns] for s in await store.settlements(99)]
    return [turns for turns in found if turns]


@pytest.mark.parametrize("cancelled", [True, False])
async def test_the_truth_replaces_an_estimate_that_was_charged(store: SqlRequests, cancelled: bool) -> None:
    await running(store)
    if cancelled:
        await store.cancel("req_1", "ada", erase=False, now_ms=NOW)
        await store.charge("req_1", 1, [GUESS])
    else:
        await store.requeue("req_1", 1, Retry(0, "lost"), [GUESS], NOW)
        await store.begin("req_1", 1, NOW)
    for _ in range(3):
        await store.charge("req_1", 1, [turn(), turn(number=2)])
        await store.charge("req_1", 1, [GUESS])
    assert await told(store) == [[(1, 99, True)], [(1, 7, False), (1, 7, False)]]
    assert not any(s.final for s in (await store.settlements(99))[-1:])
    row = await store.get("req_1")
    assert row is not None
    assert (row.cost_nano_usd, row.cost_estimated, row.tokens.input, row.charged_attempt) == (14, False, 6, 1)


async def test_the_truth_of_an_attempt_is_told_whatever_was_charged_since(store: SqlRequests) -> None:
    await running(store)
    await store.requeue("req_1", 1, Retry(0, "lost"), [GUESS], NOW)
    await store.begin("req_1", 1, NOW)
    await store.finish("req_1", 2, DONE, [turn(2)], NOW)
    for _ in range(2):
        await store.charge("req_1", 1, [turn(1, cost=8)])
        await store.charge("req_1", 1, [])
    assert await told(store) == [[(1, 99, True)], [(2, 7, False)], [(1, 8, False)], [(1, 8, False)]]
    row = await store.get("req_1")
    assert row is not None
    assert (row.cost_nano_usd, row.cost_estimated, row.charged_attempt) == (106, True, 2), "nobody knows the guess"


async def test_what_is_exact_is_told_once(store: SqlRequests) -> None:
    await running(store)
    await store.requeue("req_1", 1, Retry(0, "no diagram"), [turn()], NOW)
    await store.begin("req_1", 1, NOW)
    await store.finish("req_1", 2, DONE, [turn(2)], NOW)
    # Its runner was not told that this was done, and does it again.
    await store.charge("req_1", 2, [turn(2)])
    assert await told(store) == [[(1, 7, False)], [(2, 7, False)]]


async def test_what_waits_is_not_unpaid_when_it_is_cancelled(store: SqlRequests, database: sql.Database) -> None:
    await running(store)
    # As the release before this one does after a 429.
    requeue = text("UPDATE scheduler_requests SET state = 'queued'")
    await database.write(lambda connection: connection.execute(requeue).rowcount)
    await store.cancel("req_1", "ada", erase=False, now_ms=NOW)
    assert await store.unpaid(10, NOW - 1, NOW) == []
