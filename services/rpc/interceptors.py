"""Deadlines that travel with a call and shrink, and refusals turned into statuses."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from services.rpc.status import Refusal, abort

HOP_MARGIN_S = 0.05
"""A caller's deadline is passed on shorter by this, so that the answer still reaches the caller."""

_deadline: contextvars.ContextVar[float | None] = contextvars.ContextVar("deadline", default=None)
log = logging.getLogger(__name__)


def remaining_s(default_s: float) -> float:
    """Seconds a call made now may take: the default, or less if whoever called us has less."""
    deadline = _deadline.get()
    if deadline is None:
        return default_s
    return max(0.001, min(default_s, deadline - time.monotonic() - HOP_MARGIN_S))


def with_deadline(make: Callable[..., Any], default_s: float) -> Callable[..., Any]:
    """A channel's `unary_unary` whose calls all have a deadline. As gRPC's interceptor it took a task a call."""

    def unary_unary(*args: Any, **kwargs: Any) -> Callable[..., Any]:
        call = make(*args, **kwargs)

        def bounded(request: Any, *, timeout: float | None = None, **more: Any) -> Any:
            return call(request, timeout=remaining_s(default_s if timeout is None else timeout), **more)

        return bounded

    return unary_unary


class ServerInterceptor(grpc.aio.ServerInterceptor):
    """Notes the caller's deadline, answers refusals with their status and anything else with INTERNAL."""

    def __init__(self, refusal_for: Callable[[Exception], Refusal | None]) -> None:
        self._refusal_for = refusal_for
        self._running = 0
        self.idle = asyncio.Event()
        """Set while no call of ours runs; whoever watches our health does not count."""
        self.idle.set()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(details)
        if handler is None or not details.method.startswith("/headgate."):
            return handler
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(
                self._unary(handler.unary_unary, details.method),
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
        make = (
            grpc.stream_stream_rpc_method_handler if handler.request_streaming else grpc.unary_stream_rpc_method_handler
        )
        return make(
            self._stream(handler.stream_stream or handler.unary_stream, details.method),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _unary(self, inner: Callable[..., Awaitable[Any]], method: str) -> Callable[..., Awaitable[Any]]:
        async def handle(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            async with self._edge(context, method):
                return await inner(request, context)

        return handle

    def _stream(
        self, inner: Callable[..., AsyncGenerator[Any, None]], method: str
    ) -> Callable[..., AsyncIterator[Any]]:
        async def handle(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            async with self._edge(context, method), contextlib.aclosing(inner(request, context)) as answers:
                async for answer in answers:
                    yield answer

        return handle

    @contextlib.asynccontextmanager
    async def _edge(self, context: grpc.aio.ServicerContext[Any, Any], method: str) -> AsyncIterator[None]:
        remaining = context.time_remaining()
        _deadline.set(None if remaining is None else time.monotonic() + remaining)
        self._running += 1
        self.idle.clear()
        try:
            yield
        except (asyncio.CancelledError, grpc.aio.AbortError, GeneratorExit):
            raise
        except Exception as error:
            refusal = error if isinstance(error, Refusal) else self._refusal_for(error)
            if refusal is None:
                log.exception("%s failed", method)
                refusal = Refusal(grpc.StatusCode.INTERNAL, "INTERNAL", "Something went wrong on our side.")
            await abort(context, refusal)
        finally:
            self._running -= 1
            if not self._running:
                self.idle.set()
