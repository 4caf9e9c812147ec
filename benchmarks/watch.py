"""What watching costs: 100 watchers of one request that runs, and 1,000 idle sockets.

`python -m benchmarks.watch [--seconds N] [--write FILE]`: CPU of gateway and scheduler, in per cent of one core,
beside the same stack with nobody watching.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table
from websockets.asyncio.client import ClientConnection, connect

from benchmarks.report import markdown, write_section
from tests.e2e.stack import Stack, Stacks

WATCHERS = 100
IDLE = 1_000
HEADS = ("what", "events each", "gateway, % of a core", "scheduler, % of a core", "gateway, MiB")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="hg-bench-"))
    stacks = Stacks(folder)
    try:
        # Slow answers, so that one request runs and streams for as long as is measured.
        stack = stacks.start(HEADGATE_EMULATOR_TOKENS_PER_SECOND="2", HEADGATE_EMULATOR_FIRST_TOKEN_MS="100")
        rows = asyncio.run(_measure(stack, options.seconds))
    finally:
        stacks.stop_all()
        shutil.rmtree(folder, ignore_errors=True)
    table = Table(*HEADS, title=f"Watching, over {options.seconds:g} s")
    for row in rows:
        table.add_row(*row)
    Console(width=120).print(table)
    if options.write:
        write_section(options.write, "watch", markdown(HEADS, rows))


async def _measure(stack: Stack, seconds: float) -> list[list[str]]:
    key = stack.demo_keys["enterprise"]
    rows = [await _row(stack, "nobody watches", seconds, [])]
    async with AsyncExitStack() as open_sockets:
        request_id = await _submitted(stack, key)
        watchers = [await open_sockets.enter_async_context(_watching(stack, request_id)) for _ in range(WATCHERS)]
        rows.append(await _row(stack, f"{WATCHERS} watch one request that streams", seconds, watchers))
    async with AsyncExitStack() as open_sockets:
        # Idle means subscribed to a request that waits and whose place does not change.
        request_id = await _submitted(stack, key)
        for _ in range(IDLE):
            await open_sockets.enter_async_context(_watching(stack, request_id, key))
        await asyncio.to_thread(stack.request, "DELETE", f"/api/diagram/{request_id}", key=key)
        await asyncio.sleep(1)
        rows.append(await _row(stack, f"{IDLE:,} idle sockets", seconds, []))
    return rows


async def _submitted(stack: Stack, key: str) -> str:
    prompt = {"prompt": "How a long story goes on and on " * 20}
    _, told = await asyncio.to_thread(stack.request, "POST", "/api/diagram/generate", prompt, key=key)
    return str(told["requestId"])


@asynccontextmanager
async def _watching(stack: Stack, request_id: str, key: str = "") -> AsyncIterator[ClientConnection]:
    async with connect(f"ws://127.0.0.1:{stack.port}/ws", compression=None, ping_interval=None) as socket:
        if key:
            await socket.send(json.dumps({"type": "auth", "apiKey": key}))
        await socket.send(json.dumps({"type": "subscribe", "requestId": request_id}))
        while json.loads(await socket.recv())["type"] != "subscribed":
            pass
        yield socket


async def _row(stack: Stack, what: str, seconds: float, watchers: list[ClientConnection]) -> list[str]:
    children = {name: stack.children()[name] for name in ("gateway", "scheduler")}
    before = {name: _cpu_s(child) for name, child in children.items()}
    counts = await asyncio.gather(*(_count(socket, seconds) for socket in watchers), asyncio.sleep(seconds))
    used = {name: (_cpu_s(child) - before[name]) / seconds * 100 for name, child in children.items()}
    events = f"{min(counts[:-1])} to {max(counts[:-1])}" if watchers else "-"
    memory = children["gateway"].memory_info().rss / 2**20
    return [what, events, f"{used['gateway']:.1f}", f"{used['scheduler']:.1f}", f"{memory:.0f}"]


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def _count(socket: ClientConnection, seconds: float) -> int:
    count = 0
    try:
        async with asyncio.timeout(seconds):
            async for _ in socket:
                count += 1
    except TimeoutError:
        pass
    return count


if __name__ == "__main__":
    main()
