"""What uvicorn leaves without a bound: how long a client may take, and how large a head it may send."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

HEAD_TIMEOUT_S = 20.0
"""From the first moment a client could ask until its request line and headers are here."""
HEAD_BYTES = 64 * 1024
"""Of request line and headers; the largest of ours, a key and a trace, take one."""
STALL_S = 30.0
"""A client that has taken no byte of what waits for it in so long reads no more."""


class _Stall:
    """Ends a connection whose client stopped reading: closing it would wait for what it never takes."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._waiting_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        self._waiting_bytes = self._transport.get_write_buffer_size()
        self._timer = asyncio.get_running_loop().call_later(STALL_S, self._check)

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _check(self) -> None:
        if self._transport.get_write_buffer_size() >= self._waiting_bytes:
            self._transport.abort()
        else:
            self.begin()


class HttpConnection(HttpToolsProtocol):
    """An HTTP connection whose client must ask, and read, in time."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._stall = _Stall(transport)
        self._head_bytes = 0
        self._in_head = True
        self._head_timer = self._until_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_timer.cancel()
        self._stall.end()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES and not self.transport.is_closing():
                self.send_400_response("The headers are too large.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0
        self._await_head()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_timer.cancel()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        # Also where a body still comes that nobody reads: each piece of it would put off uvicorn's own timeout.
        self._await_head()

    def handle_websocket_upgrade(self) -> None:
        self._head_timer.cancel()
        super().handle_websocket_upgrade()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall.begin()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stall.end()

    def _await_head(self) -> None:
        self._head_timer.cancel()
        self._head_timer = self._until_head()

    def _until_head(self) -> asyncio.TimerHandle:
        return self.loop.call_later(HEAD_TIMEOUT_S, self._give_up)

    def _give_up(self) -> None:
        # Not while an answer is being made: to a request that was sent ahead of the answer before.
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


class SocketConnection(WebSocketsSansIOProtocol):
    """A WebSocket whose client must read in time; uvicorn's pings see to the rest."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._stall = _Stall(self.transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stall.end()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall.begin()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stall.end()
