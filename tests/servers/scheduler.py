"""A whole scheduler inside the test: the real process's parts on a real Valkey and SQL, with a generator and a
quota that are real gRPC servers and do as the test says."""

from __future__ import annotations

import asyncio
import contextlib
import random
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from headgate.generator.v1 import generator_pb2 as gen
from headgate.generator.v1 import generator_pb2_grpc
from headgate.quota.v1 import quota_pb2 as quota
from headgate.quota.v1 import quota_pb2_grpc
from headgate.scheduler.v1 import scheduler_pb2 as pb
from headgate.scheduler.v1 import scheduler_pb2_grpc

from services import sql
from services.rpc.channel import open_channel
from services.rpc.server import Server
from services.rpc.status import Refusal
from services.scheduler import __main__ as scheduler_main
from services.scheduler.generators import SERVICE as GENERATOR
from services.scheduler.settings import Settings
from services.templates import VERSION

DEADLINE_S = 20.0
SOURCE = "flowchart TD\n  a --> b"
Steps = Callable[[gen.GenerateRequest], AsyncIterator[gen.GenerateResponse]]


def migrate(url: str) -> None:
    """Brings a database to the newest schema of the scheduler."""
    sql.migrate(url, scheduler_main.MIGRATIONS, version_table=scheduler_main.VERSION_TABLE)


async def within(awaitable: Awaitable[Any], what: str = "it") -> Any:
    """Its value; fails if that takes longer than a test may wait."""
    try:
        return await asyncio.wait_for(awaitable, DEADLINE_S)
    except TimeoutError:
        raise AssertionError(f"{what} did not happen within {DEADLINE_S:g} s") from None


def asked(turn: int = 1) -> gen.GenerateResponse:
    return gen.GenerateResponse(heartbeat=gen.Heartbeat(turn=turn))


def started(turn: int = 1, **limits: int) -> gen.GenerateResponse:
    sent = [gen.ProviderLimit(dimension=f"DIMENSION_{d.upper()}", limit_per_minute=n) for d, n in limits.items()]
    return gen.GenerateResponse(started=gen.Started(turn=turn, limits=sent))


def delta(text: str, offset: int = 0) -> gen.GenerateResponse:
    return gen.GenerateResponse(delta=gen.Delta(text=text, offset=offset, turn=1))


def used(turn: int = 1, input_tokens: int = 100, output_tokens: int = 50) -> gen.GenerateResponse:
    usage = gen.Usage(turn=turn, model="claude-sonnet-5-5", input_tokens=input_tokens, output_tokens=output_tokens)
    return gen.GenerateResponse(usage=usage)


def drawn(source: str = SOURCE) -> gen.GenerateResponse:
    made = {"svg": "<svg/>", "diagram_type": "flowchart", "template_version": VERSION}
    return gen.GenerateResponse(result=gen.Result(source=source, **made))


async def draws(_: gen.GenerateRequest) -> AsyncIterator[gen.GenerateResponse]:
    """A generator to whom nothing bad happens."""
    for step in (started(), delta(SOURCE), used(), drawn()):
        yield step


def upstream(kind: str, *, retry_after_ms: int | None = None, spent: bool = False) -> Refusal:
    """How a generator ends a stream when the provider failed."""
    failure = gen.UpstreamFailure(kind=f"FAILURE_KIND_{kind}", message=f"It was {kind}.", spent_tokens=spent)
    if retry_after_ms is not None:
        failure.retry_after.FromMilliseconds(retry_after_ms)
    return Refusal(grpc.StatusCode.UNAVAILABLE, kind, "It failed.", "generator.headgate", details=(failure,))


