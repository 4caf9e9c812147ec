"""What watching costs: 10,000 watchers, each of a request of its own, while 100 pieces of answers a second are told.

`python -m benchmarks.watch [--watchers N] [--seconds N] [--write FILE]`: cores and memory of gateway and scheduler,
beside the same stack with the same queue and nobody watching.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import psutil
import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks.http_load import load, post
from benchmarks.readers import Readers
from benchmarks.report import markdown, write_section
from tests.e2e.stack import Stack, Stacks, eventually

WATCHERS = 10_000
RUNNING = 100
"""Requests that run and stream while the others wait: at eight tokens a second about a line of a diagram each second
(50 were told a second at four), and some of them end."""
OF_A_USER = 500
CLIENTS = 16
OPEN_S = 300.0
SETTLE_S = 3.0
MEASURED = ("gateway", "scheduler", "valkey")
HEADS = (
    "what", "told a second", *(f"{name}, cores" for name in MEASURED), "gateway and scheduler, cores",
    "gateway and scheduler, MiB", "the watchers themselves, cores",
)  # fmt: skip


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--watchers", type=int, default=WATCHERS)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    # A socket each here and in the gateway, which inherits the limit.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    folder = Path(tempfile.mkdtemp(prefix="hg-bench-"))
    stacks = Stacks(folder)
    try:
        # All ask the same, and each is answered for itself.
        stack = stacks.start(
            HEADGATE_EMULATOR_TOKENS_PER_SECOND="8", HEADGATE_PROVIDER_CONCURRENCY=str(RUNNING),
            HEADGATE_GENERATORS="2", HEADGATE_CACHE_SCOPE="off",
        )  # fmt: skip
        rows = _measure(stack, options.watchers, options.seconds)
    finally:
        stacks.stop_all()
        shutil.rmtree(folder, ignore_errors=True)
    table = Table(*HEADS, title=f"Watching, over {options.seconds:g} s")
    for row in rows:
        table.add_row(*row)
    Console(width=150).print(table)
    if options.write:
        write_section(options.write, "watch", markdown(HEADS, rows))


def _measure(stack: Stack, many: int, seconds: float) -> list[list[str]]:
    keys = _submitted(stack, many)
    # They begin a few at a time.
    eventually(lambda: len(_in_state(stack, keys[:2], "processing")) > 0, within_s=60, what="some run")
    rows = [_row(stack, f"{many:,} wait, nobody watches", seconds, None)]
    readers = Readers(stack.port, [*_in_state(stack, keys, "processing"), *_in_state(stack, keys, "queued")])
    try:
        readers.ready(OPEN_S)
        time.sleep(SETTLE_S)
        readers.counts()
        rows.append(_row(stack, f"{many:,} are watched, {RUNNING} of them stream", seconds, readers))
    finally:
        readers.stop()
    return rows


def _submitted(stack: Stack, many: int) -> list[str]:
    """The keys of the users who had that many requests accepted."""
    users = -(-many // OF_A_USER)
    new = [stack.request("POST", "/api/admin/users", {"tier": "enterprise"}, admin=True)[1] for _ in range(users)]
    keys = [user["apiKey"] for user in new]
    body = json.dumps({"prompt": "How a long story goes on and on " * 20}).encode()
    calls = [post("/api/diagram/generate", body, X_API_Key=key) for key in keys]
    measured = uvloop.run(load(stack.port, CLIENTS, OPEN_S, lambda n: calls[n % users], most=many))
    if set(measured.statuses) != {202} or len(measured.latencies_ms) < many:
        raise SystemExit(f"not all were accepted: {measured.statuses}")
    return keys


def _in_state(stack: Stack, keys: Sequence[str], status: str) -> list[tuple[str, str]]:
    """(request id, key) of those users' requests in that state, the oldest of each first."""
    found = []
    for key in keys:
        cursor, items = "", []
        while cursor is not None:
            page = stack.request("GET", f"/api/diagrams?limit=100&cursor={cursor}", key=key)[1]
            items += page["items"]
            cursor = page["nextCursor"]
        found += [(item["requestId"], key) for item in reversed(items) if item["status"] == status]
    return found


def _row(stack: Stack, what: str, seconds: float, readers: Readers | None) -> list[str]:
    children = {name: stack.children()[name] for name in MEASURED}
    if readers:
        readers.counts()
    before = {name: _cpu_s(child) for name, child in children.items()}
    time.sleep(seconds)
    cores = {name: (_cpu_s(child) - before[name]) / seconds for name, child in children.items()}
    told = readers.counts() if readers else Counter[str]()
    own = told.pop("cpu_ms", 0) / 1000 / seconds
    mib = {name: children[name].memory_info().rss / 2**20 for name in MEASURED}
    events = ", ".join(f"{count / seconds:,.0f} {kind}" for kind, count in sorted(told.items())) or "-"
    return [
        what, events, *(f"{cores[name]:.2f}" for name in MEASURED), f"{cores['gateway'] + cores['scheduler']:.2f}",
        f"{mib['gateway'] + mib['scheduler']:.0f}", f"{own:.2f}",
    ]  # fmt: skip


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    main()
