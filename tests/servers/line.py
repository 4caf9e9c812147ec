"""One pool's order on a test's Valkey, in virtual time."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from services.scheduler import line as line_module
from services.scheduler.line import Identity, ValkeyLine
from tests.servers.valkey import ValkeyServer

POOL = "sonnet"
START_MS = 1_000_000_000_000
"""A moment twenty minutes before a UTC day ends: tests of an hour meet the change of days."""


@contextlib.asynccontextmanager
async def virtual_line(valkey: ValkeyServer, **limits: int) -> AsyncIterator[ValkeyLine]:
    """The pool with the limits of its plan, its buckets empty, at START_MS."""
    identity = Identity(1, valkey.client().info("server")["run_id"])
    client = line_module.connect(valkey.url, identity)
    line = ValkeyLine(client, identity, virtual_now_ms=START_MS)
    valkey.client().hset(f"{line_module.base_key(POOL)}meta", "epoch", "1")
    await line.set_limits(POOL, "plan", dict(limits))
    await line.dispatch(POOL, 0, None)
    try:
        yield line
    finally:
        await client.aclose()
