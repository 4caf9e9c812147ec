"""What holds for a user: their own terms, else their tier's; and which limit it was that let no more in. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from enum import Enum

from services.clock import next_day_ms, next_month_ms
from services.quota.plans import BOUNDS, MOST_OF_MONEY, Tier

MINUTE_MS = 60_000
NO_LIMIT = 2**63 - 1
"""Stands for the absence of a limit where two are compared: the largest number a column holds."""
OWN_BOUNDS = {
    "requests_per_day": (0, 1_000_000_000),
    # Ten times the longest line that a tier may have.
    "outstanding": (0, 1_000_000),
    "price_nano_usd_per_month": (0, MOST_OF_MONEY),
    **{name: (0, most) for name, (_, most) in BOUNDS.items()},
    "requests_per_minute": BOUNDS["requests_per_minute"],
}
"""What a user may have of their own, each from least to most."""


@dataclass(frozen=True)
class OwnTerms:
    """A user's own terms, each of which replaces the tier's; None where the tier's holds.

    `spend_nano_usd_per_day` replaces nothing: the tier's is that of all its users together.
    """

    requests_per_day: int | None = None
    outstanding: int | None = None
    price_nano_usd_per_month: int | None = None
    requests_per_minute: int | None = None
    tokens_per_day: int | None = None
    spend_nano_usd_per_month: int | None = None
    spend_nano_usd_per_day: int | None = None

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in asdict(self).items() if value is not None)


TERMS = tuple(field.name for field in fields(OwnTerms))
NOTHING_OWN = OwnTerms()
_REPLACED = tuple(name for name in TERMS if name not in ("price_nano_usd_per_month", "spend_nano_usd_per_day"))


def effective(tier: Tier, own: OwnTerms) -> Tier:
    """The tier as it is for a user with these terms: its limits are those that hold for them."""
    if own == NOTHING_OWN:
        return tier
    return replace(tier, **{name: value for name in _REPLACED if (value := getattr(own, name)) is not None})


class Limit(Enum):
    """What bounds the requests of a user; the value is the name of the term."""

    REQUESTS_PER_DAY = "requests_per_day"
    REQUESTS_PER_MINUTE = "requests_per_minute"
    TOKENS_PER_DAY = "tokens_per_day"
    SPEND_PER_MONTH = "spend_nano_usd_per_month"

    def of(self, tier: Tier) -> int:
        """How much of it there is."""
        most: int | None = getattr(tier, self.value)
        return NO_LIMIT if most is None else most


SENTENCES = {
    Limit.REQUESTS_PER_DAY: "Daily limit of {} requests reached",
    Limit.REQUESTS_PER_MINUTE: "Limit of {} requests a minute reached",
    Limit.TOKENS_PER_DAY: "Daily limit of {} tokens reached",
    Limit.SPEND_PER_MONTH: "Monthly limit of {} nano-dollars reached",
}


@dataclass(frozen=True)
class LimitUse:
    """What a user has used: today, in the minute of the latest place, and in this UTC month."""

    requests: int
    minute: int
    minute_requests: int
    tokens: int
    spent_nano_usd: int


@dataclass(frozen=True)
class Reached:
    """A limit that is used up, and when it has room again."""

    limit: Limit
    used: int
    most: int
    reset_time_ms: int

    def __str__(self) -> str:
        return SENTENCES[self.limit].format(self.most)


def reached(tier: Tier, use: LimitUse, day: str, minute: int) -> Reached:
    """Which limit refused a place in this minute of this day: the first that is used up, the day's requests first."""
    this_minute = use.minute_requests if use.minute >= minute else 0
    found = {
        Limit.REQUESTS_PER_DAY: (use.requests, next_day_ms(day)),
        Limit.REQUESTS_PER_MINUTE: (this_minute, (max(minute, use.minute) + 1) * MINUTE_MS),
        Limit.TOKENS_PER_DAY: (use.tokens, next_day_ms(day)),
        Limit.SPEND_PER_MONTH: (use.spent_nano_usd, next_month_ms(day)),
    }
    for limit, (used, reset_time_ms) in found.items():
        # The last of them needs no look: something refused, and what was spent may have been corrected since.
        if used >= limit.of(tier) or limit is Limit.SPEND_PER_MONTH:
            return Reached(limit, used, limit.of(tier), reset_time_ms)
    raise AssertionError("unreachable")
