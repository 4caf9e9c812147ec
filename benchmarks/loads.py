"""Made-up traffic for benchmarks in virtual time: who sends when, and how long the answers are."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from services.scheduler.planner.drive import Answer, Arrival, Plan

SHARES = {"free": 1, "basic": 2, "pro": 4, "enterprise": 8}
SENT = {"free": 0.6, "basic": 0.25, "pro": 0.1, "enterprise": 0.05}
"""Of all requests, by tier."""
CAPS = {"free": 10, "basic": 25, "pro": 100, "enterprise": 1_000}
USERS = {"free": 10_000, "basic": 1_000, "pro": 100, "enterprise": 10}
"""Many of the lower tiers: their places of a day are few, so no one of them sends much."""
FIRST_TOKEN_MS = 600
TOKENS_PER_SECOND = 70
"""A current model's pace."""
LONGEST_TOKENS = 16_000


class Lengths:
    """Log-normal answer lengths that are known only when they are written."""

    def __init__(self, dice: random.Random, median_tokens: float, sigma: float) -> None:
        self._dice = dice
        self._median_tokens = median_tokens
        self._sigma = sigma

    def answer(self, arrival: Arrival) -> Answer:
        """How one attempt goes."""
        tokens = min(LONGEST_TOKENS, max(20, round(self._median_tokens * self._dice.lognormvariate(0, self._sigma))))
        return Answer(tokens, FIRST_TOKEN_MS + round(1000 * tokens / TOKENS_PER_SECOND))


@dataclass(frozen=True)
class Load:
    """One kind of traffic against one provider plan."""

    name: str
    plan: Plan
    median_tokens: float
    sigma: float
    arrivals: Callable[[random.Random], list[Arrival]]


def arrival(dice: random.Random, at_ms: float, tier: str | None = None) -> Arrival:
    """One request of anybody; prompts are heavy-tailed."""
    tier = tier or dice.choices(list(SENT), list(SENT.values()))[0]
    user = f"{tier}{dice.randrange(USERS[tier])}"
    return Arrival(round(at_ms), user, tier, 400 + min(28_500, round(80 * dice.lognormvariate(0, 1.2))))


def poisson(dice: random.Random, seconds: float, rate: Callable[[float], float], most: float) -> Iterator[float]:
    """Moments in ms at `rate(second)` a second, at most `most`."""
    at = 0.0
    while (at := at + dice.expovariate(most)) < seconds:
        if dice.random() * most < rate(at):
            yield at * 1000


def steady(dice: random.Random, per_second: float) -> list[Arrival]:
    """60% of capacity for half an hour, and somebody's batch every 40 s: as many as they may have."""
    sent = [arrival(dice, at) for at in poisson(dice, 1_800, lambda _: 0.6 * per_second, per_second)]
    for at in range(60, 1_800, 40):
        first = arrival(dice, 1000 * at)
        sent += [
            replace(arrival(dice, 1000 * at), user=first.user, tier=first.tier)
            for _ in range(min(round(20 * per_second), CAPS[first.tier]))
        ]
    return sent


def burst(dice: random.Random, per_second: float, within_ms: int = 0) -> list[Arrival]:
    """A quiet site at 20% of capacity, to which five minutes' worth comes at once, a few from each user."""
    sent = [arrival(dice, at) for at in poisson(dice, 1_200, lambda _: 0.2 * per_second, per_second)]
    return sent + [arrival(dice, 300_000 + within_ms * dice.random()) for _ in range(round(300 * per_second))]


def diurnal(dice: random.Random, per_second: float) -> list[Arrival]:
    """A day, three hours long: from 20% of capacity at night to 120% at noon."""
    rate: Callable[[float], float] = lambda at: per_second * (0.2 + math.sin(math.pi * at / 10_800) ** 2)  # noqa: E731
    return [arrival(dice, at) for at in poisson(dice, 10_800, rate, 1.2 * per_second)]


def flood(dice: random.Random, per_second: float) -> list[Arrival]:
    """Others go on at half of capacity; for ten minutes newcomers of the free tier send twice the rest, one each."""
    sent = [arrival(dice, at) for at in poisson(dice, 1_800, lambda _: 0.5 * per_second, per_second)]
    crowd = poisson(dice, 600, lambda _: per_second, per_second)
    return sent + [replace(arrival(dice, 300_000 + at, "free"), user=f"crowd{n}") for n, at in enumerate(crowd)]


REQUESTS_SCARCE = Plan({"requests": 300, "tokens": 2_000_000}, SHARES, slots=256, caps=CAPS)
SMALL = Plan({"requests": 100, "tokens": 800_000}, SHARES, caps=CAPS)
TOKENS_SCARCE = Plan(
    {"requests": 4_000, "input_tokens": 2_000_000, "output_tokens": 400_000}, SHARES, slots=512, caps=CAPS
)

LOADS = (
    Load("steady, with bursts", REQUESTS_SCARCE, 600, 0.5, lambda dice: steady(dice, 5.0)),
    Load("one burst", REQUESTS_SCARCE, 600, 0.5, lambda dice: burst(dice, 5.0)),
    Load("diurnal", SMALL, 600, 0.5, lambda dice: diurnal(dice, 100 / 60)),
    Load("flood by the free tier", REQUESTS_SCARCE, 600, 0.5, lambda dice: flood(dice, 5.0)),
    # Log-normal of sigma 1: 970 tokens in the mean, 400,000 a minute let seven a second through.
    Load("long answers, scarce tokens", TOKENS_SCARCE, 600, 1.0, lambda dice: flood(dice, 6.8)),
    Load("one burst within 20 s", REQUESTS_SCARCE, 600, 0.5, lambda dice: burst(dice, 5.0, 20_000)),
)
