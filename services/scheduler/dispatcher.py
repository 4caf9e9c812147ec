"""Takes from the line what may go, as fast as limits and workers allow and no faster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from services.scheduler.life import LineUnavailable
from services.scheduler.line import Dispatched

BATCH = 32
"""Requests taken by one script call: bounds how long Valkey is held."""
IDLE_MS = 1_000
"""How long the loop sleeps without a wake-up: what a lost wake-up costs."""


class Line(Protocol):
    """What dispatch needs of the order."""

    async def dispatch(self, pool: str, many: int, slots: int | None) -> Dispatched: ...


class Dispatcher:
    """One loop for each pool."""

    def __init__(
        self,
        line: Line,
        pool: str,
        *,
        slots: Callable[[], int],
        free_slots: Callable[[], int],
        begin: Callable[[str, int, int], None],
        on_trouble: Callable[[], None],
    ) -> None:
        """`slots` is how many attempts all generators can run at once, for all replicas of this service together,
        `free_slots` how many of them this one may begin now. `begin(id, attempts so far, ms until it is sent)` starts
        an attempt; `on_trouble` hears that the line is away."""
        self._line = line
        self._pool = pool
        self._slots = slots
        self._free_slots = free_slots
        self._begin = begin
        self._on_trouble = on_trouble
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Something changed: look again at once."""
        self._woken.set()

    async def run(self, stopping: asyncio.Event) -> None:
        """Dispatches until told to stop."""
        while not stopping.is_set():
            self._woken.clear()
            wait_ms = await self._dispatch_once()
            if wait_ms > 0:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._woken.wait(), wait_ms / 1000)

    async def _dispatch_once(self) -> int:
        free = self._free_slots()
        if free <= 0:
            return IDLE_MS
        try:
            taken = await self._line.dispatch(self._pool, min(free, BATCH), self._slots())
        except LineUnavailable:
            self._on_trouble()
            return IDLE_MS
        for request_id, attempts_so_far in taken.request_ids:
            self._begin(request_id, attempts_so_far, taken.send_after_ms)
        return IDLE_MS if taken.wait_ms < 0 else min(taken.wait_ms, IDLE_MS)
