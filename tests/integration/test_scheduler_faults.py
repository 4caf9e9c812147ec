"""What goes wrong between a scheduler's writes and around it: stores that refuse, forget or fall silent."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from headgate.generator.v1 import generator_pb2 as gen
from headgate.scheduler.v1 import scheduler_pb2 as pb

from services.pricing import PriceList
from services.rpc.status import refusal_of
from services.scheduler import feed as feed_module
from services.scheduler import line as line_module
from services.scheduler.attempts import Attempts
from services.scheduler.feed import Feed
from services.scheduler.life import LineUnavailable, Request, State
from services.scheduler.line import Answered, Identity, ValkeyLine, base_key
from services.scheduler.outbox import Outbox
from services.scheduler.rebuild import Rebuilder
from services.scheduler.store import SqlRequests
from services.scheduler.waits import Place
from services.scheduler.watches import Happened, Watches
from services.sql import StoreUnavailable
from tests.servers.quota import VirtualClock
from tests.servers.scheduler import (
    SOURCE,
    Scheduler,
    drawn,
    draws,
    running_scheduler,
    sqlite_url,
    started,
    upstream,
    used,
    within,
)
from tests.servers.valkey import ValkeyServer
from tests.unit.test_scheduler_outcomes import a_request

POOL = "sonnet"


@pytest.fixture
async def scheduler(tmp_path: Path, valkey: ValkeyServer) -> AsyncIterator[Scheduler]:
    async with running_scheduler(sqlite_url(tmp_path), valkey.url) as running:
        yield running


async def test_a_valkey_that_refuses_to_write_is_one_that_is_away(tmp_path: Path, own_valkey: ValkeyServer) -> None:
    """After a failover the old primary answers as a read-only replica; a full disk refuses in the same way."""
    async with running_scheduler(sqlite_url(tmp_path), own_valkey.url) as scheduler:
        await scheduler.end(await scheduler.submit())
        own_valkey.client().execute_command("REPLICAOF", "127.0.0.1", "1")
        request_id = await scheduler.submit()
        assert scheduler.serving is not None
        assert not scheduler.serving.done(), "it accepts and waits"
        own_valkey.client().execute_command("REPLICAOF", "NO", "ONE")
        ended, _ = await scheduler.end(request_id)
        assert ended.state == pb.STATE_COMPLETED


async def test_a_burst_waits_for_a_connection(valkey: ValkeyServer) -> None:
    identity = Identity(1, valkey.client().info("server")["run_id"])
    client = line_module.connect(valkey.url, identity)
    valkey.client().hset(f"{base_key(POOL)}meta", "epoch", "1")
    line = ValkeyLine(client, identity)
    views = await asyncio.gather(*(line.view(POOL) for _ in range(300)))
    assert len(views) == 300
    await client.aclose()


async def test_limits_that_headers_named_outlive_a_rebuild(tmp_path: Path, own_valkey: ValkeyServer) -> None:
    async def steps(_: gen.GenerateRequest) -> AsyncIterator[gen.GenerateResponse]:
        for step in (started(requests=777), used(), drawn()):
            yield step

    async with running_scheduler(sqlite_url(tmp_path), own_valkey.url) as scheduler:
        scheduler.generator.steps = steps
        await scheduler.end(await scheduler.submit())
        own_valkey.kill()
        own_valkey.lose_data()
        own_valkey.start()
        await scheduler.end(await scheduler.submit())
        pools = {p.pool: p for p in (await scheduler.stub.GetCapacity(pb.GetCapacityRequest())).pools}
        assert [limit.limit for limit in pools[POOL].limits if limit.dimension == "requests"] == [777]


async def test_the_days_requests_are_counted_again_after_a_rebuild(tmp_path: Path, own_valkey: ValkeyServer) -> None:
    async with running_scheduler(sqlite_url(tmp_path), own_valkey.url, provider_rpd=5) as scheduler:
        for _ in range(2):
            await scheduler.end(await scheduler.submit())
        own_valkey.kill()
        own_valkey.lose_data()
        own_valkey.start()
        await scheduler.end(await scheduler.submit())
    assert own_valkey.client().hget(f"{base_key(POOL)}bucket", "today") == "3"


async def test_an_answer_is_kept_though_its_last_words_could_not_be_shown(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> bool:
        raise StoreUnavailable("away")

    monkeypatch.setattr(SqlRequests, "deliver", away)
    ended, _ = await scheduler.end(await scheduler.submit())
    assert (ended.state, ended.result, ended.attempts) == (pb.STATE_COMPLETED, SOURCE, 1)


async def test_what_a_cancelled_attempt_used_is_charged_while_it_rests_the_pool(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    resting, door = asyncio.Event(), asyncio.Event()

    async def answer(*arguments: object) -> Answered:
        if arguments[4] == "refused":
            resting.set()
            await door.wait()
        return Answered(0, 0, False, {})

    async def steps(_: gen.GenerateRequest) -> AsyncIterator[gen.GenerateResponse]:
        yield started()
        yield used()
        raise upstream("RATE_LIMITED", retry_after_ms=1000)

    monkeypatch.setattr(ValkeyLine, "answer", answer)
    scheduler.generator.steps = steps
    request_id = await scheduler.submit()
    await within(resting.wait(), "a rest")
    async with scheduler.watch(request_id) as following:
        await scheduler.stub.Cancel(pb.CancelRequest(request_id=request_id, user_id="ada"))
        while not (await following()).HasField("ended"):
            pass
    door.set()
    async with scheduler.quota.changed:
        charged = scheduler.quota.changed.wait_for(lambda: any(s.charges for s in scheduler.quota.settlements))
        await within(charged, "a charge")


async def test_no_more_is_dispatched_than_workers_are_free(
    tmp_path: Path, valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the begin and its worker an attempt takes a worker all the same."""
    door, begun, start = asyncio.Event(), asyncio.Semaphore(0), ValkeyLine.start

    async def slow(*arguments: Any) -> int:
        begun.release()
        await door.wait()
        return await start(*arguments)

    monkeypatch.setattr(ValkeyLine, "start", slow)
    async with running_scheduler(sqlite_url(tmp_path), valkey.url, generator_slots=2) as scheduler:
        ids = [await scheduler.submit() for _ in range(2)]
        for _ in ids:
            await within(begun.acquire(), "a begin")
        ids += [await scheduler.submit() for _ in range(20)]
        door.set()
        for request_id in ids:
            ended, kinds = await scheduler.end(request_id)
            assert (ended.state, ended.attempts) == (pb.STATE_COMPLETED, 1), kinds


