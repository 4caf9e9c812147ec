"""Accepted requests a second and latency, through HTTP, two gRPC hops and both commits.

Beside it, in the same run, a bare Starlette app that does one commit. `python -m benchmarks.accept [--seconds N]
[--write FILE]`: with FILE the tables are written into its section between markers.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.http_load import Measured, load, post
from benchmarks.report import markdown, write_section
from tests.e2e.stack import Stack, Stacks, environment, eventually, free_port
from tests.servers.postgres import PostgresServer, start_server

CLIENTS = (1, 32)
USERS = 48
"""Each enterprise user may have 1,000 requests outstanding."""
DURABLE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
PROMPT = b'{"prompt": "How a parcel travels from the shop to its reader, with every stop on the way"}'


@dataclass
class Row:
    """One line of the table."""

    what: str
    store: str
    clients: int
    measured: Measured
    cores: float
    """CPU of the measured processes, in cores."""


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    rows: list[Row] = []
    memory: dict[str, tuple[float, float]] = {}
    folder = Path(tempfile.mkdtemp(prefix="hg-bench-"))
    postgres = start_server(**DURABLE)
    try:
        for store, new_url in (("SQLite", _sqlite(folder)), ("PostgreSQL", _postgres(postgres))):
            for clients in CLIENTS:
                rows.append(_bare(store, new_url(), clients, options.seconds))
            url = "" if store == "SQLite" else new_url()
            for row, used in _headgate(store, url, folder, options.seconds):
                rows.append(row)
                memory = {name: max(memory.get(name, (0.0, 0.0)), mib) for name, mib in used.items()}
    finally:
        postgres.stop()
        shutil.rmtree(folder, ignore_errors=True)
    _print(rows, memory)
    if options.write:
        write_section(options.write, "accept", _markdown(rows, memory))


def _sqlite(folder: Path) -> Callable[[], str]:
    numbers = iter(range(1000))
    return lambda: f"sqlite:///{folder}/bare-{next(numbers)}.db"


def _postgres(server: PostgresServer) -> Callable[[], str]:
    return lambda: server.url(server.create())


def _bare(store: str, url: str, clients: int, seconds: float) -> Row:
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.bare", str(port), url]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL)
    try:
        eventually(lambda: _listens(port), within_s=20, what="the bare app")
        request = post("/", PROMPT)
        asyncio.run(load(port, clients, 1.0, lambda _: request))
        with _cpu([psutil.Process(process.pid)]) as cores:
            measured = asyncio.run(load(port, clients, seconds, lambda _: request))
        return Row("bare Starlette, one commit", store, clients, measured, cores())
    finally:
        process.terminate()
        process.wait(10)


def _headgate(
    store: str, url: str, folder: Path, seconds: float
) -> Iterator[tuple[Row, dict[str, tuple[float, float]]]]:
    stacks = Stacks(folder / f"stack-{store}")
    # The plan lets little through: what is measured is accepting. All ask the same, and each is accepted in full.
    variables = {"HEADGATE_PROVIDER_RPM": "60", "HEADGATE_CACHE_SCOPE": "off"}
    variables |= {"HEADGATE_DATABASE_URL": url} if url else {}
    try:
        stack = stacks.start(**variables)
        keys = [stack.request("POST", "/api/admin/users", {"tier": "enterprise"}, admin=True)[1] for _ in range(USERS)]
        requests = [post("/api/diagram/generate", PROMPT, X_API_Key=key["apiKey"]) for key in keys]
        asyncio.run(load(stack.port, 4, 1.0, lambda n: requests[n % USERS]))
        for clients in CLIENTS:
            processes = list(stack.children().values())
            with _cpu(processes) as cores:
                measured = asyncio.run(load(stack.port, clients, seconds, lambda n: requests[n % USERS]))
            yield Row("Headgate, two hops, two commits", store, clients, measured, cores()), _memory(stack)
    finally:
        stacks.stop_all()


def _memory(stack: Stack) -> dict[str, tuple[float, float]]:
    """MiB resident, and MiB with pages that processes share divided among them (Linux; else the same)."""
    used = {}
    for name, process in stack.children().items():
        full = process.memory_full_info()
        used[name] = (full.rss / 2**20, getattr(full, "pss", full.rss) / 2**20)
    return used


@contextmanager
def _cpu(processes: list[psutil.Process]) -> Iterator[Callable[[], float]]:
    def total() -> float:
        return sum(sum(p.cpu_times()[:2]) for p in processes)

    begun, before = time.perf_counter(), total()
    result: list[float] = []
    yield lambda: result[0]
    result.append((total() - before) / (time.perf_counter() - begun))


def _listens(port: int) -> bool:
    return any(c.laddr.port == port and c.status == "LISTEN" for c in psutil.net_connections("tcp"))


MEMORY_HEADS = ("process", "largest RSS, MiB", "shared pages divided (PSS), MiB")
HEADS = ("what", "store", "clients", "accepted/s", "p50 ms", "p95 ms", "p99 ms", "cores", "share of the bare app")


def _cells(row: Row, rows: list[Row]) -> list[str]:
    bare = next(r for r in rows if r.store == row.store and r.clients == row.clients and r.what.startswith("bare"))
    m = row.measured
    wrong = "" if set(m.statuses) == {202} else f" ({m.statuses})"
    return [
        row.what + wrong, row.store, str(row.clients), f"{m.per_second:,.0f}", f"{m.percentile_ms(0.5):.1f}",
        f"{m.percentile_ms(0.95):.1f}", f"{m.percentile_ms(0.99):.1f}", f"{row.cores:.2f}",
        f"{m.per_second / bare.measured.per_second:.2f}",
    ]  # fmt: skip


def _print(rows: list[Row], memory: dict[str, tuple[float, float]]) -> None:
    table = Table(*HEADS, title="Accepted requests")
    for row in rows:
        table.add_row(*_cells(row, rows))
    console = Console(width=140)
    console.print(table)
    used = Table(*MEMORY_HEADS, title="Memory")
    for name, (rss, pss) in memory.items():
        used.add_row(name, f"{rss:.0f}", f"{pss:.0f}")
    console.print(used)


def _markdown(rows: list[Row], memory: dict[str, tuple[float, float]]) -> str:
    where = f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, load generator on the same machine"
    used = markdown(MEMORY_HEADS, [[name, f"{rss:.0f}", f"{pss:.0f}"] for name, (rss, pss) in memory.items()])
    return f"{where}\n\n{markdown(HEADS, [_cells(row, rows) for row in rows])}\n{used}"


if __name__ == "__main__":
    main()
