"""The burst with output tokens scarce, and answers of unknown, heavy-tailed length.

`python -m benchmarks.scarce [--write FILE]`. The upstream counts output as it is made, once in a bucket of a minute's
worth and once in the strictest, of a second's. Aim: 0.97 of the limit used while work waits, 429s at most 0.5%.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from benchmarks import report
from benchmarks.book import Call, Pace, output_used, passed, refused, refused_share
from benchmarks.rig import system
from benchmarks.timeline import timeline

REQUESTS = 600
PER_MINUTE = 1_200
OUTPUT_PER_MINUTE = 150_000
PACE = Pace(first_token_s=0.3, tokens_per_second=200)
SHORTEST, SHAPE, LONGEST = 100, 1.2, 8_000
"""Pareto: half are shorter than 190 tokens, and the longest twentieth makes two fifths of all output."""
BUCKETS = (("a minute's", 60_000), ("a second's", 1_000))
HEADS = ("bucket of output", "answered", "last, s", "limit used while work waits", "calls", "429s", "of all calls")


def main() -> None:
    """Measures and prints."""
    options = report.parser(__doc__).parse_args()
    lengths = _lengths()
    rows = [_measured(name, ms, lengths, options.timeline) for name, ms in BUCKETS]
    title = (
        f"{REQUESTS} requests at once at {PER_MINUTE:,} a minute and {OUTPUT_PER_MINUTE:,} output tokens; "
        f"answers of {min(lengths)} to {max(lengths):,} tokens, mean {sum(lengths) / REQUESTS:.0f}"
    )
    report.publish(options.write, "scarce", title, HEADS, rows)


def _lengths() -> list[int]:
    rng = random.Random(4)
    return [min(LONGEST, int(SHORTEST * rng.paretovariate(SHAPE))) for _ in range(REQUESTS)]


def _measured(name: str, burst_ms: int, lengths: Sequence[int], folder: Path | None) -> list[str]:
    limits = {
        "HEADGATE_PROVIDER_PLAN": "scale", "HEADGATE_PROVIDER_RPM": str(PER_MINUTE),
        "HEADGATE_PROVIDER_OTPM": str(OUTPUT_PER_MINUTE), "HEADGATE_EMULATOR_TOKEN_BURST_MS": str(burst_ms),
        "HEADGATE_EMULATOR_FIRST_TOKEN_MS": str(int(PACE.first_token_s * 1000)),
        "HEADGATE_EMULATOR_TOKENS_PER_SECOND": str(int(PACE.tokens_per_second)),
    }  # fmt: skip
    prompts = [f"[emulate {length} tokens] How parcel {n} travels" for n, length in enumerate(lengths)]
    with system(**limits) as headgate, timeline(headgate, folder, f"scarce-{burst_ms}"):
        answers = headgate.ask(prompts, within_s=3 * sum(lengths) * 60 / OUTPUT_PER_MINUTE)
        calls = headgate.upstream.calls()
    return [
        name, f"{len(answers.answered_s)} of {REQUESTS}", f"{answers.last_s:.0f}", f"{_used(calls):.3f}",
        f"{len(calls):,}", f"{refused(calls):,}", f"{refused_share(calls):.2%}",
    ]  # fmt: skip


def _used(calls: Sequence[Call]) -> float:
    """From the first call to the last: while work waited."""
    begun_s = [call.at_s for call in passed(calls)]
    return output_used(calls, OUTPUT_PER_MINUTE, min(begun_s), max(begun_s), PACE)


if __name__ == "__main__":
    main()
