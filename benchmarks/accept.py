"""Accepted requests a second and latency, through HTTP, two gRPC hops and both commits, with two replicas of each
service on shared stores; and where the CPU goes, by process, the load generator included.

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
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks.http_load import Measured, load, post
from benchmarks.replicas import Replicas
from benchmarks.report import markdown, write_section
from tests.e2e.stack import environment, eventually, free_port
from tests.servers.postgres import PostgresServer, start_server

CLIENTS = (2, 32)
WARM_UP_S = 1.5
USERS = 48
"""Each enterprise user may have 1,000 requests outstanding."""
DURABLE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
PROMPT = b'{"prompt": "How a parcel travels from the shop to its reader, with every stop on the way"}'
LOAD = "load generator"
Processes = Callable[[], list[tuple[str, psutil.Process]]]
"""(service, process) of all that works for the answers now; a service may have many."""


@dataclass
class Row:
    """One line of the table."""

    what: str
    store: str
    clients: int
    measured: Measured
    cpu_s: dict[str, float]
    """CPU seconds by service, and of the load generator."""


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
        for store, server in (("SQLite", None), ("PostgreSQL", postgres)):
            for clients in CLIENTS:
                url = server.url(server.create()) if server else f"sqlite:///{folder}/bare-{clients}.db"
                rows.append(_bare(store, url, server, clients, options.seconds))
            rows += _headgate(store, server, folder / store, options.seconds, memory)
    finally:
        postgres.stop()
        shutil.rmtree(folder, ignore_errors=True)
    tables = [("Accepted requests", HEADS, [_cells(row, rows) for row in rows]), ("CPU", *_cpu_table(rows))]
    tables.append(("Memory", MEMORY_HEADS, [[n, f"{rss:.0f}", f"{pss:.0f}"] for n, (rss, pss) in memory.items()]))
    _print(tables)
    if options.write:
        where = f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, load generator on the same machine."
        parts = "\n".join(markdown(heads, lines) for _, heads, lines in tables)
        write_section(options.write, "accept", f"{where}\n\n{parts}")


def _bare(store: str, url: str, server: PostgresServer | None, clients: int, seconds: float) -> Row:
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.bare", str(port), url]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL)
    try:
        eventually(lambda: _listens(port), within_s=20, what="the bare app")
        request = post("/", PROMPT)
        own = [("bare app", psutil.Process(process.pid))]
        return _measured("bare Starlette, one commit", store, [port], clients, seconds, [request], own, server)
    finally:
        process.terminate()
        process.wait(10)


def _headgate(
    store: str, server: PostgresServer | None, folder: Path, seconds: float, memory: dict[str, tuple[float, float]]
) -> Iterator[Row]:
    # The plan lets little through: what is measured is accepting. All ask the same, and each is accepted in full.
    url = server.url(server.create()) if server else ""
    replicas = Replicas(folder, url, HEADGATE_PROVIDER_RPM="60", HEADGATE_CACHE_SCOPE="off")
    try:
        keys = [replicas.new_user("enterprise")["apiKey"] for _ in range(USERS)]
        requests = [post("/api/diagram/generate", PROMPT, X_API_Key=key) for key in keys]
        own = [(name.split("-")[0], process) for name, process in replicas.processes.items()]
        what = "Headgate, two replicas of each, two commits"
        for clients in CLIENTS:
            yield _measured(what, store, replicas.gateways, clients, seconds, requests, own, server)
        for service, process in own:
            rss, pss = _memory(process)
            memory[service] = max(memory.get(service, (0.0, 0.0)), (rss, pss))
        for name, lines in replicas.complaints().items():
            print(f"{name}: {lines}")
    finally:
        replicas.stop()


def _measured(
    what: str, store: str, ports: Sequence[int], clients: int, seconds: float, requests: Sequence[bytes],
    own: Sequence[tuple[str, psutil.Process]], server: PostgresServer | None,
) -> Row:  # fmt: skip
    async def both(seconds: float) -> Measured:
        # Each gateway gets its part of the clients, and every user calls at each.
        parts = [
            load(port, clients // len(ports), seconds, lambda n, i=i: requests[(n + i * 7) % len(requests)])
            for i, port in enumerate(ports)
        ]
        return Measured.together(await asyncio.gather(*parts))

    def processes() -> list[tuple[str, psutil.Process]]:
        others = [("PostgreSQL", p) for p in psutil.Process(server.process.pid).children(True)] if server else []
        return [*own, *others, (LOAD, psutil.Process())]

    uvloop.run(both(WARM_UP_S))
    with _cpu(processes) as cpu_s:
        measured = uvloop.run(both(seconds))
    return Row(what, store, clients, measured, cpu_s)


def _memory(process: psutil.Process) -> tuple[float, float]:
    """MiB resident, and MiB with pages that processes share divided among them (Linux; else the same)."""
    full = process.memory_full_info()
    return full.rss / 2**20, getattr(full, "pss", full.rss) / 2**20


@contextmanager
def _cpu(processes: Processes) -> Iterator[dict[str, float]]:
    def total() -> dict[tuple[str, int], float]:
        found = {}
        for name, process in processes():
            # A server process of PostgreSQL may end between the list and the look.
            try:
                found[name, process.pid] = sum(process.cpu_times()[:2])
            except psutil.NoSuchProcess:
                continue
        return found

    before, used = total(), Counter[str]()
    yield used
    for (name, pid), cpu_s in total().items():
        used[name] += cpu_s - before.get((name, pid), 0.0)


def _listens(port: int) -> bool:
    return any(c.laddr.port == port and c.status == "LISTEN" for c in psutil.net_connections("tcp"))


MEMORY_HEADS = ("process", "largest RSS, MiB", "shared pages divided (PSS), MiB")
HEADS = ("what", "store", "clients", "accepted/s", "p50 ms", "p95 ms", "p99 ms", "cores", "share of the bare app")


def _cells(row: Row, rows: Sequence[Row]) -> list[str]:
    bare = next(r for r in rows if r.store == row.store and r.clients == row.clients and r.what.startswith("bare"))
    m = row.measured
    wrong = "" if set(m.statuses) == {202} else f" ({m.statuses})"
    return [
        row.what + wrong, row.store, str(row.clients), f"{m.per_second:,.0f}", f"{m.percentile_ms(0.5):.1f}",
        f"{m.percentile_ms(0.95):.1f}", f"{m.percentile_ms(0.99):.1f}", f"{sum(row.cpu_s.values()) / m.seconds:.2f}",
        f"{m.per_second / bare.measured.per_second:.2f}",
    ]  # fmt: skip


def _cpu_table(rows: Sequence[Row]) -> tuple[tuple[str, ...], list[list[str]]]:
    """CPU milliseconds a request under the larger load, by service and store, all replicas together."""
    busy = [row for row in rows if row.clients == CLIENTS[-1] and not row.what.startswith("bare")]
    services = list(dict.fromkeys(service for row in busy for service in row.cpu_s))
    many = [len(row.measured.latencies_ms) for row in busy]
    lines = [
        [service, *(f"{row.cpu_s.get(service, 0.0) / n * 1000:.2f}" for row, n in zip(busy, many, strict=True))]
        for service in services
    ]
    lines.append(["all", *(f"{sum(row.cpu_s.values()) / n * 1000:.2f}" for row, n in zip(busy, many, strict=True))])
    return ("CPU ms a request, all replicas", *(row.store for row in busy)), lines


def _print(tables: Sequence[tuple[str, Sequence[str], Sequence[Sequence[str]]]]) -> None:
    console = Console(width=150)
    for title, heads, lines in tables:
        table = Table(*heads, title=title)
        for line in lines:
            table.add_row(*line)
        console.print(table)


if __name__ == "__main__":
    main()
