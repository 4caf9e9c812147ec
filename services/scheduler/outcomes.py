"""What follows from the way an attempt ended. Pure: no I/O, no clock, no randomness of its own."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from services.scheduler.life import Code, End, Request, Retry, State

MAX_FAILURES = 5
"""Tries that spent tokens, after which a request fails."""
MAX_LOSSES = 3
"""Workers lost over one request, after which it fails: it may be what kills them."""
BACKOFF_BASE_MS = 1_000
BACKOFF_CAP_MS = 60_000
RATE_LIMITED_DEFAULT_MS = 5_000
"""Pause after a 429 that names no delay."""
ACCOUNT_PAUSE_MS = 60_000
"""How long the pool rests before the account is tried again."""
BUSY_DELAY_MS = 250


class Trouble(StrEnum):
    """How an attempt can fail; the values beside the provider's are the scheduler's own."""

    RATE_LIMITED = "RATE_LIMITED"
    RAMP_LIMITED = "RAMP_LIMITED"
    ACCOUNT = "ACCOUNT"
    UNAVAILABLE = "UNAVAILABLE"
    REJECTED = "REJECTED"
    REFUSED = "REFUSED"
    INVALID_DIAGRAM = "INVALID_DIAGRAM"
    LOST = "LOST"
    """The worker is gone, or said nothing for 10 s."""
    BUSY = "BUSY"
    """No worker took it; nothing was sent."""
    STOPPED = "STOPPED"
    """This scheduler stops."""


@dataclass(frozen=True)
class Failure:
    """How an attempt failed."""

    trouble: Trouble
    message: str
    """A sentence for people."""
    retry_after_ms: int | None = None
    spent_tokens: bool = False
    draining: bool = False
    """With LOST: the worker had said that it would stop, so the request is not to blame."""


@dataclass(frozen=True)
class Decision:
    """What to do now: end the request or try again; and perhaps pause its pool."""

    then: End | Retry
    pause_ms: int | None = None
    pause_reason: str = ""


_FATAL = {
    Trouble.REJECTED: Code.PROVIDER_REJECTED,
    Trouble.REFUSED: Code.REFUSED,
    Trouble.INVALID_DIAGRAM: Code.INVALID_DIAGRAM,
}


def decide(request: Request, failure: Failure, now_ms: int, random_fraction: float) -> Decision:
    """What follows from a failed attempt. `random_fraction` in [0, 1) spreads the backoff."""
    trouble = failure.trouble
    if trouble in _FATAL:
        return Decision(End(State.FAILED, _FATAL[trouble], failure.message))
    if trouble in (Trouble.RATE_LIMITED, Trouble.RAMP_LIMITED):
        delay_ms = RATE_LIMITED_DEFAULT_MS if failure.retry_after_ms is None else failure.retry_after_ms
        # The pool waits; the request keeps its place and goes first when the pause is over.
        return Decision(Retry(0, "The provider asked for a break."), delay_ms, "provider_limit")
    if trouble is Trouble.ACCOUNT:
        reason = "The provider refuses this site's account at the moment."
        return Decision(Retry(0, reason), ACCOUNT_PAUSE_MS, "provider_account")
    if trouble is Trouble.LOST:
        if not failure.draining and request.losses + 1 >= MAX_LOSSES:
            error = "Three workers were lost while they worked on this. It does not count; try a smaller request."
            return Decision(End(State.FAILED, Code.WORKER_LOST, error))
        return Decision(Retry(0, "The worker was lost.", lost=not failure.draining))
    if trouble is Trouble.BUSY:
        return Decision(Retry(now_ms + BUSY_DELAY_MS, "All workers are busy."))
    if trouble is Trouble.STOPPED:
        return Decision(Retry(0, "The service restarts."))
    if failure.spent_tokens and request.failures + 1 >= MAX_FAILURES:
        error = "The provider failed five times while it answered. This does not count; please try again later."
        return Decision(End(State.FAILED, Code.PROVIDER_UNAVAILABLE, error))
    delay_ms = max(backoff_ms(request.attempt, random_fraction), failure.retry_after_ms or 0)
    return Decision(Retry(now_ms + delay_ms, "The provider did not answer.", failed=failure.spent_tokens))


def backoff_ms(attempt: int, random_fraction: float) -> int:
    """Exponential with full jitter, at least 100 ms: random(0, min(cap, base * 2^(attempt-1)))."""
    ceiling = min(BACKOFF_CAP_MS, BACKOFF_BASE_MS * 2 ** min(attempt - 1, 16))
    return max(100, int(random_fraction * ceiling))
