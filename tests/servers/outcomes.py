"""The whole way upstream for a test: a real scheduler, a generator and an emulator of their own, and what can be seen.

async with running_upstream() as upstream, running_way(upstream, folder, valkey) as way:
    await upstream.emulator.fault("529", times=2)
    end = await way.end(await way.submit())
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import sqlite3
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headgate.scheduler.v1 import scheduler_pb2 as pb

from tests.servers.emulator import FAST, Emulator, running_emulator
from tests.servers.generator import Generator, running_generator
from tests.servers.scheduler import Scheduler, running_scheduler, sqlite_url

POOL = "sonnet"
SILENCE_MS = 400
"""How long the generator waits for the provider's next byte."""
FRACTION = 0.1
"""What the scheduler's dice always show: a backoff is a tenth of its ceiling."""
PAUSE = "PAUSE_REASON_"


@dataclass
class Upstream:
    """A generator and the emulator it calls, shared by tests."""

    emulator: Emulator
    generator: Generator

    async def reset(self) -> None:
        """As new."""
        await self.emulator.clear_faults()
        await self.emulator.limits(rpm=FAST["rpm"], tpm=FAST["tpm"], itpm=None, otpm=None, request_burst_ms=1000)
        await self.emulator.pace(first_token_ms=0, tokens_per_second=FAST["tokens_per_second"])
        await self.emulator.forget_calls()


@dataclass
class Way:
    """A scheduler in front of that."""

    scheduler: Scheduler
    emulator: Emulator
    folder: Path

    async def submit(self, prompt: str = "How a user signs in", **changes: Any) -> str:
        return await self.scheduler.submit(prompt=prompt, diagram_type="flowchart", **changes)

    async def log(self, request_id: str) -> list[pb.Event]:
        """All that its log holds."""
        ask = pb.ReplayRequest(items=[pb.ReplayItem(request_id=request_id, after=0, user_id="ada")])
        return list((await self.scheduler.stub.Replay(ask)).replayed[0].events)

    async def end(self, request_id: str) -> pb.Request:
        """The request, once it has ended."""
        ended, _ = await self.scheduler.end(request_id)
        return ended

    async def until(self, request_id: str, kind: str, count: int = 1) -> pb.Event:
        """The event of that kind, once as many have come."""
        async with self.scheduler.watch(request_id) as following:
            while len(seen := [e for e in await self.log(request_id) if e.WhichOneof("event") == kind]) < count:
                await following()
        return seen[count - 1]

    async def retries(self, request_id: str) -> list[tuple[int, int]]:
        """(attempt that failed, delay told in ms) of each `retrying`."""
        return [
            (event.retrying.attempt, event.retrying.delay.ToMilliseconds())
            for event in await self.log(request_id)
            if event.HasField("retrying")
        ]

    async def pause(self) -> tuple[str, float]:
        """Why the pool stands still ("" if it does not) and for how many ms from now."""
        pools = {p.pool: p for p in (await self.scheduler.stub.GetQueue(pb.GetQueueRequest())).pools}
        reason = pb.PauseReason.Name(pools[POOL].paused).removeprefix(PAUSE)
        if reason == "UNSPECIFIED":
            return "", 0
        return reason.lower(), pools[POOL].paused_until.ToMilliseconds() - time.time() * 1000

    async def until_paused(self, reason: str) -> float:
        """How many ms the pool stands still for that reason, as soon as it does."""
        async with asyncio.timeout(10):
            while (pause := await self.pause())[0] != reason:
                await asyncio.sleep(0)
        return pause[1]

    def row(self, request_id: str) -> dict[str, Any]:
        """The request as SQL has it."""
        with contextlib.closing(sqlite3.connect(self.folder / "scheduler.db")) as database:
            database.row_factory = sqlite3.Row
            found = database.execute("SELECT * FROM scheduler_requests WHERE request_id = ?", [request_id]).fetchone()
        return dict(found)

    async def calls(self, prompt: str = "") -> list[dict[str, Any]]:
        """What the emulator was asked, in order; with `prompt` only what was asked first for it (no repairs)."""
        calls = await self.emulator.calls()
        return [call for call in calls if not prompt or call["prompt_hash"] == _digest(_asked(prompt))]

    async def probes(self) -> list[dict[str, Any]]:
        """Those of the calls that were the pool's own."""
        return [call for call in await self.emulator.calls() if call["prompt_hash"] == _digest("ping")]


def _asked(prompt: str) -> str:
    return f"<request>\n{prompt}\n</request>"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@contextlib.asynccontextmanager
async def running_upstream() -> AsyncIterator[Upstream]:
    """An emulator without limits in the way and a generator that calls it."""
    async with (
        running_emulator() as emulator,
        running_generator(emulator.base_url, silence_ms=SILENCE_MS, heartbeat_ms=50) as generator,
    ):
        yield Upstream(emulator, generator)


@contextlib.asynccontextmanager
async def running_way(upstream: Upstream, folder: Path, redis_url: str, **settings: Any) -> AsyncIterator[Way]:
    """A fresh scheduler whose generator is that one."""
    environment = {"generator_addresses": (upstream.generator.address,), "random_fraction": lambda: FRACTION}
    async with running_scheduler(sqlite_url(folder), redis_url, **{**environment, **settings}) as scheduler:
        yield Way(scheduler, upstream.emulator, folder)