class FakeGenerator(generator_pb2_grpc.GeneratorServiceServicer):
    """Runs the test's script; notes what it was asked and which streams were closed on it."""

    def __init__(self, steps: Steps = draws) -> None:
        self.steps = steps
        self.asked: list[gen.GenerateRequest] = []
        self.cancelled: list[str] = []
        self.counted = 0
        self._telling: set[asyncio.Task[None]] = set()
        self.changed = asyncio.Condition()

    async def Generate(self, request: gen.GenerateRequest, context: Any) -> AsyncIterator[gen.GenerateResponse]:
        await self._note(self.asked, request)
        try:
            async for step in self.steps(request):
                yield step
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled.append(request.request_id)
            self._tell_later()
            raise

    async def CountTokens(self, request: gen.CountTokensRequest, context: Any) -> gen.CountTokensResponse:
        self.counted += 1
        return gen.CountTokensResponse(input_tokens=len(request.prompt) // 4)

    def _tell_later(self) -> None:
        # The cancelled call itself cannot wait for the lock any more.
        task = asyncio.get_running_loop().create_task(self._note([], None))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        async with self.changed:
            await within(self.changed.wait_for(condition), what)

    async def _note(self, where: list[Any], what: Any) -> None:
        async with self.changed:
            where.append(what)
            self.changed.notify_all()


class FakeQuota(quota_pb2_grpc.QuotaServiceServicer):
    """Keeps what it is told; refuses while `down`."""

    def __init__(self) -> None:
        self.settlements: list[quota.Settlement] = []
        self.down = False
        self.refuses: set[str] = set()
        self.changed = asyncio.Condition()

    async def Settle(self, request: quota.SettleRequest, context: Any) -> quota.SettleResponse:
        if self.down:
            raise Refusal(grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE", "Away.")
        if any(s.user_id in self.refuses for s in request.settlements):
            raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "Never.", "quota.headgate")
        async with self.changed:
            self.settlements += request.settlements
            self.changed.notify_all()
        return quota.SettleResponse()

    def ends(self, request_id: str) -> list[quota.Settlement]:
        return [s for s in self.settlements if s.request_id == request_id and s.final]

    async def end(self, request_id: str) -> quota.Settlement:
        """The request's settlement, once it has come."""
        async with self.changed:
            await within(self.changed.wait_for(lambda: bool(self.ends(request_id))), "a settlement")
        return self.ends(request_id)[0]


@dataclass
class Scheduler:
    """A running scheduler with its neighbours and its client."""

    stub: Any
    generator: FakeGenerator
    quota: FakeQuota
    environment: dict[str, Any]
    random_fraction: Callable[[], float] = random.random
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    serving: asyncio.Task[None] | None = None
    _count: int = 0

    async def start(self) -> None:
        """Starts it (again) on the same stores."""
        self.stopping = asyncio.Event()
        self.serving = asyncio.create_task(
            scheduler_main.serve(Settings(**self.environment), self.stopping, self.random_fraction)
        )
        await within(self.stub.GetCapacity(pb.GetCapacityRequest(), wait_for_ready=True), "a start")

    async def stop(self) -> None:
        """Stops it as SIGTERM does."""
        self.stopping.set()
        if self.serving:
            await within(self.serving, "a stop")

    def submission(self, **changes: Any) -> pb.SubmitRequest:
        """A request that may be accepted; `prompt`, `user_id`, `outstanding`… change one thing."""
        self._count += 1
        work = {k: changes.pop(k) for k in ("prompt", "diagram_type", "model", "max_tokens") if k in changes}
        terms = {k: changes.pop(k) for k in ("name", "share", "outstanding", "version", "all_models") if k in changes}
        max_wait_ms = changes.pop("max_wait_ms", 3_600_000)
        request = pb.SubmitRequest(
            **{
                "request_id": f"req_{self._count:022d}", "user_id": "ada", "generation": 1, "day": "2026-11-24",
                "work": pb.Work(**{"prompt": "How a user signs in", "max_tokens": 2048, **work}),
                "tier": pb.TierTerms(**{"name": "pro", "version": 1, "share": 4, "outstanding": 1000, **terms}),
                **changes,
            }
        )  # fmt: skip
        request.max_wait.FromMilliseconds(max_wait_ms)
        return request

    async def submit(self, **changes: Any) -> str:
        """Submits and returns the id."""
        answer = await self.stub.Submit(self.submission(**changes))
        return str(answer.request.request_id)

    async def get(self, request_id: str) -> pb.Request:
        return (await self.stub.Get(pb.GetRequest(request_id=request_id, user_id="ada", include_svg=True))).request

    @contextlib.asynccontextmanager
    async def watch(self, *request_ids: str) -> AsyncIterator[Callable[[], Awaitable[pb.Event]]]:
        """Live events of those requests; gives a function that returns the next one."""
        call = self.stub.Watch()
        pending: list[pb.Event] = []

        async def read() -> pb.WatchResponse:
            answer = await within(call.read(), "an event")
            assert answer is not grpc.aio.EOF, "the watch ended"
            pending.extend(answer.events)
            return answer

        async def following() -> pb.Event:
            while not pending:
                await read()
            return pending.pop(0)

        await call.write(pb.WatchRequest(subscribe=request_ids))
        while not (await read()).subscribed:
            pass
        try:
            yield following
        finally:
            call.cancel()

    async def end(self, request_id: str, user_id: str = "ada") -> tuple[pb.Request, list[str]]:
        """Follows a request to its end; the request and the kinds of its events."""
        kinds: list[str] = []
        async with self.watch(request_id) as following:
            ask = pb.ReplayRequest(items=[pb.ReplayItem(request_id=request_id, after=0, user_id=user_id)])
            replayed = (await self.stub.Replay(ask)).replayed[0]
            seen = 0
            for event in replayed.events:
                kinds.append(event.WhichOneof("event"))
                assert event.seq > seen, "numbers rise strictly"
                seen = event.seq
                if event.HasField("ended"):
                    return event.ended, kinds
            while True:
                event = await following()
                if event.seq and event.seq <= seen:
                    continue
                seen = event.seq or seen
                kinds.append(event.WhichOneof("event"))
                if event.HasField("ended"):
                    return event.ended, kinds


@contextlib.asynccontextmanager
async def running_scheduler(
    database_url: str, redis_url: str, *, random_fraction: Callable[[], float] = random.random, **settings: Any
) -> AsyncIterator[Scheduler]:
    """A scheduler on these stores until the block ends; `random_fraction` spreads its backoffs."""
    with tempfile.TemporaryDirectory(prefix="hg-") as folder:
        generator, fake_quota = FakeGenerator(), FakeQuota()
        servers = [Server([GENERATOR], lambda _: None), Server(["headgate.quota.v1.QuotaService"], lambda _: None)]
        generator_pb2_grpc.add_GeneratorServiceServicer_to_server(generator, servers[0].grpc)
        quota_pb2_grpc.add_QuotaServiceServicer_to_server(fake_quota, servers[1].grpc)
        await servers[0].start(f"unix:{folder}/generator.sock")
        await servers[1].start(f"unix:{folder}/quota.sock")
        channel = open_channel(f"unix:{folder}/scheduler.sock")
        environment = {
            "database_url": database_url, "redis_url": redis_url, "quota_address": f"unix:{folder}/quota.sock",
            "generator_addresses": (f"unix:{folder}/generator.sock",), "listen": f"unix:{folder}/scheduler.sock",
            "migrate_at_start": True, "provider_plan": "scale", "drain_ms": 0,
            # Most tests ask the same again and again and want an attempt each time.
            "cache_scope": "off", **settings,
        }  # fmt: skip
        stub = scheduler_pb2_grpc.SchedulerServiceStub(channel)
        scheduler = Scheduler(stub, generator, fake_quota, environment, random_fraction)
        await scheduler.start()
        try:
            yield scheduler
        finally:
            await scheduler.stop()
            await channel.close()
            for server in servers:
                await server.grpc.stop(0)


@contextlib.asynccontextmanager
async def second_replica(first: Scheduler, folder: Path) -> AsyncIterator[Scheduler]:
    """Another scheduler on the same stores, with the same neighbours and an address of its own."""
    address = f"unix:{folder}/replica.sock"
    channel = open_channel(address)
    stub = scheduler_pb2_grpc.SchedulerServiceStub(channel)
    replica = Scheduler(stub, first.generator, first.quota, {**first.environment, "listen": address})
    await replica.start()
    try:
        yield replica
    finally:
        await replica.stop()
        await channel.close()


def sqlite_url(folder: Path) -> str:
    """A database file of a test's own."""
    return f"sqlite:///{folder}/scheduler.db"
