"""What it costs to put a request in line, to say where it stands and to take it, with 1,000, 10,000 and 100,000 queued.

`python -m benchmarks.order_cost [--write FILE]`. Aims: at 100,000 at most 1.2 of what it costs at 1,000; at most 1 KB
of Valkey a request; the order of 100,000 rebuilt from SQL within 5 s. Times are Valkey's own (`commandstats`).
"""

from __future__ import annotations

import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import redis

from benchmarks import report
from services import sql
from services.clock import SystemClock
from services.scheduler.__main__ import MIGRATIONS, VERSION_TABLE
from services.scheduler.life import Request, State, Submission, TierTerms
from services.scheduler.line import Identity, ValkeyLine, base_key, connect
from services.scheduler.rebuild import Rebuilder, SqlIdentity
from services.scheduler.store import SqlRequests
from tests.servers.valkey import ValkeyServer
from tests.unit.test_scheduler_outcomes import a_request

POOL, START_MS = "sonnet", 1_000_000_000_000
SIZES = (1_000, 10_000, 100_000)
SHARES = {"free": 1, "basic": 2, "pro": 4, "enterprise": 8}
ROUNDS, CALLS = 30, 20
HEADS = ("queued", "put in line", "say where one stands", "look along the line", "take and end one", "bytes a request")


@dataclass
class Queue:
    """A Valkey of its own with so many requests in line."""

    size: int
    line: ValkeyLine
    server: redis.Redis
    memory: float = 0.0
    sent: int = 0
    microseconds: dict[str, list[float]] = field(default_factory=dict)

    async def fill(self) -> None:
        before = int(self.server.info("memory")["used_memory"])
        while self.sent < self.size:
            await self.line.place(POOL, [self.request() for _ in range(500)])
        self.memory = (int(self.server.info("memory")["used_memory"]) - before) / self.size

    def request(self) -> Request:
        """One more, of one of so many users that each has about ten."""
        self.sent += 1
        dice = random.Random(self.sent)
        tier = dice.choice(list(SHARES))
        name, user = f"req_{dice.randbytes(11).hex()}", f"usr_{dice.randrange(self.size // 10):010d}"
        input_tokens, output_tokens = dice.randrange(400, 3_000), dice.randrange(200, 4_000)
        return replace(
            a_request(), request_id=name, pool=POOL, user_id=user, tier=tier, share=SHARES[tier],
            estimated_input_tokens=input_tokens, estimated_output_tokens=output_tokens,
        )  # fmt: skip

    async def measure(self) -> None:
        """So many of each; the queue is as long afterwards as it was before."""
        new = [self.request() for _ in range(CALLS)]
        await self._timed("place", [self.line.place(POOL, [row]) for row in new])
        await self._timed("stands", [self.line.view(POOL, [row.request_id]) for row in new])
        await self._timed("look", [self.line.view(POOL, whole=True)])
        self.line.virtual_now_ms = (self.line.virtual_now_ms or 0) + 60_000
        self.server.config_resetstat()
        for _ in range(CALLS):
            ((request_id, _),) = (await self.line.dispatch(POOL, 1, None)).request_ids
            row = replace(a_request(), request_id=request_id, pool=POOL, attempt=1, state=State.COMPLETED)
            await self.line.finish(replace(row, started_ms=1, ended_ms=8_001), 1_000, 600)
        self._note("take", 1)

    async def _timed(self, name: str, calls: Sequence[object]) -> None:
        self.server.config_resetstat()
        for call in calls:
            await call  # type: ignore[misc]
        self._note(name, len(calls))

    def _note(self, name: str, calls: int) -> None:
        spent = self.server.info("commandstats")["cmdstat_evalsha"]["usec"]
        self.microseconds.setdefault(name, []).append(spent / (calls if name != "take" else CALLS))

    def median(self, name: str) -> float:
        """Microseconds of Valkey a call."""
        return statistics.median(self.microseconds[name])


