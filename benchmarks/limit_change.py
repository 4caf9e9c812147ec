"""A limit that the provider lowers and raises in mid-run and tells by nothing but its headers; provider plan `auto`.

`python -m benchmarks.limit_change [--write FILE]`. Aim: followed within 10 s. Followed means that from then on the
calls let in over three seconds are within a tenth of the limit.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot as plt

from benchmarks import report
from benchmarks.book import Call, followed_s, refused, requests_used
from benchmarks.rig import INSTANT, Upstream, system
from benchmarks.timeline import timeline

STEPS = ((0.0, 600), (30.0, 240), (60.0, 900), (90.0, 120), (120.0, 300))
"""Seconds since the beginning, requests a minute from then on."""
SECONDS = 150.0
SETTLE_S = 10.0
HEADS = ("requests a minute", "from, s", "followed after, s", "of the limit used later than 10 s on", "calls", "429s")


def main() -> None:
    """Measures and prints."""
    options = report.parser(__doc__).parse_args()
    limits = {"HEADGATE_PROVIDER_PLAN": "auto", "HEADGATE_EMULATOR_RPM": str(STEPS[0][1])}
    prompts = [f"How parcel {n} travels from the shop to its reader" for n in range(1_500)]
    changed_s = [0.0 for _ in STEPS]
    with system(**limits, **INSTANT) as headgate, timeline(headgate, options.timeline, "limit-change"):
        provider = threading.Thread(target=_change, args=(headgate.upstream, changed_s), daemon=True)
        provider.start()
        answers = headgate.ask(prompts, within_s=SECONDS)
        provider.join()
        calls = headgate.upstream.calls()
    changed_s[0] = answers.begun_s
    if options.write:
        _plot(calls, answers.begun_s, options.write.with_name("limit-change.svg"))
    rows = _rows(calls, [*changed_s, answers.begun_s + SECONDS])
    report.publish(options.write, "limit-change", "A limit seen only in headers, plan auto", HEADS, rows)


def _change(upstream: Upstream, changed_s: list[float]) -> None:
    begun_s = time.time()
    for number, (after_s, limit) in enumerate(STEPS[1:], 1):
        time.sleep(max(0.0, begun_s + after_s - time.time()))
        upstream.change(rpm=limit)
        changed_s[number] = time.time()


def _plot(calls: Sequence[Call], begun_s: float, path: Path) -> None:
    """Calls let in during each second, over what the limit gives."""
    let_in = Counter(int(call.at_s - begun_s) for call in calls if call.passed)
    starts, limits = zip(*STEPS, strict=True)
    plt.rcParams["svg.hashsalt"] = "headgate"
    figure, axes = plt.subplots(figsize=(9, 3))
    axes.bar(range(int(SECONDS)), [let_in[s] for s in range(int(SECONDS))], 1.0, align="edge", label="calls let in")
    axes.stairs(
        [limit / 60 for limit in limits], [*starts, SECONDS], color="black", label="limit, told only by headers"
    )
    axes.set(xlabel="seconds", ylabel="a second", xlim=(0, SECONDS))
    axes.legend()
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
    plt.close(figure)


def _rows(calls: Sequence[Call], moments: Sequence[float]) -> list[list[str]]:
    rows = []
    for (after_s, limit), (from_s, until_s) in zip(STEPS, pairwise(moments), strict=True):
        these = [call for call in calls if from_s <= call.at_s < until_s]
        followed = followed_s(these, limit, from_s)
        used = requests_used(these, limit, from_s + SETTLE_S, until_s)
        shown = "never" if followed is None else f"{followed:.1f}"
        rows.append([str(limit), f"{after_s:.0f}", shown, f"{used:.3f}", str(len(these)), str(refused(these))])
    return rows


if __name__ == "__main__":
    main()
