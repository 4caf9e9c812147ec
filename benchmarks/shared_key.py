"""The key is used by somebody else too, for a third of its limit, of whom nothing is known but what answers show.

`python -m benchmarks.shared_key [--seconds N] [--write FILE]`. They call at an even pace and are never refused, so
what is left is a known figure. Aim: 0.9 of it used, 429s at most 3%.
"""

from __future__ import annotations

from benchmarks import report
from benchmarks.book import passed, refused, refused_share, requests_used
from benchmarks.rig import INSTANT, system
from benchmarks.timeline import timeline

PER_MINUTE = 600
FOREIGN_SHARE = 1 / 3
LEFT_PER_MINUTE = PER_MINUTE * (1 - FOREIGN_SHARE)
HEADS = ("s", "calls", "let in", "ideal", "of what is left used", "in the second half", "429s", "of all calls")


def main() -> None:
    """Measures and prints."""
    parser = report.parser(__doc__)
    parser.add_argument("--seconds", type=float, default=180.0)
    options = parser.parse_args()
    limits = {"HEADGATE_PROVIDER_PLAN": "scale", "HEADGATE_PROVIDER_RPM": str(PER_MINUTE)}
    prompts = [f"How parcel {n} travels" for n in range(int(1.2 * PER_MINUTE * options.seconds / 60))]
    with system(**limits, **INSTANT) as headgate, timeline(headgate, options.timeline, "shared-key"):
        headgate.upstream.share(FOREIGN_SHARE)
        begun_s = headgate.ask(prompts, within_s=options.seconds).begun_s
        calls = headgate.upstream.calls()
    end_s, middle_s = begun_s + options.seconds, begun_s + options.seconds / 2
    row = [
        f"{options.seconds:g}", str(len(calls)), str(len(passed(calls))),
        f"{LEFT_PER_MINUTE * options.seconds / 60:.0f}",
        *(f"{requests_used(calls, LEFT_PER_MINUTE, from_s, end_s):.3f}" for from_s in (begun_s, middle_s)),
        str(refused(calls)), f"{refused_share(calls):.2%}",
    ]  # fmt: skip
    title = f"A key of {PER_MINUTE} requests a minute, a third of it used by somebody else"
    report.publish(options.write, "shared-key", title, HEADS, [row])


if __name__ == "__main__":
    main()
