"""Second by second, the upstream's book beside our own idea of its limits: where a loss or a 429 comes from."""

from __future__ import annotations

import contextlib
import csv
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from benchmarks.rig import System

SAMPLE_S = 0.2
FIELDS = ("level:requests", "level:output_tokens", "header:requests", "mean_output", "paused_until", "part")


@contextmanager
def timeline(system: System, folder: Path | None, name: str) -> Iterator[None]:
    """Writes `name`.csv and `name`-calls.csv into the folder, if there is one."""
    if folder is None:
        yield
        return
    samples: list[dict[str, str]] = []
    stopping, begun_s = threading.Event(), time.time()
    sampler = threading.Thread(target=_sample, args=(_valkey(system.stack.data_dir), samples, stopping), daemon=True)
    sampler.start()
    try:
        yield
    finally:
        stopping.set()
        sampler.join()
        folder.mkdir(parents=True, exist_ok=True)
        _write(system, samples, begun_s, folder / name)


def _valkey(data: Path) -> Any:
    note = data / "sockets"
    sockets = Path(note.read_text().strip()) if note.exists() else data / "run"
    return redis.Redis(unix_socket_path=str(sockets / "valkey.sock"), decode_responses=True)


def _sample(valkey: Any, samples: list[dict[str, str]], stopping: threading.Event) -> None:
    while not stopping.wait(SAMPLE_S):
        with contextlib.suppress(redis.RedisError):
            # Only the pool that is used has heard from the provider.
            for key in valkey.keys("hg:*:bucket"):
                bucket = valkey.hgetall(key)
                running = valkey.zcard(key.removesuffix("bucket") + "leases")
                if "header:requests" in bucket:
                    samples.append({"at_s": str(time.time()), "leases": str(running), **bucket})


def _write(system: System, samples: list[dict[str, str]], begun_s: float, path: Path) -> None:
    calls = system.upstream.calls()
    by_second = Counter((int(call.at_s - begun_s), call.status) for call in calls)
    with path.with_suffix(".csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["second", "passed", "refused", "leases", *FIELDS])
        last = {int(float(sample["at_s"]) - begun_s): sample for sample in samples}
        for second in range(max([*last, *(s for s, _ in by_second)], default=-1) + 1):
            sample = last.get(second, {})
            counts = by_second[(second, 200)], by_second[(second, 429)], sample.get("leases", "")
            rows.writerow([second, *counts, *(sample.get(field, "")[:9] for field in FIELDS)])
    with path.with_name(f"{path.name}-calls.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["at_s", "status", "input_tokens", "output_tokens"])
        for call in calls:
            rows.writerow([f"{call.at_s - begun_s:.3f}", call.status, call.input_tokens, call.output_tokens])
