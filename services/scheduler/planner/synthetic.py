"""Made-up traffic: so many users of each tier, so many requests a day of each, at the hours that people keep."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from services.clock import DAY_MS
from services.scheduler.intake import MAX_TOKENS
from services.scheduler.planner.drive import Answer, Arrival
from services.scheduler.planner.traffic import MOST_REQUESTS, Traffic, TrafficError

HOUR_MS = DAY_MS // 24
CURVES: Mapping[str, Sequence[int]] = {
    "flat": [1] * 24,
    "office": [1, 1, 1, 1, 1, 2, 4, 8, 14, 18, 20, 18, 12, 15, 18, 18, 16, 12, 7, 5, 4, 3, 2, 1],
    "evening": [6, 3, 2, 1, 1, 1, 2, 4, 5, 5, 6, 7, 8, 8, 8, 9, 11, 14, 18, 21, 22, 20, 16, 10],
}
"""Weight of each hour (UTC): made up, of the shapes that sites for work and for leisure have."""
SIGMA = 0.8
"""Spread of log-normal lengths: one in ten is twice the mean or longer."""
FIRST_TOKEN_MS = 600
TOKENS_PER_SECOND = 70
"""A current model's pace, as in benchmarks/loads.py."""


@dataclass(frozen=True)
class Mix:
    """What one site's day looks like."""

    users: Mapping[str, int]
    requests_a_day: Mapping[str, float]
    """Of each user of the tier."""
    curve: Sequence[float]
    input_tokens: int
    output_tokens: int
    """Means."""
    days: int
    seed: int


def make(mix: Mix) -> Traffic:
    """The same for the same seed. `TrafficError` if it would be too much."""
    total = mix.days * sum(count * mix.requests_a_day[tier] for tier, count in mix.users.items())
    if not 1 <= total <= MOST_REQUESTS:
        raise TrafficError(f"that makes {total:,.0f} requests; from 1 to {MOST_REQUESTS:,} can be simulated")
    dice = random.Random(mix.seed)  # noqa: S311
    return Traffic(sorted(_arrivals(mix, dice), key=lambda arrival: arrival.at_ms), mix.users, mix.days)


def _arrivals(mix: Mix, dice: random.Random) -> Iterator[Arrival]:
    hours = list(accumulate(mix.curve))
    for tier, count in mix.users.items():
        whole, part = divmod(mix.requests_a_day[tier], 1)
        for user in range(count):
            for day in range(mix.days):
                for _ in range(int(whole) + (dice.random() < part)):
                    hour = dice.choices(range(24), cum_weights=hours)[0]
                    at_ms = day * DAY_MS + hour * HOUR_MS + dice.randrange(HOUR_MS)
                    output = _length(dice, mix.output_tokens)
                    answer = Answer(output, FIRST_TOKEN_MS + round(1000 * output / TOKENS_PER_SECOND))
                    yield Arrival(at_ms, f"{tier}{user}", tier, _length(dice, mix.input_tokens), answer=answer)


def _length(dice: random.Random, mean: int) -> int:
    tokens = dice.lognormvariate(math.log(mean) - SIGMA**2 / 2, SIGMA)
    return max(1, min(MAX_TOKENS, round(tokens)))
