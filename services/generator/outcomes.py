"""How an attempt can fail, and which failure an upstream answer means."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime

LONGEST_MESSAGE = 300
MOST_RETRY_MS = 86_400_000
DIMENSIONS = ("requests", "tokens", "input-tokens", "output-tokens")


class FailureKind(enum.Enum):
    """The rows of the outcome table."""

    RATE_LIMITED = "RATE_LIMITED"
    RAMP_LIMITED = "RAMP_LIMITED"
    ACCOUNT = "ACCOUNT"
    UNAVAILABLE = "UNAVAILABLE"
    REJECTED = "REJECTED"
    REFUSED = "REFUSED"
    INVALID_DIAGRAM = "INVALID_DIAGRAM"


@dataclass(frozen=True)
class Limit:
    """One limit as a response's headers state it."""

    dimension: str
    """One of DIMENSIONS."""
    per_minute: int
    remaining: int
    reset_after_ms: int


@dataclass(eq=False)
class Failure(Exception):
    """An attempt failed."""

    kind: FailureKind
    message: str
    """A sentence for people that holds no key and no prompt."""
    http_status: int = 0
    error_type: str = ""
    error_code: str = ""
    retry_after_ms: int | None = None
    limits: tuple[Limit, ...] = ()
    spent_tokens: bool = False
    """Whether output had been received."""


_SENTENCES = {
    FailureKind.RATE_LIMITED: "The provider's rate limit was reached.",
    FailureKind.RAMP_LIMITED: "The provider asks to raise the traffic more slowly.",
    FailureKind.ACCOUNT: "The provider refused the site's account or key.",
    FailureKind.UNAVAILABLE: "The provider did not answer properly.",
    FailureKind.REJECTED: "The provider cannot process this request.",
    FailureKind.REFUSED: "The model declined to draw this.",
}


def sentence(kind: FailureKind) -> str:
    """What to tell people where the provider has no words of its own."""
    return _SENTENCES[kind]


def classify(status: int, error_code: str, message: str, *, named_delay: bool) -> FailureKind:
    """The row of the outcome table for an HTTP error, or, with status 200, for an error inside a stream."""
    text = message.lower()
    if status == 429:
        if error_code == "ramp_limit_exceeded":
            return FailureKind.RAMP_LIMITED
        capped = error_code == "enforced_spend_limit_reached" or (not named_delay and "spend limit" in text)
        return FailureKind.ACCOUNT if capped else FailureKind.RATE_LIMITED
    if status in (401, 402, 403) or (status == 400 and "reached your specified api usage limits" in text):
        return FailureKind.ACCOUNT
    if status != 408 and 400 <= status < 500:
        return FailureKind.REJECTED
    return FailureKind.UNAVAILABLE


def told(kind: FailureKind, provider_message: str, private: tuple[str, ...]) -> str:
    """The provider's own words where they may help its sender, without what is private; else a sentence of ours."""
    if kind is not FailureKind.REJECTED or not provider_message.strip():
        return sentence(kind)
    text = " ".join(provider_message.split())
    for secret in private:
        text = text.replace(" ".join(secret.split()), "…") if secret.strip() else text
    text = re.sub(r"\bsk-[\w-]+", "…", text)
    return f"The provider rejected this request: {text[:LONGEST_MESSAGE]}"


def retry_after_ms(headers: Mapping[str, str], now_ms: int) -> int | None:
    """The delay that `retry-after` names, in seconds or as a date; None without a usable one."""
    text = headers.get("retry-after", "")
    try:
        delay_ms = float(text) * 1000
    except ValueError:
        try:
            delay_ms = parsedate_to_datetime(text).timestamp() * 1000 - now_ms
        except (ValueError, TypeError):
            return None
    return int(min(max(0.0, delay_ms), MOST_RETRY_MS)) if delay_ms == delay_ms else None


def limits_of(headers: Mapping[str, str], now_ms: int) -> tuple[Limit, ...]:
    """The limits that a response's headers state; one that is incomplete or malformed is left out."""
    limits = []
    for dimension in DIMENSIONS:
        prefix = f"anthropic-ratelimit-{dimension}"
        try:
            limit, remaining = int(headers[f"{prefix}-limit"]), int(headers[f"{prefix}-remaining"])
            reset = datetime.fromisoformat(headers[f"{prefix}-reset"].replace("Z", "+00:00")).timestamp() * 1000
        except (KeyError, ValueError):
            continue
        if limit > 0:
            limits.append(Limit(dimension, limit, max(0, remaining), max(0, int(reset - now_ms))))
    return tuple(limits)
