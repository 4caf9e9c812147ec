"""The life of a request: its states, what a transition may do.

[*]     --> queued: accepted
[*]     --> completed: an equal request had completed
queued  --> running: dispatch, attempt n
queued  --> completed: an equal request completed
queued  --> failed: parked behind an equal request that failed as this one would
queued  --> cancelled: by its user
queued  --> expired: past its deadline
running --> queued: retry, to its old place
running --> completed
running --> failed
running --> cancelled: by its user

ARCHITECTURE.md draws it; a test compares both with BORN and TRANSITIONS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from services.pricing import Tokens

CHARACTERS_A_TOKEN = 3.5
"""Of text, roughly: estimates are settled to what was counted."""


class State(StrEnum):
    """Where a request is. The values are what SQL holds."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def ended(self) -> bool:
        """Whether this is one of the four ends."""
        return self not in (State.QUEUED, State.RUNNING)


TRANSITIONS: dict[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.RUNNING, State.COMPLETED, State.FAILED, State.CANCELLED, State.EXPIRED}),
    State.RUNNING: frozenset({State.QUEUED, State.COMPLETED, State.FAILED, State.CANCELLED}),
    State.COMPLETED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
    State.EXPIRED: frozenset(),
}
"""Every transition there is; the SQL guards are these and nothing else."""

BORN = frozenset({State.QUEUED, State.COMPLETED})
"""How a request begins."""


class Code(StrEnum):
    """Why a request ended without a diagram."""

    REFUSED = "REFUSED"
    INVALID_DIAGRAM = "INVALID_DIAGRAM"
    PROVIDER_REJECTED = "PROVIDER_REJECTED"
    PROVIDER_UNAVAILABLE = "PROVIDER_UNAVAILABLE"
    WORKER_LOST = "WORKER_LOST"
    EXPIRED = "EXPIRED"
    CANCELLED = "CANCELLED"


