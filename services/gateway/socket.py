"""The WebSocket: one reader of any number of requests."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import Annotated, Any

import grpc
import msgspec
from msgspec import Meta, Struct
from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send

from services.gateway import shapes
from services.gateway.callers import Callers
from services.gateway.cors import Cors
from services.gateway.edge import json_response, trace_id
from services.gateway.errors import Problem, not_found, problem_of, refusal_from
from services.gateway.mailbox import Mailbox
from services.gateway.messages import Message, not_accepted_text
from services.gateway.pulse import Pulse
from services.gateway.watches import Hub, Subscription

PATHS = ("/", "/ws")
SOCKETS_PER_ADDRESS = 500
SOCKETS_PER_USER = 5_000
SUBSCRIPTIONS_PER_SOCKET = 1_000
MESSAGES_PER_SECOND = 2_000
"""From one client; more is no reader. A client may subscribe to all it may watch at once."""
UNUSED_MS = 10_000
IDLE_MS = 60_000

DONE, BINARY, POLICY, RESTART, OVERLOAD = 1000, 1003, 1008, 1012, 1013
BAD_KEY, UNUSED, TOO_MANY = 4401, 4408, 4429


class _Sent(Struct, rename="camel"):
    """What a client may say."""

    type: str
    request_id: str | None = None
    after: Annotated[int, Meta(ge=0, le=2**53)] | None = None
    api_key: str | None = None


_decoder = msgspec.json.Decoder(_Sent)


class Sockets:
    """All sockets of this process: who may open one, and how many."""

    def __init__(self, callers: Callers, hub: Hub, pulse: Pulse, cors: Cors) -> None:
        self.callers = callers
        self.hub = hub
        self._pulse = pulse
        self._cors = cors
        self._open: set[Socket] = set()
        self._counts: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._open)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        problem = None
        if scope["path"] not in PATHS:
            problem = not_found()
        elif not self._cors.allows(scope):
            problem = Problem(403, "FORBIDDEN", "Pages of this origin may not connect here.")
        if problem is not None:
            await _deny(problem, scope, receive, send)
            return
        socket = Socket(self, scope, receive, send, self._pulse.clock.now_ms())
        self._open.add(socket)
        self._pulse.join(socket)
        try:
            await socket.serve()
        finally:
            self._pulse.leave(socket)
            self._open.discard(socket)

    def count(self, holder: str, limit: int) -> bool:
        """Takes one of a holder's places; false if there is none."""
        if self._counts[holder] >= limit:
            return False
        self._counts[holder] += 1
        return True

    def uncount(self, holder: str) -> None:
        """Gives a place back."""
        self._counts[holder] -= 1
        if self._counts[holder] <= 0:
            del self._counts[holder]

    def close(self) -> None:
        """Asks all to come back later, to another replica."""
        for socket in list(self._open):
            socket.end(RESTART)


