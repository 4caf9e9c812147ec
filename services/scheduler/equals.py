"""Those that end with an equal request: who may, and how they are told."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from services.clock import Clock
from services.scheduler.life import End, LineUnavailable, Request, State
from services.scheduler.ports import Requests
from services.scheduler.sameness import BATCH, shared
from services.sql import StoreUnavailable


class Line(Protocol):
    """What ends need of the order."""

    async def parked(self, pool: str, request_id: str) -> list[str]: ...
    async def finish(
        self, request: Request, input_tokens: int | None = None, output_tokens: int | None = None
    ) -> int: ...


class Equals:
    """What an attempt's end means beyond its own request."""

    def __init__(self, requests: Requests, line: Line, clock: Clock) -> None:
        self._requests = requests
        self._line = line
        self._clock = clock

    async def parked(self, request: Request, end: End) -> list[str]:
        """Those that share a failure; who completes with a request is found in SQL."""
        if request.cache_key and end.state is not State.COMPLETED and shared(end):
            with suppress(LineUnavailable):
                return await self._line.parked(request.pool, request.request_id)
        return []

    async def tell(self, ended: Sequence[Request], end: End, used: tuple[int | None, int | None]) -> None:
        """Runs the ending scripts of a request and of those that ended with it. What fails here a sweep repeats."""
        # Last ones first: none then stands before others of its user whose tags would change.
        own, equals = ended[0], sorted(ended[1:], key=lambda row: -row.acceptance)
        with suppress(LineUnavailable, StoreUnavailable):
            # Before its own: as long as it holds its lease, an equal one that is popped parks.
            while equals:
                seqs = await asyncio.gather(*(self._line.finish(row) for row in equals))
                await self._requests.tell([(row.request_id, seq) for row, seq in zip(equals, seqs, strict=True)])
                more = len(equals) == BATCH and end.state is State.COMPLETED
                equals = await self._requests.share(own, end, self._clock.now_ms()) if more else []
            seq = await self._line.finish(own, *used)
            await self._requests.tell([(own.request_id, seq)])
