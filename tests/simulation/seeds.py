"""`make sim SEED=7`, `make sim SEEDS=1000`: runs seeds and prints of each that failed its faults and its history.

A run is a function of its seed and of the order of Python's sets, so PYTHONHASHSEED is always the same.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.servers.valkey import ValkeyServer
from tests.simulation import mutations
from tests.simulation.checker import check
from tests.simulation.order import ORDERLY
from tests.simulation.scenario import Scenario, scenario_of
from tests.simulation.world import World, run

MANY_VIOLATIONS = 12
LINES = 60


@dataclass(frozen=True)
class Report:
    """What one seed came to."""

    seed: int
    text: str
    violations: tuple[str, ...]
    digest: str
    took_s: float
    crashed: bool = False
    """The simulation itself failed."""


@contextmanager
def valkey() -> Iterator[tuple[Path, Path]]:
    """(socket, folder) of a server that keeps nothing."""
    server = ValkeyServer(Path(tempfile.mkdtemp(prefix="headgate-sim-")), ("--appendonly", "no"))
    server.start()
    try:
        yield server.folder / "valkey.sock", server.folder
    finally:
        server.kill()
        shutil.rmtree(server.folder, ignore_errors=True)


def report_on(scenario: Scenario, socket: Path, folder: Path, *, mutation: str = "", brief: bool = False) -> Report:
    """Runs one seed and holds what is left against every promise."""
    seed, begun = scenario.seed, time.perf_counter()
    try:
        with mutations.applied(mutation, folder):
            world = run(scenario, socket, folder)
        found = check(world)
        # Beyond a spend limit work waits and nothing is used.
        if not scenario.faulty and scenario.max_spend_nano_usd is None:
            found += [f"{promise.__name__}: {broken}" for promise in ORDERLY for broken in promise(world)]
        text, digest = _told(world, found, brief=brief), world.history.digest
        world.valkey.close()
    except Exception:
        text = f"{scenario}\n{traceback.format_exc()}"
        return Report(seed, text, ("the simulation failed",), "", time.perf_counter() - begun, crashed=True)
    return Report(seed, text, tuple(found), digest, time.perf_counter() - begun)


def _told(world: World, violations: Sequence[str], *, brief: bool) -> str:
    lines = [str(world.scenario)]
    if not violations:
        return lines[0]
    if brief:
        return "\n".join([*lines, *(f"  BROKEN {violation}" for violation in violations[:3])])
    lines += [f"  BROKEN {violation}" for violation in violations[:MANY_VIOLATIONS]]
    lines += [f"  … and {len(violations) - MANY_VIOLATIONS} more"] * (len(violations) > MANY_VIOLATIONS)
    lines += ["  what went wrong on purpose:"] + [f"    {fault}" for fault in world.history.faults[:LINES]]
    named = next((word.rstrip(":") for v in violations for word in v.split() if word.startswith("req_")), "")
    about = (
        world.history.about(named, many=LINES) if named else [text for _, text in list(world.history.lines)[-LINES:]]
    )
    lines += [f"  what happened{f' to {named}' if named else ''}:"] + [f"    {line}" for line in about]
    return "\n".join([*lines, f"  again: make sim SEED={world.scenario.seed}"])


def _seeds(text: str) -> list[int]:
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1))


def _noticed(name: str, *, control: bool) -> bool:
    """Breaks one mechanism where it is needed and says which seed noticed it by what."""
    provoked = mutations.PROVOKED[name]
    with valkey() as (socket, folder):
        for seed in provoked.seeds:
            broken = "" if control else name
            report = report_on(provoked.scenario(seed), socket, folder, mutation=broken, brief=True)
            if report.crashed or (control and report.violations):
                print(report.text)
                return False
            if report.violations:
                print(f"noticed: {name}: by seed {seed}: {report.violations[0][:150]}", flush=True)
                return True
    print(f"{'kept' if control else 'NOT NOTICED'}: {name}", flush=True)
    return control


def _share(job: tuple[list[int], str, bool | None, bool]) -> list[Report]:
    seeds, mutation, faulty, brief = job
    with valkey() as (socket, folder):
        reports = []
        for seed in seeds:
            reports.append(report_on(scenario_of(seed, faulty=faulty), socket, folder, mutation=mutation, brief=brief))
            mark = "." if not reports[-1].violations else f"\n{reports[-1].text}\n"
            print(mark, end="", flush=True)
            if mutation and reports[-1].violations:
                break
        return reports


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    options.add_argument("--seeds", type=_seeds, default=[0], help="one, or a range such as 0-999")
    options.add_argument("--workers", type=int, default=1, help="processes that share them")
    options.add_argument("--mutation", default="", help=f"break this first: {', '.join(mutations.NAMES)}")
    options.add_argument("--noticed", nargs="*", metavar="NAME", help="break each, and say which seed noticed")
    options.add_argument("--control", action="store_true", help="the same runs with nothing broken")
    options.add_argument("--faults", choices=("yes", "no"), help="only such; the seed decides by itself")
    options.add_argument("--brief", action="store_true", help="without the history of seeds that failed")
    options.add_argument("--digests", action="store_true", help="print each seed's history as a hash")
    chosen = options.parse_args()
    if chosen.noticed is not None:
        results = [_noticed(name, control=chosen.control) for name in chosen.noticed or mutations.NAMES]
        return 0 if all(results) else 1
    faulty = None if chosen.faults is None else chosen.faults == "yes"
    jobs = [(chosen.seeds[n :: chosen.workers], chosen.mutation, faulty, chosen.brief) for n in range(chosen.workers)]
    if chosen.workers == 1:
        reports = _share(jobs[0])
    else:
        with multiprocessing.get_context("spawn").Pool(chosen.workers) as pool:
            reports = [report for share in pool.map(_share, jobs) for report in share]
    broken = sorted(report.seed for report in reports if report.violations)
    slowest = max(report.took_s for report in reports)
    print(f"\n{len(reports)} seeds, {len(broken)} broken {broken if broken else ''}, slowest {slowest:.1f} s")
    for report in sorted(reports, key=lambda r: r.seed) if chosen.digests else ():
        print(f"digest {report.seed} {report.digest}")
    return 1 if broken else 0
