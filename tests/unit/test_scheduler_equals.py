"""Telling those that ended together, in which order and in how many batches. In the other order one test is red."""

from __future__ import annotations

from typing import Any

from services.scheduler.equals import Equals
from services.scheduler.life import Code, End, LineUnavailable, Request, State
from services.scheduler.sameness import BATCH
from tests.servers.quota import VirtualClock
from tests.unit.test_scheduler_outcomes import NOW, a_request

DONE = End(State.COMPLETED)
FIRST = a_request(request_id="first", state=State.COMPLETED, cache_key="k")


class Stores:
    """The line and the rows; notes what was done."""

    def __init__(self, waiting: int = 0) -> None:
        self.waiting = [a_request(request_id=f"later_{n}") for n in range(waiting)]
        self.done: list[str] = []
        self.told: list[str] = []
        self.away = False

    async def finish(self, request: Request, *used: int | None) -> int:
        if self.away:
            raise LineUnavailable("away")
        self.done.append(request.request_id)
        return len(self.done)

    async def parked(self, pool: str, request_id: str) -> list[str]:
        if self.away:
            raise LineUnavailable("away")
        return ["behind"]

    async def tell(self, seqs: list[tuple[str, int]]) -> None:
        self.told += [request_id for request_id, _ in seqs]

    async def share(self, request: Request, end: End, now_ms: int) -> list[Request]:
        batch, self.waiting = self.waiting[:BATCH], self.waiting[BATCH:]
        return batch


def equals(stores: Any) -> Equals:
    return Equals(stores, stores, VirtualClock(NOW))


def rows(many: int) -> list[Request]:
    return [a_request(request_id=f"equal_{n}") for n in range(many)]


async def test_the_one_that_ran_is_told_last() -> None:
    """As long as it holds its lease, an equal one that is popped parks; else that one took tokens for nothing."""
    stores = Stores()
    await equals(stores).tell([FIRST, *rows(3)], DONE, (1, 2))
    assert stores.done == ["equal_0", "equal_1", "equal_2", "first"]
    assert stores.told == stores.done


async def test_a_crowd_is_told_to_its_last() -> None:
    stores = Stores(waiting=BATCH + 1)
    await equals(stores).tell([FIRST, *rows(BATCH)], DONE, (1, 2))
    assert len(stores.told) == 2 * BATCH + 2
    assert (stores.waiting, stores.told[-1]) == ([], "first")


async def test_a_shared_failure_ends_with_its_batch() -> None:
    stores = Stores(waiting=9)
    await equals(stores).tell([FIRST, *rows(BATCH)], End(State.FAILED, Code.REFUSED), (1, 2))
    assert len(stores.waiting) == 9, "those that are not parked go on by themselves"


async def test_without_valkey_the_end_stands_and_the_sweep_tells_it() -> None:
    stores = Stores()
    stores.away = True
    await equals(stores).tell([FIRST, *rows(3)], DONE, (1, 2))
    assert stores.told == []
    assert await equals(stores).parked(FIRST, End(State.FAILED, Code.REFUSED)) == []


async def test_the_parked_are_asked_for_only_where_a_failure_is_shared() -> None:
    ask = equals(Stores()).parked
    assert await ask(FIRST, End(State.FAILED, Code.REFUSED)) == ["behind"]
    assert await ask(FIRST, End(State.FAILED, Code.WORKER_LOST)) == []
    assert await ask(FIRST, DONE) == [], "who completes with it is found in SQL"
    assert await ask(a_request(), End(State.FAILED, Code.REFUSED)) == []