async def rebuilt_s(folder: Path, valkey: ValkeyServer) -> tuple[float, float]:
    """How long the order of the largest queue takes to be made anew from SQLite, and what reading the rows takes."""
    url = f"sqlite:///{folder}/scheduler.db"
    sql.migrate(url, MIGRATIONS, version_table=VERSION_TABLE)
    database = sql.connect(url)
    store = SqlRequests(database)
    for first in range(0, SIZES[-1], 2_000):
        await asyncio.gather(*(store.submit(_submission(n), START_MS) for n in range(first, first + 2_000)))
    begun = time.monotonic()
    after = 0
    while rows := await store.unfinished(State.QUEUED, after, 500):
        after = rows[-1].acceptance
    read_s = time.monotonic() - begun

    async def set_limits(line: ValkeyLine) -> None:
        await line.set_limits(POOL, "plan", {"requests": 1_200})

    rebuilder = Rebuilder(
        valkey.url, [POOL], Identity(), SqlIdentity(database), store, clock=SystemClock(), set_limits=set_limits
    )
    begun = time.monotonic()
    assert await rebuilder.ensure()
    took_s = time.monotonic() - begun
    await database.close()
    return took_s, read_s


def _submission(n: int) -> Submission:
    tier = list(SHARES)[n % 4]
    return Submission(
        request_id=f"req_{n:022d}", user_id=f"usr_{n % 10_000:010d}", tier=TierTerms(tier, 1, SHARES[tier], 1_000),
        generation=1, day="2026-11-24", pool=POOL, model="claude-sonnet-5-5", diagram_type="mermaid",
        prompt="How a user signs in", max_tokens=2_048, priority=0, max_wait_ms=3_600_000, idempotent=False,
        work_hash="x" * 64, estimated_input_tokens=500, estimated_output_tokens=600, traceparent="",
    )  # fmt: skip


def started(stack: AsyncExitStack, folder: Path) -> ValkeyServer:
    """A Valkey that ends with the stack."""
    server = ValkeyServer(folder, ("--appendonly", "no"))
    server.start()
    stack.callback(server.kill)
    return server


async def queue_of(stack: AsyncExitStack, folder: Path, size: int) -> Queue:
    """A full queue of that size."""
    server = started(stack, folder)
    identity = Identity(1, server.client().info("server")["run_id"])
    client = connect(server.url, identity)
    stack.push_async_callback(client.aclose)
    line = ValkeyLine(client, identity, virtual_now_ms=START_MS)
    server.client().hset(f"{base_key(POOL)}meta", "epoch", "1")
    await line.set_limits(POOL, "plan", {"requests": 6_000})
    # The first look at a bucket starts its clock.
    await line.dispatch(POOL, 0, None)
    queue = Queue(size, line, server.client())
    await queue.fill()
    return queue


async def measure(write: Path | None) -> None:
    """All of it."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hg-order-")))
        for name in (*map(str, SIZES), "rebuild"):
            (folder / name).mkdir()
        queues = [await queue_of(stack, folder / str(size), size) for size in SIZES]
        for _ in range(ROUNDS):
            for queue in queues:
                await queue.measure()
        took_s, read_s = await rebuilt_s(folder, started(stack, folder / "rebuild"))
    names = ("place", "stands", "look", "take")
    rows = [[f"{q.size:,}", *(f"{q.median(n):.0f} us" for n in names), f"{q.memory:.0f}"] for q in queues]
    ratios = [f"{queues[-1].median(n) / queues[0].median(n):.2f}" for n in names]
    rows.append(["100,000 / 1,000", *ratios, ""])
    rows.append(["rebuilt from SQLite", f"{took_s:.1f} s", f"reading the rows alone {read_s:.1f} s", "", "", ""])
    report.publish(write, "order-cost", "Valkey's own time for a call, and its memory", HEADS, rows)


def main() -> None:
    """Measures and prints."""
    made = report.parser(__doc__)
    asyncio.run(measure(made.parse_args().write))


if __name__ == "__main__":
    main()
