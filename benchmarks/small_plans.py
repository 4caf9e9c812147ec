"""Provider plans of 25 and of 5 requests a minute, side by side for a few minutes, each with more work than it can do.

`python -m benchmarks.small_plans [--seconds N] [--write FILE]`. Aim: 0.98 of the limit, and no 429.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks import report
from benchmarks.book import ideal_s, passed, refused
from benchmarks.rig import system
from benchmarks.timeline import timeline

PLANS = (25, 5)
HEADS = ("requests a minute", "calls let in", "in, s", "ideal, s", "of the limit", "429s")


def main() -> None:
    """Measures and prints."""
    parser = report.parser(__doc__)
    parser.add_argument("--seconds", type=float, default=240.0)
    options = parser.parse_args()
    with ThreadPoolExecutor(len(PLANS)) as threads:
        rows = list(threads.map(lambda plan: _measured(plan, options.seconds, options.timeline), PLANS))
    report.publish(options.write, "small-plans", f"Small plans, {options.seconds:g} s each", HEADS, rows)


def _measured(per_minute: int, seconds: float, folder: Path | None) -> list[str]:
    prompts = [f"How parcel {n} travels" for n in range(int(1.5 * per_minute * seconds / 60))]
    limits = {"HEADGATE_PROVIDER_PLAN": "5x", "HEADGATE_PROVIDER_RPM": str(per_minute)}
    with system(**limits) as headgate, timeline(headgate, folder, f"small-{per_minute}"):
        headgate.ask(prompts, within_s=seconds)
        calls = headgate.upstream.calls()
    let_in = passed(calls)
    took_s = let_in[-1].at_s - let_in[0].at_s
    wanted_s = ideal_s(len(let_in), per_minute)
    return [
        str(per_minute), str(len(let_in)), f"{took_s:.1f}", f"{wanted_s:.1f}", f"{wanted_s / took_s:.3f}",
        str(refused(calls)),
    ]  # fmt: skip


if __name__ == "__main__":
    main()
