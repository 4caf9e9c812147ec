"""What the upstream's book of calls says of whoever called. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Call:
    """One call as the stand-in noted it."""

    at_s: float
    """Since 1970."""
    status: int
    input_tokens: int
    output_tokens: int
    ended: bool
    prompt_hash: str

    @property
    def passed(self) -> bool:
        """Whether the upstream let it in."""
        return self.status == 200

    @classmethod
    def of(cls, noted: Mapping[str, Any]) -> Call:
        """From the stand-in's JSON."""
        tokens = noted["input_tokens"], noted["output_tokens"]
        return cls(noted["time_ms"] / 1000, noted["status"], *tokens, noted["ended"] != "", noted["prompt_hash"])


@dataclass(frozen=True)
class Pace:
    """How the stand-in speaks: with it the output at any moment follows from the book."""

    first_token_s: float
    tokens_per_second: float

    def produced(self, call: Call, until_s: float) -> float:
        """Output tokens of a call that were made by then."""
        spoken = (until_s - call.at_s - self.first_token_s) * self.tokens_per_second
        return max(0.0, min(spoken, call.output_tokens))


def passed(calls: Sequence[Call]) -> list[Call]:
    """Those that the upstream let in."""
    return [call for call in calls if call.passed]


def refused(calls: Sequence[Call]) -> int:
    """429s."""
    return sum(call.status == 429 for call in calls)


def refused_share(calls: Sequence[Call]) -> float:
    """429s of all calls."""
    return refused(calls) / max(1, len(calls))


def ideal_s(requests: int, per_minute: int, burst_ms: int = 1000) -> float:
    """Time in which a full bucket lets that many through if not a moment is lost."""
    return max(0.0, requests - max(1.0, per_minute * burst_ms / 60_000)) * 60 / per_minute


def requests_used(calls: Sequence[Call], per_minute: float, from_s: float, until_s: float) -> float:
    """Calls let in between two moments, of what the limit gives in that time."""
    count = sum(call.passed and from_s <= call.at_s < until_s for call in calls)
    return count / (per_minute * (until_s - from_s) / 60)


def output_used(calls: Sequence[Call], per_minute: float, from_s: float, until_s: float, pace: Pace) -> float:
    """Output made between two moments, of what the limit gives in that time."""
    made = sum(pace.produced(call, until_s) - pace.produced(call, from_s) for call in calls if call.passed)
    return made / (per_minute * (until_s - from_s) / 60)


def followed_s(calls: Sequence[Call], per_minute: float, changed_s: float, window_s: float = 3.0) -> float | None:
    """Time after a change from which the rate is within a tenth of the new limit; None if it never is."""
    times = [call.at_s for call in calls if call.passed]
    wanted = per_minute * window_s / 60
    for tenth in range(int(10 * (max(times, default=changed_s) - changed_s - window_s))):
        start_s = changed_s + tenth / 10
        if abs(sum(start_s <= at_s < start_s + window_s for at_s in times) - wanted) <= max(1.0, wanted / 10):
            return tenth / 10
    return None
