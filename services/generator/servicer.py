"""Generate as gRPC: translates requests, steps and failures, and counts slots."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import Any

import grpc
from headgate.generator.v1 import generator_pb2 as pb
from headgate.generator.v1.generator_pb2_grpc import GeneratorServiceServicer

from services import telemetry
from services.generator.attempt import Attempts, Delta, Heartbeat, Started, Step, Usage, Work
from services.generator.outcomes import Failure, FailureKind, Limit, sentence
from services.generator.pulse import with_heartbeats
from services.generator.source import KINDS
from services.rpc.interceptors import remaining_s
from services.rpc.status import Refusal
from services.templates import VERSION

SERVICE = "headgate.generator.v1.GeneratorService"
DOMAIN = "generator.headgate"
MOST_TOKENS = 32_768
COUNT_S = 5.0
PROBE_S = 10.0
"""As any unary call between the services; one token takes far less."""
CODES = {
    FailureKind.RATE_LIMITED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    FailureKind.RAMP_LIMITED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    FailureKind.ACCOUNT: grpc.StatusCode.FAILED_PRECONDITION,
    FailureKind.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    FailureKind.REJECTED: grpc.StatusCode.INVALID_ARGUMENT,
    FailureKind.REFUSED: grpc.StatusCode.FAILED_PRECONDITION,
    FailureKind.INVALID_DIAGRAM: grpc.StatusCode.FAILED_PRECONDITION,
}


class Servicer(GeneratorServiceServicer):
    """Serves attempts, at most `slots` at a time."""

    def __init__(self, attempts: Attempts, slots: int, heartbeat_ms: int) -> None:
        self._attempts = attempts
        self._slots = slots
        self._heartbeat_ms = heartbeat_ms
        self._running = 0
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    async def drain(self, grace_ms: int) -> None:
        """Refuses new attempts from now on; returns when none runs any more, or after `grace_ms`."""
        self._draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_ms / 1000):
                await self._idle.wait()

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> AsyncGenerator[pb.GenerateResponse, None]:
        """One attempt."""
        work = _work_of(request)
        if self._draining:
            raise _refusal(grpc.StatusCode.UNAVAILABLE, "DRAINING", "This worker is about to stop.")
        if self._running >= self._slots:
            raise _refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "BUSY", "All slots of this worker are taken.")
        span = telemetry.current_span()
        span.set_attribute("headgate.request_id", request.request_id)
        span.set_attribute("headgate.attempt", request.attempt)
        self._running += 1
        self._idle.clear()
        try:
            async with aclosing(with_heartbeats(self._attempts.run(work), self._heartbeat_ms)) as steps:
                async for step in steps:
                    yield _message_of(step)
        finally:
            self._running -= 1
            if self._running == 0:
                self._idle.set()

    async def Probe(self, request: pb.ProbeRequest, context: Any) -> pb.ProbeResponse:
        """One minimal call; it takes no slot, because a stopped pool must not wait for one."""
        if not request.model:
            raise _wrong("model")
        if self._draining:
            raise _refusal(grpc.StatusCode.UNAVAILABLE, "DRAINING", "This worker is about to stop.")
        try:
            async with asyncio.timeout(remaining_s(PROBE_S)):
                return pb.ProbeResponse(limits=_limits_of(await self._attempts.probe(request.model)))
        except TimeoutError:
            raise Failure(FailureKind.UNAVAILABLE, sentence(FailureKind.UNAVAILABLE)) from None

    async def CountTokens(self, request: pb.CountTokensRequest, context: Any) -> pb.CountTokensResponse:
        """The provider's count; it takes no slot either."""
        kind = request.diagram_type
        work = _work_of(pb.GenerateRequest(prompt=request.prompt, diagram_type=kind, model=request.model, max_tokens=1))
        try:
            async with asyncio.timeout(remaining_s(COUNT_S)):
                return pb.CountTokensResponse(input_tokens=await self._attempts.count(work))
        except TimeoutError:
            raise Failure(FailureKind.UNAVAILABLE, sentence(FailureKind.UNAVAILABLE)) from None


def refusal_for(error: Exception) -> Refusal | None:
    """A failed attempt as a status with all its details."""
    if not isinstance(error, Failure):
        return None
    detail = pb.UpstreamFailure(
        kind=f"FAILURE_KIND_{error.kind.value}",
        http_status=error.http_status,
        provider_error_type=error.error_type,
        provider_error_code=error.error_code,
        message=error.message,
        limits=_limits_of(error.limits),
        spent_tokens=error.spent_tokens,
    )
    if error.retry_after_ms is not None:
        detail.retry_after.FromMilliseconds(error.retry_after_ms)
    return Refusal(
        CODES[error.kind],
        error.kind.value,
        error.message,
        DOMAIN,
        retry_after_ms=error.retry_after_ms,
        details=(detail,),
    )


def _work_of(request: pb.GenerateRequest) -> Work:
    wrong = (
        "prompt" if not request.prompt.strip()
        else "diagram_type" if request.diagram_type not in ("mermaid", *KINDS)
        else "model" if not request.model
        else "max_tokens" if not 1 <= request.max_tokens <= MOST_TOKENS
        else ""
    )  # fmt: skip
    if wrong:
        raise _wrong(wrong)
    return Work(request.prompt, request.diagram_type, request.model, request.max_tokens)


def _wrong(field: str) -> Refusal:
    message = f"The field {field} is missing or out of range."
    return Refusal(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", message, DOMAIN, {"field": field})


def _refusal(code: grpc.StatusCode, reason: str, message: str) -> Refusal:
    return Refusal(code, reason, message, DOMAIN)


def _message_of(step: Step) -> pb.GenerateResponse:
    if isinstance(step, Delta):
        return pb.GenerateResponse(delta=pb.Delta(text=step.text, offset=step.offset, turn=step.turn))
    if isinstance(step, Heartbeat):
        return pb.GenerateResponse(heartbeat=pb.Heartbeat(turn=step.turn))
    if isinstance(step, Started):
        started = pb.Started(
            turn=step.turn, limits=_limits_of(step.limits), provider_request_id=step.provider_request_id
        )
        return pb.GenerateResponse(started=started)
    if isinstance(step, Usage):
        return pb.GenerateResponse(usage=pb.Usage(**vars(step)))
    return pb.GenerateResponse(
        result=pb.Result(
            source=step.source, svg=step.svg, truncated=step.truncated, diagram_type=step.kind, template_version=VERSION
        )
    )


def _limits_of(limits: Iterable[Limit]) -> list[pb.ProviderLimit]:
    messages = []
    for limit in limits:
        dimension = f"DIMENSION_{limit.dimension.upper().replace('-', '_')}"
        message = pb.ProviderLimit(dimension=dimension, limit_per_minute=limit.per_minute, remaining=limit.remaining)
        message.reset_after.FromMilliseconds(limit.reset_after_ms)
        messages.append(message)
    return messages
