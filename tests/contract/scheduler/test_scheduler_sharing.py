"""One answer for all who asked the same: what the store promises, on both databases.

Broken on purpose, and red here: the guard on `queued` left out of `sharing._end` (what ran, and what was cancelled, was
completed), an erased answer that keeps its key, an empty one, `ended_ms` not compared, a copy that keeps its key,
`begin` without its look for an answer.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from services import sql
from services.scheduler.life import Code, End, Refused, Request, Retry, Standing, State, TierTerms
from services.scheduler.sharing import BATCH
from services.scheduler.store import SqlRequests
from tests.contract.scheduler.test_scheduler_store import (
    DONE,
    NOW,
    accepted,
    database,
    database_url,
    store,
    submission,
    turn,
)

__all__ = ["database", "database_url", "store"]
DAY_MS = 86_400_000
REFUSED = End(State.FAILED, Code.REFUSED, "No.")


async def equal(store: SqlRequests, number: int, **changes: object) -> Request:
    return await accepted(store, number, cache_key="k", user_id=f"u{number}", **changes)


async def begun(store: SqlRequests, number: int) -> Request:
    await equal(store, number)
    row = await store.begin(f"req_{number}", 0, NOW)
    assert row is not None
    return row


async def states(store: SqlRequests, *numbers: int) -> list[State]:
    return [row.state for n in numbers if (row := await store.get(f"req_{n}"))]


async def test_everything_that_is_queued_and_equal_completes_with_the_first(store: SqlRequests) -> None:
    await begun(store, 1)
    await begun(store, 2)
    for number in (3, 4, 5, 6):
        await equal(store, number)
    await accepted(store, 7, cache_key="other")
    await accepted(store, 8)
    await store.cancel("req_5", "u5", erase=False, now_ms=NOW)
    await store.begin("req_6", 0, NOW)
    await store.requeue("req_6", 1, Retry(NOW + 50, ""), [], NOW)
    first, *others = await store.finish("req_1", 1, replace(DONE, truncated=True), [turn()], NOW + 9)
    assert first.request_id == "req_1"
    assert [r.request_id for r in others] == ["req_3", "req_4", "req_6"], "those that are queued, and nothing else"
    assert await states(store, 2, 5, 7, 8) == [State.RUNNING, State.CANCELLED, State.QUEUED, State.QUEUED]
    row = await store.get("req_4", prompt=True, svg=True)
    assert row is not None
    assert (row.state, row.result, row.svg, row.has_svg, row.truncated, row.cached, row.ended_ms) == (
        State.COMPLETED, DONE.result, DONE.svg, True, True, True, NOW + 9,
    )  # fmt: skip
    assert (row.user_id, row.cost_nano_usd, row.attempt) == ("u4", 0, 0)
    told = {s.request_id: s for s in await store.settlements(99) if s.final}
    assert {i: (s.user_id, s.counted, len(s.turns)) for i, s in told.items()} == {
        "req_1": ("u1", True, 1), "req_3": ("u3", True, 0), "req_4": ("u4", True, 0), "req_5": ("u5", False, 0),
        "req_6": ("u6", True, 0),
    }  # fmt: skip
    cost = turn().cost_nano_usd
    assert {i: s.saved_nano_usd for i, s in told.items()} == {
        "req_1": 0, "req_3": cost, "req_4": cost, "req_5": 0, "req_6": cost,
    }, "what the answer had cost, its last turn included"  # fmt: skip
    assert await store.account([("req_3", 1)], NOW) == [(Standing.ENDED, True)]
    untold = {r.request_id for r in await store.untold(99, NOW + 9)}
    assert untold == {f"req_{n}" for n in (1, 3, 4, 5, 6)}, "a sweep tells them"
    assert await store.finish("req_1", 1, DONE, [], NOW) == [], "repeatable"


@pytest.mark.parametrize("code", [Code.PROVIDER_REJECTED, Code.REFUSED, Code.INVALID_DIAGRAM])
async def test_a_failure_is_shared_by_the_parked_and_by_nobody_else(store: SqlRequests, code: Code) -> None:
    await begun(store, 1)
    for number in (2, 3, 4):
        await equal(store, number)
    await accepted(store, 5, cache_key="other")
    await store.cancel("req_3", "u3", erase=False, now_ms=NOW)
    end = End(State.FAILED, code, "No.")
    ended = await store.finish("req_1", 1, end, [turn()], NOW, parked=["req_2", "req_3", "req_5"])
    assert [(r.request_id, r.state, r.code, r.error) for r in ended] == [
        (f"req_{n}", State.FAILED, code, "No.") for n in (1, 2)
    ]
    assert await states(store, 3, 4, 5) == [State.CANCELLED, State.QUEUED, State.QUEUED]
    assert [s.counted for s in await store.settlements(9)] == [False] * 3
    assert (await store.begin("req_4", 0, NOW)) is not None, "it goes on by itself"


@pytest.mark.parametrize("code", [Code.PROVIDER_UNAVAILABLE, Code.WORKER_LOST])
async def test_any_other_failure_is_its_own(store: SqlRequests, code: Code) -> None:
    await begun(store, 1)
    await equal(store, 2)
    assert len(await store.finish("req_1", 1, End(State.FAILED, code), [], NOW, parked=["req_2"])) == 1
    assert await states(store, 2) == [State.QUEUED]


async def test_a_crowd_completes_a_batch_at_a_time(store: SqlRequests) -> None:
    first = await begun(store, 0)
    await asyncio.gather(*(accepted(store, n, cache_key="k", tier=TierTerms("e", 1, 8, 9_999)) for n in range(1, 701)))
    assert len(await store.finish("req_0", 1, DONE, [], NOW)) == 1 + BATCH
    assert len(await store.share(first, DONE, NOW)) == 700 - BATCH
    assert await store.share(first, DONE, NOW) == []
    assert len({s.request_id for s in await store.settlements(999)}) == 701


async def test_who_was_left_behind_is_answered_when_its_turn_comes(store: SqlRequests, database: sql.Database) -> None:
    """Accepted while the first was just ending, or whoever shared died after the first batch."""
    await begun(store, 1)
    await store.finish("req_1", 1, DONE, [turn()], NOW)
    await accepted(store, 2)
    await equal(store, 3)
    later, first = SqlRequests(database, cache_ttl_ms=0), await store.get("req_3")
    assert first is not None
    assert first.cached, "the ordinary way, for comparison"
    late, _ = await later.submit(submission(4, cache_key="k", user_id="u4"), NOW)
    assert late.state is State.QUEUED
    answered = await store.begin("req_4", 0, NOW + 5)
    assert answered is not None
    assert (answered.state, answered.cached, answered.attempt) == (State.COMPLETED, True, 0)
    told = [s for s in await store.settlements(9) if s.request_id == "req_4"]
    assert [(s.counted, s.saved_nano_usd) for s in told] == [(True, turn().cost_nano_usd)]
    assert await store.begin("req_4", 0, NOW + 5) is None
    assert (await store.begin("req_2", 0, NOW)).state is State.RUNNING, "without a key there are no equals"  # type: ignore[union-attr]


async def test_a_known_answer_is_given_for_its_time(store: SqlRequests) -> None:
    await begun(store, 1)
    await store.finish("req_1", 1, DONE, [turn()], NOW)
    hit, replayed = await store.submit(submission(2, cache_key="k", user_id="eve"), NOW + DAY_MS - 1)
    assert (hit.state, hit.result, hit.cached, hit.user_id, replayed) == (
        State.COMPLETED, DONE.result, True, "eve", False,
    )  # fmt: skip
    row = await store.get("req_2", prompt=True, svg=True)
    assert row is not None
    assert (row, row.svg, row.cost_nano_usd) == (replace(hit, prompt="p"), DONE.svg, 0)
    again, replayed = await store.submit(submission(2, cache_key="k", user_id="eve"), NOW + 2 * DAY_MS)
    assert (again.acceptance, replayed) == (hit.acceptance, True)
    told = [s for s in await store.settlements(9) if s.user_id == "eve"]
    assert [(s.counted, len(s.turns), s.saved_nano_usd) for s in told] == [(True, 0, turn().cost_nano_usd)]
    assert await store.account([("req_2", 1)], NOW) == [(Standing.ENDED, True)]
    late, _ = await store.submit(submission(3, cache_key="k"), NOW + DAY_MS)
    assert late.state is State.QUEUED, "an answer that was given again is no younger for it"


async def test_a_known_answer_needs_no_room_and_a_buried_id_stays_buried(store: SqlRequests) -> None:
    await begun(store, 1)
    await store.finish("req_1", 1, DONE, [], NOW)
    full, terms = Refused("QUEUE_FULL", "Full."), TierTerms("free", 1, 1, 0)
    hit, _ = await store.submit(submission(2, cache_key="k", tier=terms, user_id="eve"), NOW, full)
    assert hit.cached
    assert await store.outstanding("eve") == 0
    assert (await store.submit(submission(2, cache_key="k", user_id="eve"), NOW, full))[1], "a repeat finds it"
    for reason, wanted in (("QUEUE_FULL", full), ("CONCURRENCY_LIMIT_EXCEEDED", None)):
        with pytest.raises(Refused) as refused:
            await store.submit(submission(3, tier=terms, user_id="eve"), NOW, wanted)
        assert refused.value.reason == reason
    await store.account([("req_4", 1)], NOW)
    with pytest.raises(Refused) as refused:
        await store.submit(submission(4, cache_key="k"), NOW)
    assert refused.value.reason == "RESERVATION_STALE"


@pytest.mark.parametrize(
    "end", [REFUSED, replace(DONE, reusable=False), replace(DONE, result=""), "erased", "cancelled", "expired"]
)
async def test_nothing_else_is_an_answer(store: SqlRequests, end: End | str) -> None:
    if end == "expired":
        await equal(store, 1)
        await store.expire(NOW + 60_000, 9)
    else:
        await begun(store, 1)
        if isinstance(end, End) or end == "erased":
            await store.finish("req_1", 1, end if isinstance(end, End) else DONE, [], NOW)
        if isinstance(end, str):
            await store.cancel("req_1", "u1", erase=end == "erased", now_ms=NOW)
    assert (await store.get("req_1")).cache_key is None or end == replace(DONE, result="")  # type: ignore[union-attr]
    assert (await equal(store, 2)).state is State.QUEUED
    assert (await store.begin("req_2", 0, NOW)).state is State.RUNNING  # type: ignore[union-attr]
