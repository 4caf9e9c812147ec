"""The wait that was told at submit against the wait that was had; virtual time, the real scripts on a real Valkey.

`python -m benchmarks.waits [--write FILE]`. Aim, over waits of more than 5 s: median error at most 10%, 90th
percentile at most 25%. The burst that takes 20 s to come shows what nobody can know: who is among its first is told a
wait without the rest of it.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.ticker import NullFormatter

from benchmarks import report
from benchmarks.loads import LOADS, Lengths, Load
from services.scheduler.planner.drive import Drive, Journey
from services.scheduler.planner.virtual import virtual_line
from tests.servers.valkey import ValkeyServer

LEAST_MS = 5_000
HEADS = ("load", "requests", "waited over 5 s", "longest wait, s", "median error", "90th percentile", "bias (median)")
POINTS = 250
"""Of each load's in the plot."""


@dataclass(frozen=True)
class Told:
    """One request: what it was told and what it had."""

    told_ms: int
    had_ms: int

    @property
    def error(self) -> float:
        """Part of what was had; positive: told too long."""
        return (self.told_ms - self.had_ms) / self.had_ms


def main() -> None:
    """Measures, prints and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--write", type=Path, help="put the table into its section of this file, and the plot beside it"
    )
    options = parser.parse_args()
    found = asyncio.run(measure())
    rows = [row(load, journeys) for load, journeys in found]
    report.publish(None, "waits", "Wait told at submit against wait had", HEADS, rows)
    if options.write:
        table = report.markdown(HEADS, rows)
        report.write_section(options.write, "waits", f"Virtual time: nothing here depends on the machine.\n\n{table}")
        draw([(load.name, long_waits(journeys)) for load, journeys in found], options.write.parent / "waits.svg")


async def measure() -> list[tuple[Load, list[Journey]]]:
    """Runs every load to its end."""
    server = ValkeyServer(Path(tempfile.mkdtemp(prefix="hg-bench-")), ("--appendonly", "no"))
    server.start()
    try:
        found = []
        for load in LOADS:
            async with virtual_line(server.url, "bench") as line:
                lengths = Lengths(random.Random(2), load.median_tokens, load.sigma)
                drive = Drive(line, "bench", load.plan, lengths)
                found.append((load, await drive.run(load.arrivals(random.Random(1)))))
        return found
    finally:
        server.kill()
        shutil.rmtree(server.folder, ignore_errors=True)


def long_waits(journeys: Sequence[Journey]) -> list[Told]:
    """Those that waited long enough for the word to matter."""
    waited = [(journey.told, journey.waited_ms or 0) for journey in journeys]
    return [Told(told.wait_ms, had_ms) for told, had_ms in waited if told and had_ms > LEAST_MS]


def row(load: Load, journeys: Sequence[Journey]) -> list[str]:
    """A load's line of the table."""
    told = long_waits(journeys)
    signed, errors = sorted(t.error for t in told), sorted(abs(t.error) for t in told)
    cells = [load.name, f"{len(journeys):,}", f"{len(told):,}", f"{max(t.had_ms for t in told) / 1000:,.0f}"]
    cells += [f"{errors[len(errors) // 2]:.1%}", f"{errors[int(0.9 * len(errors))]:.1%}"]
    return [*cells, f"{signed[len(signed) // 2]:+.1%}"]


def draw(loads: Sequence[tuple[str, list[Told]]], path: Path) -> None:
    """Told against had, a panel for each load."""
    plt.rcParams |= {"svg.hashsalt": "headgate", "svg.fonttype": "none"}
    figure, panels = plt.subplots(2, 3, figsize=(9, 6), layout="constrained")
    for axes, (name, told) in zip(panels.flat, loads, strict=True):
        some = random.Random(3).sample(told, min(POINTS, len(told)))
        longest_s = max(t.had_ms for t in some) / 1000
        axes.fill_between([5, longest_s], [3.75, 0.75 * longest_s], [6.25, 1.25 * longest_s], color="#dfe8f0", lw=0)
        axes.plot([5, longest_s], [5, longest_s], color="#5b7083", lw=0.8)
        had, words = [t.had_ms / 1000 for t in some], [max(0.1, t.told_ms / 1000) for t in some]
        axes.scatter(had, words, s=5, color="#c2410c", alpha=0.45, linewidths=0, rasterized=True)
        axes.set(xscale="log", yscale="log", title=name, xlabel="had, s", ylabel="told, s")
        axes.set_ylim(bottom=1)
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.title.set_fontsize(9)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110, metadata={"Date": None})


if __name__ == "__main__":
    main()