async def test_a_full_queue_that_emptied_takes_requests_again(tmp_path: Path, valkey: ValkeyServer) -> None:
    door = asyncio.Event()

    async def steps(request: gen.GenerateRequest) -> AsyncIterator[gen.GenerateResponse]:
        await door.wait()
        async for step in draws(request):
            yield step

    async with running_scheduler(sqlite_url(tmp_path), valkey.url, generator_slots=1, queue_length=2) as scheduler:
        scheduler.generator.steps = steps
        ids = [await scheduler.submit()]
        await scheduler.generator.until(lambda: len(scheduler.generator.asked) == 1, "an attempt")
        ids += [await scheduler.submit() for _ in range(2)]
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await scheduler.submit()
        assert refusal_of(refused.value).reason == "QUEUE_FULL"
        door.set()
        for request_id in ids:
            # Nobody looks at the queue meanwhile: not even by a Get.
            await scheduler.quota.end(request_id)
        await scheduler.end(await scheduler.submit())


async def test_nothing_is_accepted_while_it_would_wait_longer_than_is_allowed(
    tmp_path: Path, valkey: ValkeyServer
) -> None:
    limits = {"provider_rpm": 1, "longest_wait_ms": 150_000}
    async with running_scheduler(sqlite_url(tmp_path), valkey.url, **limits) as scheduler:
        accepted, refusal = 0, None
        while refusal is None and accepted < 50:
            try:
                await scheduler.submit()
                accepted += 1
            except grpc.aio.AioRpcError as error:
                refusal = refusal_of(error)
        assert refusal is not None
        assert refusal.reason == "QUEUE_FULL"
        assert int(refusal.metadata["estimated_wait_ms"]) > 150_000
        assert refusal.retry_after_ms == 60_000
        assert 2 <= accepted <= 5, "one a minute"


@pytest.mark.parametrize(("characters", "fits", "asks"), [(900, True, 0), (3_000, True, 1), (6_000, False, 1)])
async def test_only_the_providers_count_makes_a_request_too_large(
    tmp_path: Path, valkey: ValkeyServer, characters: int, fits: bool, asks: int
) -> None:
    """Of 1,400 input tokens a minute; the generator of these tests counts four characters as one."""
    async with running_scheduler(sqlite_url(tmp_path), valkey.url, provider_itpm=1_400) as scheduler:
        await scheduler.end(await scheduler.submit())
        if fits:
            await scheduler.submit(prompt="x" * characters)
        else:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await scheduler.submit(prompt="x" * characters)
            assert refusal_of(refused.value).reason == "TOO_LARGE"
        assert scheduler.generator.counted == asks


