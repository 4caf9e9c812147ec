"""The outermost layer: bodies, methods, CORS, the headers of every answer, and errors in the contract's shape."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services import telemetry
from services.gateway.cors import Cors
from services.gateway.errors import Problem, not_found, problem_of, refusal_from

BODY_LIMIT = 1_000_000
"""Bytes of a body under /api; the longest prompt is 100,000 characters, at most 400,000 bytes of UTF-8."""
READ_LIMIT = 4 * BODY_LIMIT
"""What is read of a body that is too large, and thrown away: a connection that is closed with something unread is
reset, and its client, which is still sending, never sees the answer."""
BODY_TIMEOUT_S = 20.0
"""A body that has not arrived by then is given up: slow clients must not pile up."""
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")

Handler = Callable[[Request], Awaitable[Response]]
log = logging.getLogger(__name__)


def json_response(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """JSON that no cache keeps: answers belong to their caller and change."""
    response = Response(msgspec.json.encode(content), status, headers, "application/json")
    response.headers.setdefault("cache-control", "no-store")
    return response


async def read_body(request: Request) -> bytes:
    """The whole body, read as it is whatever its Content-Type. Problem 413 over the cap, 400 if it never comes."""
    declared = request.headers.get("content-length", "0")
    too_large, body, size = declared.isdecimal() and int(declared) > BODY_LIMIT, bytearray(), 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.stream():
                size += len(chunk)
                if size <= BODY_LIMIT:
                    body += chunk
                elif size > READ_LIMIT:
                    break
    except (TimeoutError, ClientDisconnect):
        if not (too_large or size > BODY_LIMIT):
            raise Problem(400, "INVALID_REQUEST", "The body did not arrive.", fields=[]) from None
    if too_large or size > BODY_LIMIT:
        raise _too_large()
    return bytes(body)


def _too_large() -> Problem:
    return Problem(413, "TOO_LARGE", f"The body is larger than {BODY_LIMIT} bytes.", headers={"Connection": "close"})


class Resource:
    """One address and its methods."""

    def __init__(self, **handlers: Handler) -> None:
        self._handlers = handlers
        allowed = {*handlers, "OPTIONS", *(["HEAD"] if "GET" in handlers else [])}
        self.allow = ", ".join(sorted(allowed))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = scope["method"]
        if method == "OPTIONS":
            await Response(status_code=204, headers={"Allow": self.allow})(scope, receive, send)
            return
        handler = self._handlers.get("GET" if method == "HEAD" else method)
        if handler is None:
            raise Problem(405, "METHOD_NOT_ALLOWED", f"{method} is not possible here.", headers={"Allow": self.allow})
        response = await handler(Request(scope, receive))
        await response(scope, receive, send)


async def nowhere(scope: Scope, receive: Receive, send: Send) -> None:
    """Every address that does not exist."""
    if scope["method"] == "OPTIONS":
        await Response(status_code=204)(scope, receive, send)
        return
    raise not_found()


class Edge:
    """Wraps the routes; `sockets` gets what is no HTTP request."""

    def __init__(self, routes: ASGIApp, sockets: ASGIApp, cors: Cors, *, emulated: bool) -> None:
        self._routes = routes
        self._sockets = sockets
        self._cors = cors
        self._fixed = [(b"headgate-emulated", b"true")] if emulated else []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._sockets(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Handlers add to it what errors must carry as well.
        added: dict[str, str] = scope.setdefault("headgate.headers", {})
        cors = self._cors.headers(scope)
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                extra = [(name.lower().encode(), value.encode()) for name, value in added.items()]
                message["headers"] = [*message["headers"], *extra, *cors, *self._fixed]
            await send(message)

        try:
            if scope["method"] == "OPTIONS" and self._cors.is_preflight(scope):
                await self._cors.preflight(scope)(scope, receive, send_with_headers)
                return
            await self._routes(scope, receive, send_with_headers)
        except Exception as error:
            if started:
                raise
            await _answer(_problem(error), scope)(scope, receive, send_with_headers)


def _problem(error: Exception) -> Problem:
    if isinstance(error, Problem):
        return error
    if isinstance(error, grpc.aio.AioRpcError):
        problem = problem_of(refusal_from(error))
        if problem.status >= 500:
            log.warning("a call failed: %s %s", error.code().name, error.details())
        return problem
    log.error("a request failed", exc_info=error)
    return Problem(500, "INTERNAL", "Something went wrong on our side. Please try again.")


def _answer(problem: Problem, scope: Scope) -> Response:
    added = scope["headgate.headers"]
    headers = {name: value for name, value in problem.headers.items() if name not in added}
    return json_response(problem.body(trace_id(scope)), problem.status, headers)


def trace_id(scope: Scope) -> str:
    """The trace this request belongs to: ours, the caller's, or one that only this answer names."""
    current = telemetry.trace_id()
    if current:
        return current
    for name, value in scope["headers"]:
        if name == b"traceparent":
            named = _TRACEPARENT.fullmatch(value.decode("latin-1"))
            if named:
                return named[1]
    return secrets.token_hex(16)
