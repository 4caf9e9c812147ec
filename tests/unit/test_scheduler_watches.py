"""Streams of watchers: one that is not read loses what may be lost, never an end, and slows no other."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from services.clock import SystemClock
from services.scheduler import watches as module
from services.scheduler.life import Request, State
from services.scheduler.waits import Place
from services.scheduler.watches import Watcher, Watches
from tests.unit.test_scheduler_outcomes import a_request

HELD = 5


class Rows:
    """What watching reads of SQL and of the order's store."""

    def __init__(self, *rows: Request) -> None:
        self.rows = {row.request_id: row for row in rows}

    async def get_many(self, request_ids: Sequence[str]) -> list[Request]:
        return [self.rows[request_id] for request_id in request_ids]

    async def events(self, pool: str, request_id: str, after: int) -> list[tuple[int, dict[str, Any]]]:
        return []


async def one_batch(watcher: Watcher) -> list[str]:
    async with asyncio.timeout(10):
        async for _, events in watcher.batches():
            return [kind(happened.event) for happened in events]
    raise AssertionError("the stream ended")


def kind(event: object) -> str:
    if isinstance(event, dict):
        return str(event["type"])
    return "ended" if isinstance(event, Request) else "place"


async def test_a_stream_that_is_not_read_keeps_what_must_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PENDING", HELD)
    rows = Rows(a_request(request_id="a", state=State.RUNNING))
    places = 0

    async def place(pool: str, request_ids: Sequence[str]) -> dict[str, Place]:
        nonlocal places
        places += 1
        return {request_id: Place(places, 0) for request_id in request_ids}

    watches = Watches(rows, rows, place, clock=SystemClock(), on_ended=lambda _: None)  # type: ignore[arg-type]
    slow, quick = watches.open(), watches.open()
    for watcher in (slow, quick):
        await watcher.subscribe(["a"])
        assert await one_batch(watcher) == []
    for seq in range(1, 2 * HELD + 1):
        watches.on_event("pool", "a", seq, {"type": "delta"})
        assert await one_batch(quick) == ["delta"]
    watches.on_event("pool", "a", 20, {"type": "retrying"})
    watches.on_event("pool", "a", 21, {"type": "processing"})
    rows.rows["a"] = a_request(request_id="a", state=State.COMPLETED)
    watches.on_event("pool", "a", 22, {"type": "ended"})
    stopping = asyncio.Event()
    running = asyncio.create_task(watches.run(stopping))
    told = await one_batch(quick)
    while told[-1] != "ended":
        told += await one_batch(quick)
    stopping.set()
    await asyncio.wait_for(running, 10)
    assert told == ["retrying", "processing", "ended"]
    assert await one_batch(slow) == ["delta"] * HELD + ["retrying", "processing", "ended"]


async def test_a_place_is_what_a_slow_stream_may_lose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PENDING", HELD)
    rows = Rows(*(a_request(request_id=f"{n}", state=State.QUEUED, pool="pool") for n in range(2 * HELD)))

    async def place(pool: str, request_ids: Sequence[str]) -> dict[str, Place]:
        return {request_id: Place(1, 0) for request_id in request_ids}

    watches = Watches(rows, rows, place, clock=SystemClock(), on_ended=lambda _: None)  # type: ignore[arg-type]
    slow = watches.open()
    await slow.subscribe(list(rows.rows))
    await watches._send_places()
    assert await one_batch(slow) == ["place"] * HELD
