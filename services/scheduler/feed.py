"""The live feed of Valkey: one subscription a process, handed to whoever listens."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

from services.scheduler.life import LineUnavailable
from services.scheduler.line import ValkeyLine

log = logging.getLogger(__name__)

RECONNECT_MS = 250
SILENCE_S = 5.0
"""After this long without a message Valkey is asked, after twice that given up: a host that vanished says nothing."""


class Listener(Protocol):
    """Who hears the feed."""

    def on_event(self, pool: str, request_id: str, seq: int, event: dict[str, Any]) -> None:
        """A request's log grew."""
        ...

    def on_gap(self) -> None:
        """The feed was away: events may have been missed."""
        ...


class Feed:
    """Reads events and wake-ups until told to stop, over as many connections as it takes."""

    def __init__(
        self, line: ValkeyLine, pools: Sequence[str], listener: Listener, on_wake: Callable[[str], None]
    ) -> None:
        self._line = line
        self._pools = pools
        self._listener = listener
        self._on_wake = on_wake

    async def run(self, stopping: asyncio.Event) -> None:
        """Follows the feed."""
        while not stopping.is_set():
            with suppress(LineUnavailable):
                await self._follow(stopping)
            with suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), RECONNECT_MS / 1000)

    async def _follow(self, stopping: asyncio.Event) -> None:
        async with self._line.subscribe(self._pools) as pubsub:
            self._listener.on_gap()
            asked = False
            while not stopping.is_set():
                message = await pubsub.get_message(timeout=SILENCE_S)
                if message and message["type"] == "message":
                    self._hear(message["channel"], message["data"])
                elif message is None:
                    if asked:
                        raise LineUnavailable("it fell silent")
                    await pubsub.ping()
                asked = message is None

    def _hear(self, channel: str, data: str) -> None:
        try:
            self._take(channel, data)
        except (ValueError, KeyError, TypeError):
            # Of another version, perhaps: it may not stop the events that are understood.
            log.exception("an event was not understood")

    def _take(self, channel: str, data: str) -> None:
        # "hg:{pool}:events" or "hg:{pool}:wake"
        pool, _, kind = channel.removeprefix("hg:{").rpartition("}:")
        if kind == "wake":
            self._on_wake(pool)
            return
        seq, request_id, payload = data.split(" ", 2)
        self._listener.on_event(pool, request_id, int(seq), json.loads(payload))