async def test_an_event_that_nobody_understands_stops_nothing(scheduler: Scheduler, valkey: ValkeyServer) -> None:
    for payload in ("", "nonsense", "x req_1 {}", '7 req_1 {"type"', "7 req_1 {}", "7 req_1 []"):
        assert valkey.client().publish(f"{base_key(POOL)}events", payload) >= 1
    ended, _ = await scheduler.end(await scheduler.submit())
    assert ended.state == pb.STATE_COMPLETED
    assert scheduler.serving is not None
    assert not scheduler.serving.done()


class Proxy:
    """Stands before Valkey; what is connected when it `stall`s hears nothing more, and is not told."""

    def __init__(self, server: ValkeyServer) -> None:
        self._server = server
        self._stalled: set[asyncio.StreamWriter] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def stall(self) -> None:
        self._stalled |= self._writers

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_unix_connection(f"{self._server.folder}/valkey.sock")
        self._writers.add(writer)
        for source, sink in ((reader, up_writer), (up_reader, writer)):
            task = asyncio.create_task(self._copy(source, sink, writer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _copy(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, client: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(OSError):
            while some := await source.read(65536):
                if client not in self._stalled:
                    sink.write(some)
                    await sink.drain()
        sink.close()


class Heard:
    """A listener that notes what it hears."""

    def __init__(self) -> None:
        self.gaps, self.events = asyncio.Semaphore(0), asyncio.Semaphore(0)

    def on_event(self, pool: str, request_id: str, seq: int, event: dict[str, Any]) -> None:
        self.events.release()

    def on_gap(self) -> None:
        self.gaps.release()


async def test_a_feed_that_fell_silent_is_opened_anew(
    tmp_path: Path, valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that vanished ends no connection: without a question nobody would ever notice."""
    monkeypatch.setattr(feed_module, "SILENCE_S", 0.2)
    proxy = Proxy(valkey)
    server = await asyncio.start_unix_server(proxy.connected, f"{tmp_path}/proxy.sock")
    identity = Identity(1, valkey.client().info("server")["run_id"])
    client = line_module.connect(f"unix://{tmp_path}/proxy.sock", identity)
    heard, stopping = Heard(), asyncio.Event()
    feed = Feed(ValkeyLine(client, identity), [POOL], heard, lambda _: None)
    following = asyncio.create_task(feed.run(stopping))
    await within(heard.gaps.acquire(), "a subscription")
    proxy.stall()
    await within(heard.gaps.acquire(), "another subscription")
    valkey.client().publish(f"{base_key(POOL)}events", '1 req_1 {"type": "delta"}')
    await within(heard.events.acquire(), "an event")
    stopping.set()
    await within(following, "an end")
    await client.aclose()
    server.close()


class Rows:
    """A store of requests that answers what the test says."""

    def __init__(self, *rows: Any) -> None:
        self.rows, self.failures = rows, 0
        self.read = asyncio.Event()
        self.door = asyncio.Event()
        self.door.set()

    async def get_many(self, _: Any) -> list[Any]:
        rows = list(self.rows)
        self.read.set()
        await self.door.wait()
        if self.failures:
            self.failures -= 1
            raise StoreUnavailable("away")
        return rows

    async def unfinished(self, *_: Any) -> list[Any]:
        return []


class NoLog:
    """A log that is gone."""

    async def events(self, *_: Any) -> list[Any]:
        return []


def watches_of(rows: Any, places: Any, clock: VirtualClock) -> Watches:
    return Watches(rows, NoLog(), places, clock=clock, on_ended=lambda _: None)


async def nowhere(_pool: str, _ids: Any) -> dict[str, Place]:
    return {}


class Sent(asyncio.Queue[Happened]):
    """A stream that is always read."""

    def push(self, happened: Happened) -> None:
        self.put_nowait(happened)


async def test_an_end_in_a_gap_is_told_though_the_database_was_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.scheduler.watches.STATUS_MS", 1)
    row = a_request(request_id="req_1", state=State.COMPLETED, final_seq=9)
    rows, clock, sent, stopping = Rows(row), VirtualClock(), Sent(), asyncio.Event()
    watches = watches_of(rows, nowhere, clock)
    await watches.add(sent, ["req_1"])  # type: ignore[arg-type]
    rows.failures = 1
    watches.on_gap()
    running = asyncio.create_task(watches.run(stopping))
    await within(clock.until_asleep(), "a failure")
    clock.advance(1)
    assert isinstance((await within(sent.get(), "the end")).event, Request)
    stopping.set()
    await within(running, "an end")


async def test_places_are_told_though_the_clock_was_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.scheduler.watches.STATUS_MS", 10)
    row = a_request(request_id="req_1", state=State.QUEUED)
    clock, stopping, asked = VirtualClock(), asyncio.Event(), asyncio.Semaphore(0)

    async def places(_pool: str, _ids: Any) -> dict[str, Place]:
        asked.release()
        return {}

    watches = watches_of(Rows(row), places, clock)
    await watches.add(Sent(), ["req_1"])  # type: ignore[arg-type]
    running = asyncio.create_task(watches.run(stopping))
    await within(asked.acquire(), "a look")
    clock.advance(-3_600_000)
    await within(asked.acquire(), "another look")
    stopping.set()
    await within(running, "an end")


async def test_an_attempt_that_begins_while_it_is_looked_up_has_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.scheduler.watches.STATUS_MS", 1)
    queued = [a_request(request_id=f"req_{n}", state=State.QUEUED) for n in (1, 2)]
    rows, sent, stopping = Rows(*queued), Sent(), asyncio.Event()

    async def paused(_pool: str, ids: Any) -> dict[str, Place]:
        return {request_id: Place(1, 100, "storage") for request_id in ids}

    watches = watches_of(rows, paused, VirtualClock())
    rows.read.clear()
    rows.door.clear()
    adding = asyncio.create_task(watches.add(sent, ["req_1", "req_2"]))  # type: ignore[arg-type]
    await within(rows.read.wait(), "a look")
    watches.on_event(POOL, "req_1", 1, {"type": "processing", "attempt": 1})
    rows.door.set()
    await adding
    running = asyncio.create_task(watches.run(stopping))
    told: list[Happened] = []
    while not any(happened.request_id == "req_2" for happened in told):
        told.append(await within(sent.get(), "a place"))
    stopping.set()
    await within(running, "an end")
    told += [sent.get_nowait() for _ in range(sent.qsize())]
    assert [h.request_id for h in told if isinstance(h.event, Place)] == ["req_2"]


class Identities:
    """What SQL knows of Valkey, in memory."""

    def __init__(self) -> None:
        self.epoch, self.run_id, self.locked_until_ms = 1, "another", 0

    async def read(self) -> tuple[int, str, int]:
        return self.epoch, self.run_id, self.locked_until_ms

    async def claim(self, epoch: int, now_ms: int) -> bool:
        if epoch != self.epoch or self.locked_until_ms >= now_ms:
            return False
        self.epoch, self.run_id, self.locked_until_ms = epoch + 1, "", now_ms + 30_000
        return True

    async def adopt(self, epoch: int, run_id: str) -> bool:
        if epoch != self.epoch:
            return False
        self.run_id, self.locked_until_ms = run_id, 0
        return True


async def put_limits(line: ValkeyLine) -> None:
    await line.set_limits(POOL, "plan", {"requests": 60})


def rebuilder(url: str, identity: Identity, store: Any, requests: Any, limits: Any = put_limits) -> Rebuilder:
    clock = VirtualClock()
    return Rebuilder(url, [POOL], identity, store, requests, clock=clock, set_limits=limits)


async def test_a_valkey_full_of_an_old_order_can_be_rebuilt(own_valkey: ValkeyServer) -> None:
    client, identity = own_valkey.client(), Identity()
    for n in range(200):
        client.set(f"{base_key(POOL)}log:{n}", "x" * 20_000)
    client.config_set("maxmemory", client.info("memory")["used_memory"] - 1_000_000)
    assert await rebuilder(own_valkey.url, identity, Identities(), Rows()).ensure()
    assert identity.epoch == 2


class Accepted(Rows):
    """Rows in order of acceptance."""

    async def unfinished(self, state: State, after: int, many: int) -> list[Any]:
        return [row for row in self.rows if row.state is state and row.acceptance > after][:many]


async def test_a_valkey_too_small_for_the_whole_queue_holds_its_beginning(own_valkey: ValkeyServer) -> None:
    """The sweep places the rest as room comes. Waiting for it all, nothing would ever be served again."""
    rows = [a_request(request_id=f"req_{n:04d}", user_id=f"u{n}", acceptance=n) for n in range(1, 4_001)]
    rows += [a_request(request_id="req_runs", state=State.RUNNING, attempt=1, acceptance=4_001)]
    client, identity = own_valkey.client(), Identity()
    client.config_set("maxmemory", client.info("memory")["used_memory"] + 1_500_000)
    assert await rebuilder(own_valkey.url, identity, Identities(), Accepted(*rows)).ensure()
    line = ValkeyLine(line_module.connect(own_valkey.url, identity), identity)
    view = await line.view(POOL)
    assert 500 <= view["tiers"]["free"]["queued"] <= 3_500
    assert view["running"] == 1


async def test_an_old_copy_that_carries_the_current_epoch_is_rebuilt(own_valkey: ValkeyServer) -> None:
    """It comes back as it was a while ago, under another run id."""
    identity, store = Identity(), Identities()
    await rebuilder(own_valkey.url, identity, store, Rows()).ensure()
    line = ValkeyLine(line_module.connect(own_valkey.url, identity), identity)
    await line.place(POOL, [a_request(request_id="req_old")])
    own_valkey.kill()
    own_valkey.start()
    assert own_valkey.client().hget(f"{base_key(POOL)}meta", "epoch") == "2", "its copy was kept"
    with pytest.raises(LineUnavailable):
        await line.view(POOL)
    assert await rebuilder(own_valkey.url, identity, store, Rows()).ensure()
    assert identity.epoch == 3
    assert await line.missing(POOL, ["req_old"]) == ["req_old"]


async def test_a_rebuild_that_failed_is_tried_again_at_once(own_valkey: ValkeyServer) -> None:
    async def broken(_: ValkeyLine) -> None:
        raise LineUnavailable("away for a moment")

    identity, store = Identity(), Identities()
    with pytest.raises(LineUnavailable):
        await rebuilder(own_valkey.url, identity, store, Rows(), broken).ensure()
    assert await rebuilder(own_valkey.url, identity, store, Rows()).ensure()


async def test_who_lost_the_rebuild_to_another_is_not_ready(own_valkey: ValkeyServer) -> None:
    identity, store = Identity(), Identities()

    async def overtaken(line: ValkeyLine) -> None:
        store.epoch += 1

    assert not await rebuilder(own_valkey.url, identity, store, Rows(), overtaken).ensure()


async def test_when_a_loop_dies_nothing_new_is_begun(
    tmp_path: Path, valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    dies, door = asyncio.Event(), asyncio.Event()

    async def run(_self: Outbox, _stopping: asyncio.Event) -> None:
        await dies.wait()
        raise RuntimeError("nobody foresaw this")

    async def steps(request: gen.GenerateRequest) -> AsyncIterator[gen.GenerateResponse]:
        await door.wait()
        async for step in draws(request):
            yield step

    monkeypatch.setattr(Outbox, "run", run)
    settings = {"generator_slots": 1, "drain_ms": 20_000}
    with contextlib.suppress(RuntimeError):
        async with running_scheduler(sqlite_url(tmp_path), valkey.url, **settings) as scheduler:
            scheduler.generator.steps = steps
            for _ in range(3):
                await scheduler.submit()
            await scheduler.generator.until(lambda: len(scheduler.generator.asked) == 1, "an attempt")
            dies.set()
            channel_closed = pytest.raises(grpc.aio.AioRpcError)
            with channel_closed:
                while True:
                    await scheduler.stub.GetCapacity(pb.GetCapacityRequest())
            door.set()
            assert scheduler.serving is not None
            with pytest.raises(RuntimeError, match="foresaw"):
                await within(scheduler.serving, "an end")
            scheduler.serving = None
            assert len(scheduler.generator.asked) == 1


class Beginning:
    """A store and a line in which an attempt begins only when the door opens."""

    def __init__(self) -> None:
        self.door, self.requeued = asyncio.Event(), asyncio.Event()

    async def begin(self, *_: Any) -> Request:
        await self.door.wait()
        return a_request(state=State.RUNNING, attempt=1)

    async def requeue(self, *_: Any) -> None:
        self.requeued.set()

    async def start(self, *_: Any) -> int:
        await asyncio.sleep(0)
        return 1

    async def generate(self, *_: Any) -> AsyncIterator[Any]:
        raise AssertionError("nothing may be sent any more")
        yield


async def test_what_begins_while_the_process_stops_goes_back_in_line() -> None:
    stores: Any = Beginning()
    attempts = Attempts(
        stores, stores, stores, stores, PriceList({}), clock=VirtualClock(), random_fraction=lambda: 0.5, timeout_ms=1,
        on_settlement=lambda: None, on_refusal=lambda _: None,
    )  # fmt: skip
    attempts.begin("req_1", 0)
    draining = asyncio.create_task(attempts.drain(0))
    await asyncio.sleep(0)
    stores.door.set()
    await within(draining, "a drain")
    assert stores.requeued.is_set()
