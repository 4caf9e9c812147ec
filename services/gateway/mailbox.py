"""What one reader still has to be sent. A slow reader loses what the next message makes good."""

from __future__ import annotations

import asyncio

LOSSY_LIMIT = 256
"""Waiting messages from which on deltas are dropped: at ten a second half a minute behind."""
BYTES_LIMIT = 8 * 1024 * 1024
"""Waiting text that ends the reader: nothing in it may be lost and it is not being read."""


class Mailbox:
    """An ordered queue of texts; deltas are dropped when it is full, statuses replace each other."""

    def __init__(self) -> None:
        self._texts: dict[int, str] = {}
        self._status: dict[str, int] = {}
        self._next = 0
        self._bytes = 0
        self._ready = asyncio.Event()
        self.closed = False
        self.overflowed = False

    def __len__(self) -> int:
        return len(self._texts)

    def put(self, text: str) -> None:
        """Adds what must not be lost; the mailbox closes, overflowed, when that is too much."""
        if self.closed:
            return
        if self._bytes + len(text) > BYTES_LIMIT:
            self.overflowed = True
            self._texts.clear()
            self.close()
            return
        self._texts[self._next] = text
        self._next += 1
        self._bytes += len(text)
        self._ready.set()

    def put_status(self, request_id: str, text: str) -> None:
        """Adds a place in line, instead of an older one of that request that was not sent."""
        older = self._status.pop(request_id, None)
        if older is not None:
            replaced = self._texts.pop(older, None)
            self._bytes -= len(replaced or "")
        self._status[request_id] = self._next
        self.put(text)

    def put_delta(self, text: str) -> None:
        """Adds a piece of an answer, unless the reader is far behind."""
        if len(self._texts) < LOSSY_LIMIT:
            self.put(text)

    def close(self) -> None:
        """Nothing more will come; what is in it is still handed out."""
        self.closed = True
        self._ready.set()

    async def take(self) -> list[str]:
        """All that waits, as soon as there is any; empty once closed and read to the end."""
        await self._ready.wait()
        texts = list(self._texts.values())
        self._texts.clear()
        self._status.clear()
        self._bytes = 0
        if not self.closed:
            self._ready.clear()
        return texts
