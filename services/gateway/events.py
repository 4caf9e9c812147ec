"""Events of one request as server-sent events."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from services.clock import Clock
from services.gateway import shapes
from services.gateway.callers import Callers
from services.gateway.diagrams import first_of
from services.gateway.errors import not_found
from services.gateway.mailbox import Mailbox
from services.gateway.messages import Message, not_accepted_text
from services.gateway.pulse import Pulse
from services.gateway.watches import Hub, Subscription

COMMENT_MS = 15_000
DECISION_MS = 3_000
"""So long the status line waits to learn whether there is such a request. A browser never comes back
after an error, so a scheduler that is away must not become one: then the stream opens all the same."""
SEQ_LIMIT = 2**53
HEADERS = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}


class Events:
    """The streams of this process."""

    def __init__(self, callers: Callers, hub: Hub, pulse: Pulse, clock: Clock) -> None:
        self._callers = callers
        self._hub = hub
        self._pulse = pulse
        self._clock = clock
        self._streams: set[_Stream] = set()

    async def listen(self, request: Request) -> Response:
        """Opens a stream. 204 when its last event was already seen, Problem 404 for an unknown request."""
        viewer = await self._callers.viewer(request)
        last = request.headers.get("last-event-id")
        after = None if not last else shapes.whole_number("Last-Event-ID", last, 0, SEQ_LIMIT)
        request_id = request.path_params["id"]
        if not shapes.REQUEST_ID.match(request_id):
            raise not_found("There is no such request.")
        stream = _Stream(viewer, self._clock.now_ms())
        subscription = self._hub.subscribe(request_id, stream, after)
        handed_over = False
        try:
            await first_of(stream.decided, self._clock, DECISION_MS)
            if stream.unknown:
                raise not_found("There is no such request.")
            if stream.mailbox.closed and not len(stream.mailbox):
                return Response(status_code=204)
            if request.method == "HEAD":
                return Response(headers=HEADERS, media_type="text/event-stream")
            handed_over = True
            return _Answer(self, stream, subscription)
        finally:
            if not handed_over:
                self._hub.unsubscribe(subscription)

    def close(self) -> None:
        """Ends every stream; clients come back to another replica."""
        for stream in list(self._streams):
            stream.mailbox.close()

    @contextlib.contextmanager
    def open(self, stream: _Stream, subscription: Subscription) -> Iterator[None]:
        """Keeps a stream fed and awake while it is being sent."""
        self._streams.add(stream)
        self._pulse.join(stream)
        try:
            yield
        finally:
            self._pulse.leave(stream)
            self._streams.discard(stream)
            self._hub.unsubscribe(subscription)


class _Stream:
    """The reader behind one response."""

    def __init__(self, user_id: str, now_ms: int) -> None:
        self.user_id = user_id
        self.mailbox = Mailbox()
        self.decided = asyncio.Event()
        self.unknown = False
        self._comment_at_ms = now_ms + COMMENT_MS

    def opened(self, request_id: str) -> None:
        self.decided.set()

    def event(self, message: Message, seq: int) -> None:
        text = f"id: {seq}\nevent: {message.type}\ndata: {message.text(seq, viewer=self.user_id)}\n\n"
        if message.kind == "delta":
            self.mailbox.put_delta(text)
        elif message.kind == "status":
            self.mailbox.put_status(message.request_id, text)
        else:
            self.mailbox.put(text)

    def closed(self, request_id: str, *, known: bool) -> None:
        if not known:
            self.unknown = True
            self.mailbox.put(f"id: 0\nevent: failed\ndata: {not_accepted_text(request_id)}\n\n")
        self.mailbox.close()
        self.decided.set()

    def tick(self, now_ms: int) -> None:
        if now_ms >= self._comment_at_ms:
            self._comment_at_ms = now_ms + COMMENT_MS
            # Replaces an older one that was not read: a reader that is stuck collects no comments.
            self.mailbox.put_status("", ": here\n\n")


class _Answer(Response):
    """Sends a stream until it ends or its reader goes away."""

    def __init__(self, events: Events, stream: _Stream, subscription: Subscription) -> None:
        super().__init__(headers=HEADERS, media_type="text/event-stream")
        del self.headers["content-length"]
        self._events = events
        self._stream = stream
        self._subscription = subscription

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        mailbox = self._stream.mailbox
        with self._events.open(self._stream, self._subscription):
            leaving = asyncio.create_task(_until_gone(receive, mailbox))
            try:
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                await send({"type": "http.response.body", "body": b"retry: 1000\n\n", "more_body": True})
                while texts := await mailbox.take():
                    for text in texts:
                        await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            finally:
                leaving.cancel()


async def _until_gone(receive: Receive, mailbox: Mailbox) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    mailbox.close()