class Refused(Exception):
    """A call that changes nothing; `reason` is one of the contract's words."""

    def __init__(
        self, reason: str, message: str, *, retry_after_ms: int | None = None, figures: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after_ms = retry_after_ms
        self.figures = figures or {}


class LineUnavailable(Exception):
    """The store of the order cannot be reached, is another one, or was rebuilt."""


class LineFull(LineUnavailable):
    """It takes nothing more in; what it holds goes on."""


@dataclass(frozen=True)
class TierTerms:
    """What a user's tier means here."""

    name: str
    version: int
    share: int
    outstanding: int
    user_spend_nano_usd_per_day: int | None = None
    """What the user may cost on a UTC day before their requests wait; None: no limit."""
    tier_spend_nano_usd_per_day: int | None = None
    """The same for all users of the tier together."""


@dataclass(frozen=True)
class Submission:
    """A request as it was submitted, checked."""

    request_id: str
    user_id: str
    tier: TierTerms
    generation: int
    day: str
    pool: str
    model: str
    diagram_type: str
    prompt: str
    max_tokens: int
    priority: int
    max_wait_ms: int
    idempotent: bool
    work_hash: str
    """SHA-256 of what was asked for: another body under the same key is a conflict."""
    estimated_input_tokens: int
    estimated_output_tokens: int
    traceparent: str
    cache_key: str | None = None
    """What equal requests have in common; None: it has no equals."""


@dataclass(frozen=True)
class Request:
    """A request's row, without prompt, answer and picture unless they were asked for."""

    acceptance: int
    """Rises with acceptance: the order within a user, and the cursor of lists and sweeps."""
    request_id: str
    user_id: str
    tier: str
    share: int
    pool: str
    model: str
    diagram_type: str
    max_tokens: int
    priority: int
    day: str
    state: State
    attempt: int
    failures: int
    losses: int
    charged_attempt: int
    """The newest attempt whose turns, if it had any, are in the totals: they are added once, all together."""
    delivered: bool
    final_seq: int | None
    accepted_ms: int
    deadline_ms: int
    not_before_ms: int
    started_ms: int | None
    ended_ms: int | None
    has_svg: bool
    truncated: bool
    cached: bool
    error: str
    code: Code | None
    tokens: Tokens
    cost_nano_usd: int
    cost_estimated: bool
    estimated_input_tokens: int
    estimated_output_tokens: int
    traceparent: str
    work_hash: str
    cache_key: str | None = None
    """What it has in common with its equals, as long as they can have something of it."""
    prompt: str = field(default="", repr=False)
    result: str = field(default="", repr=False)
    svg: str = field(default="", repr=False)


@dataclass(frozen=True)
class Turn:
    """What one turn of an attempt used and cost."""

    attempt: int
    turn: int
    model: str
    tokens: Tokens
    cost_nano_usd: int
    estimated: bool
    ended_ms: int


@dataclass(frozen=True)
class End:
    """How a request ends."""

    state: State
    code: Code | None = None
    error: str = ""
    result: str = field(default="", repr=False)
    svg: str = field(default="", repr=False)
    truncated: bool = False
    reusable: bool = True
    """Later equal requests may be given this answer: it is whole, and to the words that are used today."""


@dataclass(frozen=True)
class Retry:
    """How a request goes back to the queue."""

    not_before_ms: int
    reason: str
    failed: bool = False
    """Counts towards the five tries that spent tokens."""
    lost: bool = False
    """Counts towards the three workers."""
    budgeted: bool = False
    """The provider failed: such retries may be a tenth of the traffic at most."""


class Standing(StrEnum):
    """What became of a reservation's request."""

    LIVE = "live"
    ENDED = "ended"
    ABSENT = "absent"


@dataclass(frozen=True)
class Settlement:
    """What quota must hear, from the outbox."""

    outbox_id: int
    request_id: str
    user_id: str
    final: bool
    counted: bool
    kind: str
    turns: tuple[Turn, ...]
    pool: str
    traceparent: str
    day: str
    tier: str
    model: str
    completed: bool
    cached: bool
    saved_nano_usd: int
    """What the answer had cost that it was given."""


def accepted(s: Submission, terms: TierTerms, now_ms: int) -> Request:
    """The row that a submission becomes; its acceptance number comes from the store."""
    return Request(
        acceptance=0, request_id=s.request_id, user_id=s.user_id, tier=terms.name, share=terms.share, pool=s.pool,
        model=s.model, diagram_type=s.diagram_type, max_tokens=s.max_tokens, priority=s.priority, day=s.day,
        state=State.QUEUED, attempt=0, failures=0, losses=0, charged_attempt=0, delivered=False, final_seq=None,
        accepted_ms=now_ms, deadline_ms=now_ms + s.max_wait_ms, not_before_ms=0, started_ms=None, ended_ms=None,
        has_svg=False, truncated=False, cached=False, error="", code=None, tokens=Tokens(), cost_nano_usd=0,
        cost_estimated=False, estimated_input_tokens=s.estimated_input_tokens,
        estimated_output_tokens=s.estimated_output_tokens, traceparent=s.traceparent, work_hash=s.work_hash,
        cache_key=s.cache_key,
    )  # fmt: skip


def counted(request: Request, end: State) -> bool:
    """Whether a request that ends so takes its place of the day: it completed, or output had been delivered."""
    return end is State.COMPLETED or (end is State.CANCELLED and request.delivered)


def after(request: Request, tokens: Sequence[Turn]) -> Request:
    """The request with what further turns used added to its totals."""
    total = request.tokens
    for turn in tokens:
        total = add(total, turn.tokens)
    return replace(
        request,
        charged_attempt=max([request.charged_attempt, *(t.attempt for t in tokens)]),
        tokens=total,
        cost_nano_usd=request.cost_nano_usd + sum(t.cost_nano_usd for t in tokens),
        cost_estimated=request.cost_estimated or any(t.estimated for t in tokens),
    )


def add(one: Tokens, other: Tokens) -> Tokens:
    """The sum of two usages."""
    return Tokens(
        one.input + other.input,
        one.output + other.output,
        one.cache_read + other.cache_read,
        one.cache_write_5m + other.cache_write_5m,
        one.cache_write_1h + other.cache_write_1h,
    )
