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
MAX_REFUSALS = 3
"""429s of one request with others served in between, after which it fails: they are about itself."""
REFUSED_AGAIN_MS = 1_000
"""After its second 429 a request lets others go first: only so does it show whose fault it is."""
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
class Witness:
    """What the pool saw, beside this attempt."""

    refusals: int = 0
    """429s of this request with others served in between."""
    denied: int = 0
    """429s of this request in all."""
    pool_fails: bool = False
    """Other requests fail as well, so this one is not to blame."""
    account_works: bool = False
    """With ACCOUNT: the pool's own call was answered, so it is this request that is refused."""


_FATAL = {
    Trouble.REJECTED: Code.PROVIDER_REJECTED,
    Trouble.REFUSED: Code.REFUSED,
    Trouble.INVALID_DIAGRAM: Code.INVALID_DIAGRAM,
}


def rest_ms(failure: Failure) -> int:
    """How long the pool rests after it: what the provider asked for after a 429, else not at all."""
    if failure.trouble not in (Trouble.RATE_LIMITED, Trouble.RAMP_LIMITED):
        return 0
    return RATE_LIMITED_DEFAULT_MS if failure.retry_after_ms is None else failure.retry_after_ms


def decide(request: Request, failure: Failure, witness: Witness, now_ms: int, random_fraction: float) -> End | Retry:
    """What follows from a failed attempt. `random_fraction` in [0, 1) spreads the backoff."""
    trouble = failure.trouble
    if trouble in _FATAL:
        return End(State.FAILED, _FATAL[trouble], failure.message)
    if trouble in (Trouble.RATE_LIMITED, Trouble.RAMP_LIMITED):
        return _refused(failure, witness, now_ms)
    if trouble is Trouble.ACCOUNT:
        if witness.account_works:
            return End(State.FAILED, Code.PROVIDER_REJECTED, "The provider refuses this request. It does not count.")
        # The pool stands still, unless its own call was not answered either; then this must not be sent at once.
        again_ms = now_ms + backoff_ms(request.attempt, random_fraction)
        return Retry(again_ms, "The provider refuses this site's account at the moment.")
    if trouble is Trouble.LOST:
        if not failure.draining and request.losses + 1 >= MAX_LOSSES:
            error = "Three workers were lost while they worked on this. It does not count; try a smaller request."
            return End(State.FAILED, Code.WORKER_LOST, error)
        return Retry(0, "The worker was lost.", lost=not failure.draining)
    if trouble is Trouble.BUSY:
        return Retry(now_ms + BUSY_DELAY_MS, "All workers are busy.")
    if trouble is Trouble.STOPPED:
        return Retry(0, "The service restarts.")
    return _unavailable(request, failure, witness, now_ms, random_fraction)


def _refused(failure: Failure, witness: Witness, now_ms: int) -> End | Retry:
    if witness.refusals >= MAX_REFUSALS:
        error = "The provider refused this three times and served others. It does not count; try a smaller request."
        return End(State.FAILED, Code.PROVIDER_REJECTED, error)
    # The pool rests; the request keeps its place and goes first when that is over.
    again_ms = now_ms + rest_ms(failure) + REFUSED_AGAIN_MS if witness.denied > 1 else 0
    return Retry(again_ms, "The provider asked for a break.")


def _unavailable(
    request: Request, failure: Failure, witness: Witness, now_ms: int, random_fraction: float
) -> End | Retry:
    failed = failure.spent_tokens and not witness.pool_fails
    if failed and request.failures + 1 >= MAX_FAILURES:
        error = "The provider failed five times while it answered. This does not count; please try again later."
        return End(State.FAILED, Code.PROVIDER_UNAVAILABLE, error)
    delay_ms = max(backoff_ms(request.attempt, random_fraction), failure.retry_after_ms or 0)
    return Retry(now_ms + delay_ms, "The provider did not answer.", failed=failed, budgeted=True)


def backoff_ms(attempt: int, random_fraction: float) -> int:
    """Exponential with full jitter, at least 100 ms: random(0, min(cap, base * 2^(attempt-1)))."""
    ceiling = min(BACKOFF_CAP_MS, BACKOFF_BASE_MS * 2 ** min(attempt - 1, 16))
    return max(100, int(random_fraction * ceiling))
