"""Each sweep mends what a crash at one point leaves behind. A crash is simulated by not doing the second write."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from services import sql
from services.pricing import read_prices
from services.scheduler import line as line_module
from services.scheduler.attempts import Attempts
from services.scheduler.life import End, LineUnavailable, Request, Retry, State, TierTerms
from services.scheduler.line import LEASE_MS, SEQS_PER_EPOCH, Identity, ValkeyLine
from services.scheduler.store import SqlRequests
from services.scheduler.sweeps import (
    LEASES_MS,
    MISSING_MS,
    SETTLED_AGE_MS,
    STRANDED_MS,
    TELLING_MS,
    UNPAID_MS,
    Sweeps,
)
from services.settings import config_dir
from services.sql import StoreUnavailable
from tests.contract.scheduler.test_scheduler_store import submission
from tests.servers.quota import VirtualClock
from tests.servers.scheduler import migrate, sqlite_url
from tests.servers.valkey import ValkeyServer

POOL = "sonnet"
NOW = 1_795_500_000_000
DONE = End(State.COMPLETED, result="flowchart TD")
Renew = Callable[[str, Iterable[tuple[str, int]]], Awaitable[list[str]]]


class NoAttempts(Attempts):
    """This process runs nothing: whoever did is dead."""

    def __init__(self) -> None:
        self._running = {}


@dataclass
class Stores:
    requests: SqlRequests
    line: ValkeyLine
    clock: VirtualClock
    sweeps: Sweeps

    async def accepted(self, number: int = 1, *, placed: bool = True) -> Request:
        terms = TierTerms("pro", 1, 4, 100)
        request, _ = await self.requests.submit(submission(number, tier=terms, max_wait_ms=60_000), NOW)
        if placed:
            await self.line.place(POOL, [request])
        return request

    async def running(self, number: int = 1) -> Request:
        await self.accepted(number)
        await self.line.dispatch(POOL, 1, None)
        begun = await self.requests.begin(f"req_{number}", 0, NOW)
        assert begun is not None
        await self.line.start(POOL, begun.request_id, 1, {"type": "processing", "attempt": 1})
        return begun

    async def later(self, ms: int) -> None:
        self.clock.advance(ms)
        self.line.virtual_now_ms = self.clock.now_ms()

    async def state(self, number: int = 1) -> State:
        row = await self.requests.get(f"req_{number}")
        assert row is not None
        return row.state

    async def in_line(self) -> list[str]:
        return [request_id for request_id, _ in (await self.line.dispatch(POOL, 9, None)).request_ids]


@pytest.fixture
async def stores(tmp_path: Path, valkey: ValkeyServer) -> AsyncIterator[Stores]:
    migrate(sqlite_url(tmp_path))
    database = sql.connect(sqlite_url(tmp_path))
    identity = Identity(1, valkey.client().info("server")["run_id"])
    client = line_module.connect(valkey.url, identity)
    line = ValkeyLine(client, identity, virtual_now_ms=NOW - 60_000)
    valkey.client().hset(f"{line_module.base_key(POOL)}meta", "epoch", "1")
    await line.set_limits(POOL, "plan", {"requests": 6_000_000})
    await line.dispatch(POOL, 0, None)
    line.virtual_now_ms = NOW
    requests, clock = SqlRequests(database), VirtualClock(NOW)
    prices = read_prices(config_dir() / "prices.yaml")
    sweeps = Sweeps(
        requests, line, NoAttempts(), prices, [POOL], clock=clock, retention_days=30, on_settlement=lambda: None
    )
    yield Stores(requests, line, clock, sweeps)
    await client.aclose()
    await database.close()


async def test_dead_between_the_commit_and_the_place(stores: Stores) -> None:
    await stores.accepted(placed=False)
    await stores.sweeps.missing()
    assert await stores.in_line() == [], "it may still be on its way"
    await stores.later(SETTLED_AGE_MS)
    await stores.sweeps.missing()
    await stores.sweeps.missing()
    assert await stores.in_line() == ["req_1"]


async def test_dead_between_the_pop_and_the_begin(stores: Stores) -> None:
    await stores.accepted()
    assert await stores.in_line() == ["req_1"]
    await stores.sweeps.expired_leases()
    assert await stores.in_line() == [], "its lease still holds"
    for _ in range(LEASE_MS // LEASES_MS):
        await stores.later(LEASES_MS)
        await stores.sweeps.expired_leases()
    assert await stores.in_line() == ["req_1"]
    assert await stores.state() is State.QUEUED


async def test_after_a_standstill_whoever_runs_has_time_to_renew(stores: Stores) -> None:
    """Two rounds: the first may hear an answer as old as its question."""
    await stores.running()
    await stores.sweeps.expired_leases()
    await stores.later(LEASE_MS)
    for _ in range(2):
        await stores.sweeps.expired_leases()
        assert await stores.state() is State.RUNNING
        await stores.later(LEASES_MS)
    await stores.sweeps.expired_leases()
    assert await stores.state() is State.QUEUED, "nobody did"


async def test_dead_while_an_attempt_runs(stores: Stores) -> None:
    await stores.running()
    await stores.later(LEASE_MS)
    await stores.sweeps.expired_leases()
    assert await stores.state() is State.QUEUED
    assert await stores.in_line() == ["req_1"]
    (told,) = await stores.requests.settlements(9)
    assert not told.final
    assert [(turn.attempt, turn.estimated) for turn in told.turns] == [(1, True)], "nobody saw what it used"


async def test_cancelled_when_whoever_ran_it_was_dead(stores: Stores) -> None:
    await stores.running()
    await stores.requests.cancel("req_1", "ada", erase=False, now_ms=stores.clock.now_ms())
    for wait_ms, charges in ((UNPAID_MS - 1, []), (1, [(1, True)]), (MISSING_MS, [(1, True)])):
        await stores.later(wait_ms)
        await stores.sweeps.unpaid()
        told = [turn for settlement in await stores.requests.settlements(9) for turn in settlement.turns]
        assert [(turn.attempt, turn.estimated) for turn in told] == charges
    assert told[0].cost_nano_usd > 0


async def test_a_running_row_without_a_lease_is_lost(stores: Stores, valkey: ValkeyServer) -> None:
    await stores.running()
    valkey.client().delete(f"{line_module.base_key(POOL)}leases")
    await stores.later(SETTLED_AGE_MS)
    await stores.sweeps.missing()
    assert await stores.state() is State.QUEUED
    assert await stores.in_line() == ["req_1"]


async def test_dead_between_the_end_and_its_script(stores: Stores) -> None:
    await stores.running()
    await stores.requests.finish("req_1", 1, DONE, [], NOW)
    assert (await stores.line.view(POOL))["running"] == 1
    await stores.later(TELLING_MS)
    await stores.sweeps.untold()
    assert (await stores.line.view(POOL))["running"] == 0
    assert [event["type"] for _, event in await stores.line.events(POOL, "req_1", 0)] == ["processing", "ended"]
    assert await stores.requests.untold(9, stores.clock.now_ms()) == []


async def test_an_end_that_is_being_told_is_left_to_who_knows_what_it_used(stores: Stores) -> None:
    """The sweep was faster now and then: what was taken by estimate stayed taken, and nothing was learned."""
    await stores.running()
    (ended,) = await stores.requests.finish("req_1", 1, DONE, [], NOW)
    await stores.sweeps.untold()
    await stores.line.finish(ended, 800, 900)
    learned = float((await stores.line.view(POOL))["bucket"]["mean_output"])
    assert learned == (3 * ended.estimated_output_tokens + 900) / 4, "what was assumed counts as three"


async def test_an_ended_row_whose_lease_runs_out_is_ended_there_too(stores: Stores) -> None:
    await stores.running()
    await stores.requests.finish("req_1", 1, DONE, [], NOW)
    await stores.later(LEASE_MS)
    await stores.sweeps.expired_leases()
    assert (await stores.line.view(POOL))["running"] == 0
    assert await stores.state() is State.COMPLETED


async def test_dead_between_the_requeue_and_its_script(stores: Stores) -> None:
    await stores.running()
    await stores.requests.requeue("req_1", 1, Retry(0, ""), [], NOW)
    await stores.later(LEASE_MS)
    await stores.sweeps.expired_leases()
    assert await stores.in_line() == ["req_1"]


async def test_a_request_that_sql_does_not_know_holds_nothing(stores: Stores) -> None:
    request = await stores.accepted()
    ghost = Request(**{**vars(request), "request_id": "req_ghost"})
    await stores.line.place(POOL, [ghost])
    assert await stores.in_line() == ["req_1", "req_ghost"]
    await stores.later(LEASE_MS)
    await stores.sweeps.expired_leases()
    view = await stores.line.view(POOL)
    assert view["running"] == 0
    assert await stores.in_line() == ["req_1"]


async def test_a_deadline_ends_what_waits_and_not_what_runs(stores: Stores) -> None:
    await stores.running(1)
    await stores.accepted(2)
    await stores.later(60_000)
    await stores.sweeps.deadlines()
    assert (await stores.state(1), await stores.state(2)) == (State.RUNNING, State.EXPIRED)
    assert await stores.in_line() == []
    assert [(s.request_id, s.counted) for s in await stores.requests.settlements(9)] == [("req_2", False)]


async def test_a_long_queue_is_compared_a_batch_at_a_time(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.scheduler.sweeps.BATCH", 2)
    for number in range(5):
        await stores.accepted(number, placed=number != 4)
    await stores.later(SETTLED_AGE_MS)
    for _ in range(2):
        await stores.sweeps.missing()
    assert (await stores.line.missing(POOL, ["req_4"])) == ["req_4"], "not reached yet"
    await stores.sweeps.missing()
    assert (await stores.line.missing(POOL, ["req_4"])) == []


async def test_dead_between_the_begin_and_its_script(stores: Stores) -> None:
    """Valkey never heard of attempt 1; the next pop must say that one was begun, or it can never begin another."""
    await stores.accepted()
    await stores.in_line()
    assert await stores.requests.begin("req_1", 0, NOW) is not None
    await stores.later(LEASE_MS)
    await stores.sweeps.expired_leases()
    (popped,) = (await stores.line.dispatch(POOL, 9, None)).request_ids
    assert popped == ("req_1", 1)
    assert await stores.requests.begin(*popped, NOW) is not None


async def test_what_is_placed_again_knows_its_attempts(stores: Stores, valkey: ValkeyServer) -> None:
    """As above, but its lease was lost too, so that it is placed and not put back."""
    await stores.accepted()
    await stores.in_line()
    assert await stores.requests.begin("req_1", 0, NOW) is not None
    valkey.client().delete(f"{line_module.base_key(POOL)}leases")
    await stores.later(SETTLED_AGE_MS)
    await stores.sweeps.missing()
    (popped,) = (await stores.line.dispatch(POOL, 9, None)).request_ids
    assert popped == ("req_1", 1)


async def test_numbers_rise_though_the_log_is_gone_before_the_end_was_told(
    stores: Stores, valkey: ValkeyServer
) -> None:
    """Dead between the ending script and the note of it in SQL, for longer than the log is kept."""
    begun = await stores.running()
    shown = await stores.line.append(POOL, "req_1", 1, [{"type": "delta", "text": str(n)} for n in range(5)])
    (ended,) = await stores.requests.finish("req_1", 1, DONE, [], NOW)
    first = await stores.line.finish(ended)
    assert first > shown
    valkey.client().delete(*valkey.client().keys(f"{line_module.base_key(POOL)}*{begun.request_id}"))
    await stores.later(TELLING_MS)
    await stores.sweeps.untold()
    row = await stores.requests.get("req_1")
    assert row is not None
    assert row.final_seq is not None
    assert row.final_seq > shown, "who saw the deltas and comes back is still told the end"
    assert row.final_seq <= SEQS_PER_EPOCH, "below every number of the next epoch"


async def test_one_end_that_cannot_be_told_holds_up_no_other(stores: Stores) -> None:
    """Its pool was taken out of the configuration."""
    terms = TierTerms("pro", 1, 4, 100)
    await stores.requests.submit(submission(7, tier=terms, pool="retired", max_wait_ms=1_000), NOW)
    await stores.accepted(8, placed=True)
    await stores.requests.cancel("req_8", "ada", erase=False, now_ms=NOW)
    await stores.later(1_000)
    await stores.sweeps.deadlines()
    await stores.later(TELLING_MS)
    await stores.sweeps.untold()
    assert (await stores.state(7), await stores.state(8)) == (State.EXPIRED, State.CANCELLED)
    assert await stores.requests.untold(9, stores.clock.now_ms()) == []
    row = await stores.requests.get("req_7")
    assert row is not None
    assert row.final_seq is not None


async def test_a_lost_attempt_of_a_pool_that_was_taken_away_ends(stores: Stores) -> None:
    terms = TierTerms("pro", 1, 4, 100)
    await stores.requests.submit(submission(7, tier=terms, pool="retired", max_wait_ms=60_000), NOW)
    assert await stores.requests.begin("req_7", 0, NOW) is not None
    await stores.later(STRANDED_MS)
    await stores.sweeps.missing()
    assert await stores.state(7) is State.RUNNING, "a replica with other settings may be at it"
    await stores.later(1)
    await stores.sweeps.missing()
    await stores.sweeps.deadlines()
    assert await stores.state(7) is State.EXPIRED


async def test_a_model_without_a_price_holds_up_no_other(stores: Stores) -> None:
    terms = TierTerms("pro", 1, 4, 100)
    old, _ = await stores.requests.submit(submission(1, tier=terms, model="claude-of-old", max_wait_ms=60_000), NOW)
    await stores.line.place(POOL, [old])
    await stores.accepted(2)
    for number in (1, 2):
        await stores.line.dispatch(POOL, 1, None)
        assert await stores.requests.begin(f"req_{number}", 0, NOW) is not None
    await stores.later(LEASE_MS)
    await stores.sweeps.expired_leases()
    assert (await stores.state(1), await stores.state(2)) == (State.QUEUED, State.QUEUED)


async def test_what_runs_is_looked_at_though_nothing_can_be_placed(stores: Stores, valkey: ValkeyServer) -> None:
    """A full Valkey refuses to place; what must drain it may not wait for that."""
    await stores.running(1)
    await stores.accepted(2, placed=False)
    valkey.client().delete(f"{line_module.base_key(POOL)}leases")
    await stores.later(SETTLED_AGE_MS)

    async def full(pool: str, requests: object) -> int:
        raise LineUnavailable("it is full")

    stores.line.place = full  # type: ignore[method-assign, assignment]
    with pytest.raises(LineUnavailable):
        await stores.sweeps.missing()
    assert await stores.state(1) is State.QUEUED


class HeldHere(NoAttempts):
    """This process runs these."""

    def __init__(self, *held: Request) -> None:
        self._mine = {r.request_id: r for r in held}
        self.abandoned: list[str] = []

    def held(self, pool: str) -> list[tuple[str, int]]:
        return [(r.request_id, r.attempt) for r in self._mine.values() if r.pool == pool]

    def runs(self, request_id: str) -> bool:
        return request_id in self._mine

    def abandon(self, request_id: str) -> None:
        self.abandoned.append(request_id)


async def test_leases_are_renewed_while_the_database_is_away(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = await stores.running()
    elsewhere = replace(begun, request_id="req_9", pool="another")
    monkeypatch.setattr(stores.sweeps, "_attempts", HeldHere(elsewhere, begun))

    async def away(_: object) -> list[Request]:
        raise StoreUnavailable("away")

    monkeypatch.setattr(stores.requests, "get_many", away)
    monkeypatch.setattr(stores.sweeps, "_pools", ["another", POOL])
    monkeypatch.setattr(stores.line, "renew", renewing(stores.line.renew, broken="another"))
    await stores.later(LEASE_MS - 1)
    with contextlib.suppress(StoreUnavailable):
        await stores.sweeps.renew()
    await stores.later(1)
    assert await stores.line.expired(POOL) == []


def renewing(renew: Renew, *, broken: str) -> Renew:
    """In the broken pool every attempt seems over, which must be looked up in SQL."""

    async def either(pool: str, attempts: Iterable[tuple[str, int]]) -> list[str]:
        return ["req_9"] if pool == broken else await renew(pool, attempts)

    return either


async def test_an_attempt_that_a_rebuild_missed_gets_a_lease_and_a_log(
    stores: Stores, valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was queued when the running rows were read, and running when the queued ones were."""
    begun = await stores.running()
    valkey.client().delete(*(k for k in valkey.client().keys("hg:*") if not k.endswith(("meta", "bucket"))))
    monkeypatch.setattr(stores.sweeps, "_attempts", HeldHere(begun))
    await stores.sweeps.renew()
    assert (await stores.line.view(POOL))["running"] == 1
    assert await stores.line.append(POOL, "req_1", 1, [{"type": "delta", "text": "a"}]) > 0


async def test_every_sweep_is_repeated(stores: Stores) -> None:
    """A sweep that works and is never run mends nothing."""
    repeated = {sweep.__name__ for _, sweep in stores.sweeps.every}  # type: ignore[attr-defined]
    assert repeated == {"renew", "expired_leases", "parked", "deadlines", "missing", "untold", "unpaid", "purge"}
