"""The limits of users in the contract's words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from headgate.quota.v1 import quota_pb2

from services.money import dollars

OF_A_TIER = {
    "priceNanoUsd": "price_nano_usd_per_month",
    "requestsPerMinute": "requests_per_minute",
    "tokensPerDay": "tokens_per_day",
    "spendNanoUsdPerMonth": "spend_nano_usd_per_month",
}
"""What a tier may have or not, as the contract and as quota call it; all of it is each user's."""
OWN = {
    "requestsPerDay": "requests_per_day",
    "outstanding": "outstanding",
    **OF_A_TIER,
    "spendNanoUsdPerDay": "spend_nano_usd_per_day",
}
"""What a user may have of their own."""


def optional(message: Any, field: str) -> int | None:
    """The field's value, None where it is absent."""
    value: int = getattr(message, field)
    return value if message.HasField(field) else None


def own_fields(user: quota_pb2.User) -> dict[str, int]:
    """A user's own terms."""
    return {name: getattr(user.limits, field) for name, field in OWN.items() if user.limits.HasField(field)}


@dataclass(frozen=True)
class Words:
    """How people are told of a limit."""

    kind: str
    reached: str
    period: str
    after_use: str
    amount: Callable[[int], str]

    def message(self, most: int) -> str:
        """That it is used up."""
        return self.reached.format(self.amount(most))

    def usage(self, used: int, most: int) -> str:
        """How much of it is used."""
        return f"{self.amount(used)}/{self.amount(most)}{self.after_use}"

    def gives(self, tier: quota_pb2.Tier) -> str:
        """How much of it a tier has."""
        most = optional(tier, OWN[self.kind]) if self.kind in OF_A_TIER else tier.requests_per_day
        return f"{'unlimited' if most is None else self.amount(most)} {self.period}"


WORDS = {
    quota_pb2.LIMIT_REQUESTS_PER_DAY: Words(
        "requestsPerDay", "Daily limit of {} requests reached", "requests/day", " requests", str
    ),
    quota_pb2.LIMIT_REQUESTS_PER_MINUTE: Words(
        "requestsPerMinute", "Limit of {} requests a minute reached", "requests/minute", " requests this minute", str
    ),
    quota_pb2.LIMIT_TOKENS_PER_DAY: Words(
        "tokensPerDay", "Daily limit of {} tokens reached", "tokens/day", " tokens today", "{:,}".format
    ),
    quota_pb2.LIMIT_SPEND_PER_MONTH: Words(
        "spendNanoUsdPerMonth", "Monthly limit of {} reached", "use/month", " this month", dollars
    ),
}
