"""The generators: which are ready, who gets the next attempt, and the stream of one."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from headgate.generator.v1 import generator_pb2 as pb
from headgate.generator.v1.generator_pb2_grpc import GeneratorServiceStub

from services.pricing import Tokens
from services.rpc.channel import Tls, open_channel
from services.rpc.status import refusal_of
from services.scheduler.life import Request
from services.scheduler.outcomes import Failure, Trouble
from services.templates import VERSION

log = logging.getLogger(__name__)

SERVICE = "headgate.generator.v1.GeneratorService"
SILENCE_S = 10.0
"""A stopped process keeps its TCP connection for a minute; its heartbeats come every 3 s."""
RESOLVE_S = 5.0
LAST_WORD_S = 1.0
PROBE_TIMEOUT_S = 10.0
COUNT_TIMEOUT_S = 5.0
_DIMENSIONS = {
    pb.DIMENSION_REQUESTS: "requests",
    pb.DIMENSION_TOKENS: "tokens",
    pb.DIMENSION_INPUT_TOKENS: "input_tokens",
    pb.DIMENSION_OUTPUT_TOKENS: "output_tokens",
}


class AttemptFailed(Exception):
    """An attempt ended without a diagram."""

    def __init__(self, failure: Failure, limits: Mapping[str, tuple[int, int]] | None = None) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.limits = limits or {}


@dataclass(frozen=True)
class Asked:
    """The provider is asked for a turn: from now on it may cost something."""

    turn: int


@dataclass(frozen=True)
class Started:
    """The provider answers; (limit a minute, left now) by dimension, as its headers say."""

    turn: int
    limits: Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class Delta:
    """A piece of the source."""

    text: str = field(repr=False)
    offset: int
    turn: int


@dataclass(frozen=True)
class Used:
    """What a turn used."""

    turn: int
    model: str
    tokens: Tokens
    estimated: bool


@dataclass(frozen=True)
class Drawn:
    """The diagram."""

    source: str = field(repr=False)
    svg: str = field(repr=False)
    truncated: bool
    reusable: bool
    """Whole, and to the words that are used today."""


Step = Asked | Started | Delta | Used | Drawn


@dataclass
class _Worker:
    address: str
    channel: grpc.aio.Channel
    ready: bool = False
    draining: bool = False
    """It said that it will stop; one that was killed says nothing."""
    running: int = 0
    watching: asyncio.Task[None] | None = None


class Generators:
    """All generators behind the configured addresses. `run` keeps the list; `generate` uses it."""

    def __init__(self, targets: Sequence[str], slots: int, tls: Tls | None, on_change: Callable[[], None]) -> None:
        """`slots` is how many attempts one generator runs at once; `on_change` is called when one becomes ready."""
        self._targets = targets
        self._slots = slots
        self._tls = tls
        self._on_change = on_change
        self._workers: dict[str, _Worker] = {}

    @property
    def slots(self) -> int:
        """Attempts that all ready generators could run at once."""
        return sum(self._slots for worker in self._workers.values() if worker.ready)

    @property
    def free(self) -> int:
        """Attempts that could be started now."""
        return sum(max(0, self._slots - w.running) for w in self._workers.values() if w.ready)

    async def run(self, stopping: asyncio.Event) -> None:
        """Follows the addresses until told to stop."""
        try:
            while not stopping.is_set():
                await self._resolve()
                with suppress(TimeoutError):
                    await asyncio.wait_for(stopping.wait(), RESOLVE_S)
        finally:
            for address in list(self._workers):
                await self._drop(address)

    async def generate(self, request: Request, timeout_ms: int) -> AsyncIterator[Step]:
        """One attempt at a request, on the least loaded generator. Raises `AttemptFailed`."""
        worker = self._pick(self._slots)
        worker.running += 1
        call = GeneratorServiceStub(worker.channel).Generate(
            pb.GenerateRequest(
                request_id=request.request_id, attempt=request.attempt, prompt=request.prompt,
                diagram_type=request.diagram_type, model=request.model, max_tokens=request.max_tokens,
            ),
            timeout=timeout_ms / 1000,
        )  # fmt: skip
        try:
            while (message := await asyncio.wait_for(call.read(), SILENCE_S)) is not grpc.aio.EOF:
                if not (step := _step(message)):
                    continue
                if isinstance(step, Drawn):
                    # The stream's proper end, not a cancel, closes its span.
                    with suppress(TimeoutError):
                        await asyncio.wait_for(call.read(), LAST_WORD_S)
                    yield step
                    return
                yield step
            raise AttemptFailed(Failure(Trouble.LOST, "The worker ended without an answer."))
        except TimeoutError as error:
            raise AttemptFailed(Failure(Trouble.LOST, "The worker fell silent.")) from error
        except grpc.aio.AioRpcError as error:
            raise _failed(error, draining=worker.draining) from error
        finally:
            call.cancel()
            worker.running -= 1
            self._on_change()

    async def probe(self, model: str) -> None:
        """Asks the provider for one token. Raises `AttemptFailed`."""
        # It takes no slot there: whether the pool must stop cannot wait until one is free.
        worker = self._pick(math.inf)
        try:
            await GeneratorServiceStub(worker.channel).Probe(pb.ProbeRequest(model=model), timeout=PROBE_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise _failed(error, draining=worker.draining) from error

    async def count_tokens(self, model: str, diagram_type: str, prompt: str) -> int | None:
        """Input tokens as the provider counts them; None if that cannot be learned now."""
        asked = pb.CountTokensRequest(prompt=prompt, diagram_type=diagram_type, model=model)
        with suppress(AttemptFailed, grpc.aio.AioRpcError):
            worker = self._pick(math.inf)
            answer = await GeneratorServiceStub(worker.channel).CountTokens(asked, timeout=COUNT_TIMEOUT_S)
            return int(answer.input_tokens)
        return None

    def _pick(self, slots: float) -> _Worker:
        ready = [w for w in self._workers.values() if w.ready and w.running < slots]
        if not ready:
            raise AttemptFailed(Failure(Trouble.BUSY, "No worker is free."))
        return min(ready, key=lambda worker: worker.running)

    async def _resolve(self) -> None:
        wanted: set[str] = set()
        for target in self._targets:
            wanted |= await _addresses(target)
        for address in wanted - self._workers.keys():
            worker = _Worker(address, open_channel(address, tls=self._tls))
            worker.watching = asyncio.create_task(self._watch(worker))
            self._workers[address] = worker
        for address in self._workers.keys() - wanted:
            if not self._workers[address].running:
                await self._drop(address)

    async def _drop(self, address: str) -> None:
        worker = self._workers.pop(address)
        if worker.watching:
            worker.watching.cancel()
            with suppress(asyncio.CancelledError):
                await worker.watching
        await worker.channel.close()

    async def _watch(self, worker: _Worker) -> None:
        """Keeps `ready` true while the worker says SERVING."""
        stub: Any = health_pb2_grpc.HealthStub(worker.channel)
        while True:
            with suppress(grpc.aio.AioRpcError):
                async for answer in stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE), wait_for_ready=True):
                    worker.ready = answer.status == health_pb2.HealthCheckResponse.SERVING
                    worker.draining = not worker.ready
                    self._on_change()
            worker.ready = False
            # The channel itself waits before it connects again; this only bounds a server that answers and hangs up.
            await asyncio.sleep(0.2)


async def _addresses(target: str) -> set[str]:
    """What a target stands for: all addresses of a dns:/// name, anything else itself."""
    if not target.startswith("dns:///"):
        return {target}
    name, _, port = target.removeprefix("dns:///").rpartition(":")
    try:
        found = await asyncio.get_running_loop().getaddrinfo(name, int(port), type=socket.SOCK_STREAM)
    except OSError:
        log.warning("cannot resolve %s", name)
        return set()
    hosts = {str(address[0]) for *_, address in found}
    return {f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host in hosts}


