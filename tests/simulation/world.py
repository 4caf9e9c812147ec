"""The whole of Headgate in virtual time, put together by the mains that production runs.

`run(scenario)` starts quota, schedulers, workers and the gateway's hub as processes of one virtual loop, lets users
and faults have their way, waits until nothing moves any more, and returns what is left for the checker.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import random
import sqlite3
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import grpc
from headgate.generator.v1.generator_pb2_grpc import add_GeneratorServiceServicer_to_server
from redis.asyncio import connection as redis_connection
from sqlalchemy.engine import Engine

from services import sql
from services.quota import __main__ as quota_main
from services.quota.settings import Settings as QuotaSettings
from services.scheduler import __main__ as scheduler_main
from services.scheduler import generators as generators_module
from services.scheduler.life import LineUnavailable
from services.scheduler.providers import Limits, Plan, Provider
from services.scheduler.settings import Settings
from services.sql import StoreUnavailable
from tests.simulation.faults import Faults
from tests.simulation.history import History
from tests.simulation.loop import Dead, OutOfTime, Process, ProcessClock, VirtualLoop, process
from tests.simulation.network import Network, SimChannel, SimServer
from tests.simulation.provider import MODEL, ClaudeApi, Storm, Worker
from tests.simulation.scenario import Event, Scenario
from tests.simulation.stores import SimDatabase, engine_on, migrated
from tests.simulation.users import Gateway
from tests.simulation.valkey import SimConnection, SimValkey

POOL = "sonnet"
STILL_EVERY_S = 5.0
AFTERWARDS_S = 66.0
EXPECTED = (Dead, StoreUnavailable, LineUnavailable)
"""What a process may say went wrong while everything around it fails."""


@dataclass
class World:
    """A run, while it goes on and when it is over."""

    scenario: Scenario
    loop: VirtualLoop
    history: History
    faults: Faults
    valkey: SimValkey
    network: Network
    api: ClaudeApi
    databases: dict[str, sqlite3.Connection]
    engines: dict[str, Engine]
    gateway: Gateway
    processes: dict[str, Process] = field(default_factory=dict)
    stopping: dict[str, asyncio.Event] = field(default_factory=dict)
    workers: dict[str, Worker] = field(default_factory=dict)
    skewed: bool = False
    """Whether a clock was ever set: then deadlines are not what the true time says."""
    lives: int = 0
    quiet_s: float | None = None
    """When nothing moved any more."""

    def rows(self, database: str, query: str, *values: Any) -> list[sqlite3.Row]:
        """What a store holds, read behind the product's back."""
        connection = self.databases[database]
        connection.row_factory = sqlite3.Row
        try:
            return connection.execute(query, values).fetchall()
        finally:
            connection.row_factory = None

    def one(self, database: str, query: str, *values: Any) -> Any:
        return self.rows(database, query, *values)[0][0]

    # Lives of processes

    def start(self, name: str, serve: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> None:
        """A new life of a program."""
        life = Process(name)
        life.skew_ms = self.processes[name].skew_ms if name in self.processes else 0
        self.processes[name], self.stopping[name] = life, asyncio.Event()
        self.lives += 1
        life.on_death.append(lambda: self._later(life, serve))
        with life.current():
            task = life.spawn(serve(self.stopping[name]))
        task.add_done_callback(lambda done: self._over(life, done, serve))

    def _later(self, life: Process, serve: Any) -> None:
        self.loop.call_later(self.faults.dice.uniform(0.3, 6.0), self._again, life, serve)

    def _again(self, life: Process, serve: Any) -> None:
        if self.processes[life.name] is life:
            self.start(life.name, serve)

    def _over(self, life: Process, task: asyncio.Task[None], serve: Any) -> None:
        if life.alive and not task.cancelled():
            error = task.exception()
            if error is not None and not isinstance(error, EXPECTED):
                self.history.violation(f"{life.name} died of {error!r}")
            # Stopped in good order, or dead: what runs it starts it again.
            life.kill()

    # What goes wrong

    async def play(self, event: Event) -> None:
        """One fault at its moment."""
        await asyncio.sleep(max(0.0, event.at_s - self.loop.time()))
        self.faults.fault(f"{event.what}: all, {event.for_s:.1f} s")
        until_s = self.loop.time() + event.for_s
        kind, _, what = event.what.partition(" is ")
        if what == "away":
            target = {"scheduler's sql": "scheduler-sql", "quota's sql": "quota-sql"}.get(kind, kind)
            self.faults.away[target] = until_s
        elif what in ("killed", "stopped"):
            name = self._whom(kind, event)
            self.processes[name].kill() if what == "killed" else self.stopping[name].set()
        elif event.what.startswith("valkey"):
            await self._hurt_valkey(event, until_s)
        elif event.what == "scheduler freezes":
            self.processes[self._whom("scheduler", event)].frozen_until_s = until_s
        elif event.what == "worker freezes":
            worker = self.workers[self._whom("worker", event)]
            worker.frozen = True
            await asyncio.sleep(event.for_s)
            worker.frozen = False
        elif event.what == "clock steps":
            self.skewed = True
            step_ms = int(
                self.faults.dice.choice((-1, 1)) * event.for_s * self.faults.dice.choice((100, 1_000, 10_000))
            )
            self.processes[self._whom("scheduler", event)].skew_ms += step_ms
        elif event.what in ("overload", "errors", "answers are cut"):
            status = {"overload": 529, "errors": 500, "answers are cut": 200}[event.what]
            part = self.faults.dice.choice((0.3, 0.7, 1.0))
            self.api.storms.append(Storm(self.loop.time(), until_s, status, part))
        elif event.what == "limits change":
            factor = self.faults.dice.choice((0.5, 2.0))
            self.api.change({name: max(1.0, limit * factor) for name, limit in self.api.limits.items()})
        elif event.what == "tier changes":
            user = self.faults.dice.choice(list(self.scenario.users))
            await self.gateway.set_tier(user, self.faults.dice.choice(sorted(set(self.scenario.users.values()))))
        else:
            raise AssertionError(event.what)

    async def _hurt_valkey(self, event: Event, until_s: float) -> None:
        match event.what:
            case "valkey loses everything":
                self.valkey.lose_everything()
            case "valkey restarts":
                self.valkey.restart()
            case "valkey comes back old":
                copy = self.valkey.copy()
                await asyncio.sleep(self.faults.dice.choice((0.05, 1.0, 1.0, 10.0)))
                self.valkey.come_back_as(copy)
            case "valkey stalls":
                self.valkey.stalled_until_s = until_s
            case "valkey's clock steps":
                self.skewed = True
                self.valkey.skew_ms += int(self.faults.dice.choice((-1, 1)) * event.for_s * 300)

    def _whom(self, kind: str, event: Event) -> str:
        names = [name for name in self.processes if name.startswith(kind)]
        return names[int(event.whom) % len(names)]

    # Until nothing moves

    async def until_quiet(self) -> bool:
        """Whether everything came to rest in time."""
        s = self.scenario
        end_s = max(s.last_arrival_s, s.end_s) + s.patience_s
        while self.loop.time() < end_s:
            await asyncio.sleep(STILL_EVERY_S)
            if self.loop.time() > s.last_arrival_s and self.loop.time() > s.end_s and not self.moving():
                self.quiet_s = self.loop.time()
                # What is told once more, and what expires a minute after its end.
                await asyncio.sleep(AFTERWARDS_S)
                return not self.moving()
        return False

    def moving(self) -> list[str]:
        """What is not done yet."""
        found = {
            "requests that have not ended": ("scheduler", "scheduler_requests WHERE state IN ('queued', 'running')"),
            "ends that were not told": ("scheduler", "scheduler_requests WHERE NOT told"),
            "settlements under way": ("scheduler", "scheduler_outbox"),
            "reservations under way": ("quota", "quota_reservations WHERE state = 'pending'"),
            "tier changes under way": ("quota", "quota_outbox"),
        }
        counts = {what: self.one(db, f"SELECT count(*) FROM {where}") for what, (db, where) in found.items()}
        watching = sum(1 for sent in self.gateway.sent if sent.accepted_s is not None and not sent.closed)
        counts["users who were not told the end"] = watching
        return [f"{count} {what}" for what, count in counts.items() if count]


def run(scenario: Scenario, valkey_socket: Path, folder: Path) -> World:
    """One run, to its end. The same scenario gives the same history."""
    state = random.getstate()
    random.seed(scenario.seed)
    gc.disable()
    loop, history = VirtualLoop(), History()
    asyncio.set_event_loop(loop)
    try:
        world = _world(scenario, loop, history, valkey_socket, folder)
        with _patched(world), _logged(world):
            _run(world)
    finally:
        asyncio.set_event_loop(None)
        _close(loop)
        gc.enable()
        random.setstate(state)
    return world


def _run(world: World) -> None:
    loop = world.loop
    loop.set_exception_handler(lambda _, context: _unforeseen(world, context))
    loop.end_at(10 * world.scenario.patience_s)
    try:
        loop.run_until_complete(_all(world))
    except OutOfTime as error:
        world.history.violation(f"the run never ended: {error}")
    world.history.violations += [f"nobody foresaw {error}" for error in world.network.unforeseen]


async def _all(world: World) -> None:
    s, outside = world.scenario, Process("outside")
    with outside.current():
        outside.spawn(world.valkey.expire())
        world.start("quota", _serving_quota(world))
        for number in range(1, s.workers + 1):
            world.start(f"worker-{number}", _serving_worker(world, f"worker-{number}"))
        await asyncio.sleep(0.1)
        with world.gateway.process.current():
            for user, tier in s.users.items():
                await world.gateway.create_user(user, tier)
        for number in range(1, s.schedulers + 1):
            world.start(f"scheduler-{number}", _serving_scheduler(world, f"scheduler-{number}"))
        world.gateway.process.spawn(world.gateway.run())
        doing = [world.gateway.process.spawn(world.gateway.play(arrival)) for arrival in s.arrivals]
        with world.gateway.process.current():
            doing += [outside.spawn(_as_gateway(world, event)) for event in s.events]
        await asyncio.gather(*doing)
        if not await world.until_quiet():
            world.history.violations += [f"still {what}" for what in world.moving()]
    for life in [*world.processes.values(), world.gateway.process, outside]:
        life.on_death.clear()
        life.kill()
    await asyncio.sleep(1.0)


async def _as_gateway(world: World, event: Event) -> None:
    if event.what == "tier changes":
        await world.gateway.process.spawn(world.play(event))
    else:
        await world.play(event)


def _serving_scheduler(world: World, name: str) -> Callable[[asyncio.Event], Coroutine[Any, Any, None]]:
    s = world.scenario
    settings = Settings(
        database_url="sim://scheduler", redis_url=f"unix://{name}.sock", quota_address="quota",
        generator_addresses=tuple(f"worker-{n}" for n in range(1, s.workers + 1)), listen="scheduler",
        provider_plan="sim", model=MODEL, generator_slots=s.slots, drain_ms=5_000,
        max_spend_nano_usd_per_day=s.max_spend_nano_usd,
    )  # fmt: skip
    return lambda stopping: scheduler_main.serve(settings, stopping, world.faults.dice.random)


def _serving_quota(world: World) -> Callable[[asyncio.Event], Coroutine[Any, Any, None]]:
    settings = QuotaSettings(
        database_url="sim://quota", secret=b"a secret of the simulation, long enough", scheduler_address="scheduler",
        listen="quota",
    )  # fmt: skip
    return lambda stopping: quota_main.serve(settings, stopping)


def _serving_worker(world: World, name: str) -> Callable[[asyncio.Event], Coroutine[Any, Any, None]]:
    async def serve(stopping: asyncio.Event) -> None:
        server: Any = SimServer([], lambda _: None)
        worker = world.workers[name] = Worker(world.api, process(), world.scenario.slots)
        add_GeneratorServiceServicer_to_server(worker, server.grpc)
        await server.start(name)
        await stopping.wait()
        await server.drain(grace_s=20.0)

    return serve


def _world(scenario: Scenario, loop: VirtualLoop, history: History, socket: Path, folder: Path) -> World:
    seed = scenario.seed
    faults = Faults(
        loop, random.Random(f"faults {seed}"), history, scenario.rates, scenario.begin_s, scenario.end_s
    )  # fmt: skip
    databases = {
        "scheduler": migrated("scheduler", scheduler_main.MIGRATIONS, scheduler_main.VERSION_TABLE, folder),
        "quota": migrated("quota", quota_main.MIGRATIONS, quota_main.VERSION_TABLE, folder),
    }
    network = Network(faults)
    SimServer.network = SimChannel.network = network
    api = ClaudeApi(faults, random.Random(f"provider {seed}"), dict(scenario.limits), scenario.lengths)
    valkey = SimValkey(str(socket), faults)
    SimConnection.server = valkey
    gateway = Gateway(Process("gateway"), faults, random.Random(f"users {seed}"))
    engines = {name: engine_on(connection) for name, connection in databases.items()}
    return World(scenario, loop, history, faults, valkey, network, api, databases, engines, gateway)


def _provider(scenario: Scenario) -> Provider:
    limits = Limits({name: int(limit) for name, limit in scenario.limits.items()})
    return Provider("sim", {POOL: (MODEL,)}, {"sim": Plan("sim", {POOL: limits})})


@contextlib.contextmanager
def _patched(world: World) -> Iterator[None]:
    """The mains find virtual servers, channels, stores and clocks where they look for real ones."""

    def database(url: str) -> SimDatabase:
        name = url.removeprefix("sim://")
        return SimDatabase(f"{name}-sql", world.engines[name], world.faults)

    def clock() -> ProcessClock:
        return ProcessClock(world.loop, process())

    async def prepared(*_: Any, **__: Any) -> None: ...

    with contextlib.ExitStack() as stack:
        for owner, name, stand_in in (
            (sql, "connect", database), (sql, "migrate", _nothing), (sql, "require_schema", _nothing),
            (quota_main, "_prepare_schema", prepared), (quota_main, "SystemClock", clock),
            (quota_main, "open_channel", SimChannel), (quota_main, "Server", SimServer),
            (scheduler_main, "SystemClock", clock), (scheduler_main, "open_channel", SimChannel),
            (scheduler_main, "Server", SimServer),
            (scheduler_main, "read_provider", lambda *_: _provider(world.scenario)),
            (generators_module, "open_channel", SimChannel),
            (redis_connection, "UnixDomainSocketConnection", SimConnection),
        ):  # fmt: skip
            stack.enter_context(mock.patch.object(owner, name, stand_in))
        yield


def _nothing(*_: Any, **__: Any) -> None: ...


class _Ears(logging.Handler):
    """What the product itself says went wrong."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.WARNING)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        life = process().name
        self._world.faults.note(f"{life} says: {record.getMessage()}")
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and not isinstance(error, EXPECTED):
            self._world.history.violation(f"{life} says: {record.getMessage()}: {error!r}")


@contextlib.contextmanager
def _logged(world: World) -> Iterator[None]:
    log, ears = logging.getLogger("services"), _Ears(world)
    before = log.propagate, log.level
    log.propagate = False
    log.setLevel(logging.WARNING)
    log.addHandler(ears)
    try:
        yield
    finally:
        log.removeHandler(ears)
        log.propagate, level = before
        log.setLevel(level)


def _unforeseen(world: World, context: dict[str, Any]) -> None:
    error = context.get("exception")
    if error is not None and not isinstance(error, (*EXPECTED, grpc.aio.AioRpcError)):
        world.history.violation(f"a task failed and nobody looked: {context['message']}: {error!r}")


def _close(loop: VirtualLoop) -> None:
    for task in asyncio.all_tasks(loop):
        task.cancel()
    with contextlib.suppress(OutOfTime):
        loop.run_until_complete(asyncio.sleep(0))
    loop.set_exception_handler(lambda *_: None)
    loop.close()
