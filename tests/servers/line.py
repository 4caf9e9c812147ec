"""One pool's order on a test's Valkey, in virtual time."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from services.scheduler.line import ValkeyLine
from services.scheduler.planner import virtual
from services.scheduler.planner.virtual import START_MS
from tests.servers.valkey import ValkeyServer

__all__ = ["POOL", "START_MS", "virtual_line"]
POOL = "sonnet"


@contextlib.asynccontextmanager
async def virtual_line(valkey: ValkeyServer, **limits: int) -> AsyncIterator[ValkeyLine]:
    """The pool with the limits of its plan, its buckets empty, at START_MS."""
    async with virtual.virtual_line(valkey.url, POOL) as line:
        await line.set_limits(POOL, "plan", dict(limits))
        await line.dispatch(POOL, 0, None)
        yield line
