"""A stream of steps that is never silent for long."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from services.generator.attempt import Heartbeat, Step


async def with_heartbeats(steps: AsyncGenerator[Step, None], every_ms: int) -> AsyncGenerator[Step, None]:
    """Passes the steps on, and a Heartbeat whenever nothing came for `every_ms`. Closing it closes the steps."""
    waiting: asyncio.Task[Step | None] | None = None
    try:
        while True:
            if waiting is None:
                waiting = asyncio.create_task(_next(steps))
            await asyncio.wait({waiting}, timeout=every_ms / 1000)
            if not waiting.done():
                yield Heartbeat()
                continue
            step, waiting = waiting.result(), None
            if step is None:
                return
            yield step
    finally:
        if waiting is not None:
            waiting.cancel()
            await asyncio.wait({waiting})
            with contextlib.suppress(asyncio.CancelledError, Exception):
                # What it died of is of no interest to a reader who left; asking keeps asyncio from complaining.
                waiting.result()
        await steps.aclose()


async def _next(steps: AsyncGenerator[Step, None]) -> Step | None:
    return await anext(steps, None)