def _limits(sent: Sequence[pb.ProviderLimit]) -> dict[str, tuple[int, int]]:
    return {_DIMENSIONS[n.dimension]: (n.limit_per_minute, n.remaining) for n in sent if n.dimension in _DIMENSIONS}


def _step(message: Any) -> Step | None:
    match message.WhichOneof("step"):
        case "heartbeat" if message.heartbeat.turn:
            return Asked(message.heartbeat.turn)
        case "started":
            return Started(message.started.turn, _limits(message.started.limits))
        case "delta":
            return Delta(message.delta.text, message.delta.offset, message.delta.turn)
        case "usage":
            u = message.usage
            tokens = Tokens(
                u.input_tokens,
                u.output_tokens,
                u.cache_read_input_tokens,
                u.cache_write_5m_input_tokens,
                u.cache_write_1h_input_tokens,
            )
            return Used(u.turn, u.model, tokens, u.estimated)
        case "result":
            drawn = message.result
            reusable = not drawn.truncated and drawn.template_version == VERSION
            return Drawn(drawn.source, drawn.svg, drawn.truncated, reusable)
    return None


def _failed(error: grpc.aio.AioRpcError, *, draining: bool) -> AttemptFailed:
    refusal = refusal_of(error, [pb.UpstreamFailure])
    failure = refusal.detail(pb.UpstreamFailure)
    if failure is None:
        if refusal.reason in ("BUSY", "DRAINING"):
            return AttemptFailed(Failure(Trouble.BUSY, "No worker is free."))
        if refusal.reason == "INVALID_REQUEST":
            return AttemptFailed(Failure(Trouble.REJECTED, refusal.message))
        # No word from the generator itself: it is gone, or it hung past the attempt's deadline.
        return AttemptFailed(Failure(Trouble.LOST, "The worker was lost.", draining=draining))
    kind = pb.FailureKind.Name(failure.kind).removeprefix("FAILURE_KIND_")
    trouble = Trouble(kind) if kind in Trouble.__members__ else Trouble.UNAVAILABLE
    delay_ms = failure.retry_after.ToMilliseconds() if failure.HasField("retry_after") else None
    told = Failure(trouble, failure.message, delay_ms, failure.spent_tokens)
    return AttemptFailed(told, _limits(failure.limits))