class Socket:
    """One connection."""

    def __init__(self, sockets: Sockets, scope: Scope, receive: Receive, send: Send, now_ms: int) -> None:
        self.user_id = ""
        self._sockets = sockets
        self._connection = HTTPConnection(scope)
        self._receive = receive
        self._send = send
        self._mailbox = Mailbox()
        self._subscriptions: dict[str, Subscription] = {}
        self._holder = ""
        self._code: int | None = None
        self._now_ms = now_ms
        self._quiet_since_ms = now_ms
        self._used = False
        self._messages = 0

    async def serve(self) -> None:
        """Reads and writes until either side ends it."""
        await self._send({"type": "websocket.accept"})
        reading = asyncio.create_task(self._read())
        try:
            while texts := await self._mailbox.take():
                for text in texts:
                    await self._send({"type": "websocket.send", "text": text})
            if self._mailbox.overflowed:
                self._code = OVERLOAD
            if self._code is not None:
                await self._send({"type": "websocket.close", "code": self._code})
        except OSError:
            pass  # The client is gone.
        finally:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading
            for subscription in self._subscriptions.values():
                self._sockets.hub.unsubscribe(subscription)
            if self._holder:
                self._sockets.uncount(self._holder)

    def end(self, code: int) -> None:
        """Closes with `code` once what waits is sent."""
        if self._code is None:
            self._code = code
        self._mailbox.close()

    def tick(self, now_ms: int) -> None:
        self._now_ms = now_ms
        self._messages = 0
        if not self._used and now_ms - self._quiet_since_ms >= UNUSED_MS:
            self.end(UNUSED)
        elif self._used and not self._subscriptions and now_ms - self._quiet_since_ms >= IDLE_MS:
            self.end(DONE)

    def opened(self, request_id: str) -> None:
        self._say("subscribed", requestId=request_id)

    def event(self, message: Message, seq: int) -> None:
        text = message.text(seq, viewer=self.user_id)
        if message.kind == "delta":
            self._mailbox.put_delta(text)
        elif message.kind == "status":
            self._mailbox.put_status(message.request_id, text)
        else:
            self._mailbox.put(text)

    def closed(self, request_id: str, *, known: bool) -> None:
        self._subscriptions.pop(request_id, None)
        self._quiet_since_ms = self._now_ms
        if not known:
            self._mailbox.put(not_accepted_text(request_id))

    def _say(self, kind: str, **fields: Any) -> None:
        self._mailbox.put(msgspec.json.encode({"type": kind, **fields}).decode())

    def _complain(self, code: str, message: str, **fields: Any) -> None:
        self._say("error", code=code, message=message, **fields)

    async def _read(self) -> None:
        if not await self._let_in():
            return
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                self._mailbox.close()
                return
            self._messages += 1
            if self._messages > MESSAGES_PER_SECOND:
                self.end(POLICY)
            text = message.get("text")
            if text is None:
                self.end(BINARY)
                return
            await self._hear(text)

    async def _let_in(self) -> bool:
        if self._sockets.callers.has_key(self._connection):
            try:
                answer = await self._sockets.callers.usage(self._connection)
            except (Problem, grpc.aio.AioRpcError) as error:
                self._refuse_key(error, closing=True)
                return False
            return self._hold("user " + answer.user.user_id, SOCKETS_PER_USER, answer.user.user_id)
        client = self._connection.client
        return self._hold("address " + (client.host if client else ""), SOCKETS_PER_ADDRESS, "")

    def _hold(self, holder: str, limit: int, user_id: str) -> bool:
        if holder == self._holder:
            return True
        if not self._sockets.count(holder, limit):
            self.end(TOO_MANY)
            return False
        if self._holder:
            self._sockets.uncount(self._holder)
        self._holder = holder
        self.user_id = user_id
        return True

    async def _hear(self, text: str) -> None:
        try:
            sent = _decoder.decode(text)
        except (msgspec.MsgspecError, RecursionError) as error:
            self._complain("INVALID_REQUEST", f"This message is not understood: {error}.")
            return
        if sent.type == "ping":
            self._say("pong")
        elif sent.type == "auth":
            await self._authenticate(sent.api_key or "")
        elif sent.type == "subscribe":
            self._subscribe(sent.request_id or "", sent.after)
        elif sent.type == "unsubscribe":
            self._unsubscribe(sent.request_id or "")
            self._say("unsubscribed", requestId=sent.request_id or "")
        else:
            known = "subscribe, unsubscribe, auth or ping"
            self._complain("INVALID_REQUEST", f"This type of message is not known: it must be {known}.")

    async def _authenticate(self, api_key: str) -> None:
        try:
            user = (await self._sockets.callers.user_of(api_key)).user
        except (Problem, grpc.aio.AioRpcError) as error:
            self._refuse_key(error, closing=False)
            return
        if self._hold("user " + user.user_id, SOCKETS_PER_USER, user.user_id):
            self._say("authenticated", userId=user.user_id, tier=user.tier)

    def _refuse_key(self, error: Problem | grpc.aio.AioRpcError, *, closing: bool) -> None:
        problem = error if isinstance(error, Problem) else problem_of(refusal_from(error))
        self._complain(problem.code, problem.message)
        if problem.status in (401, 403):
            self.end(BAD_KEY)
        elif closing:
            self.end(OVERLOAD)

    def _subscribe(self, request_id: str, after: int | None) -> None:
        self._used = True
        self._unsubscribe(request_id)
        if not shapes.REQUEST_ID.match(request_id):
            self._quiet_since_ms = self._now_ms
            self._mailbox.put(not_accepted_text(request_id))
        elif len(self._subscriptions) >= SUBSCRIPTIONS_PER_SOCKET:
            message = f"One socket may watch {SUBSCRIPTIONS_PER_SOCKET} requests; open another one."
            self._complain("CONCURRENCY_LIMIT_EXCEEDED", message, requestId=request_id)
        else:
            self._subscriptions[request_id] = self._sockets.hub.subscribe(request_id, self, after)

    def _unsubscribe(self, request_id: str) -> None:
        subscription = self._subscriptions.pop(request_id, None)
        if subscription is not None:
            self._sockets.hub.unsubscribe(subscription)
            self._quiet_since_ms = self._now_ms


async def _deny(problem: Problem, scope: Scope, receive: Receive, send: Send) -> None:
    response = json_response(problem.body(trace_id(scope)), problem.status, problem.headers)
    await send({"type": "websocket.http.response.start", "status": problem.status, "headers": response.raw_headers})
    await send({"type": "websocket.http.response.body", "body": response.body})
