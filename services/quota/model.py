"""The words of this service: what it keeps, and how it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from services.quota.plans import Tier


class UserStatus(StrEnum):
    """Whether a user may call."""

    ACTIVE = "active"
    SUSPENDED = "suspended"


class ReservationState(StrEnum):
    """What became of a place of a user's day."""

    PENDING = "pending"
    COUNTED = "counted"
    GIVEN_BACK = "given_back"
    ABSENT = "absent"


@dataclass(frozen=True)
class User:
    """A user; `tier_version` rises by one with each change of tier."""

    user_id: str
    email: str
    tier: str
    tier_version: int
    status: UserStatus
    create_time_ms: int


@dataclass(frozen=True)
class Key:
    """An API key without its secret."""

    key_id: str
    user_id: str
    create_time_ms: int
    revoke_time_ms: int | None = None


@dataclass(frozen=True)
class StoredKey:
    """A key as it is kept, with its owner."""

    key_id: str
    secret_hash: bytes
    revoked: bool
    user: User


@dataclass(frozen=True)
class Caller:
    """Who calls: by key, or by user id where the gateway vouches for it. Exactly one is set."""

    api_key: str = ""
    user_id: str = ""
    create_if_missing: bool = False


@dataclass(frozen=True)
class Reservation:
    """The place that a request holds or held; `day` is the UTC day it was taken on."""

    request_id: str
    user_id: str
    day: str
    generation: int
    state: ReservationState
    live: bool
    reserve_time_ms: int
    settle_time_ms: int | None = None


@dataclass(frozen=True)
class DayUsage:
    """A user's day: places taken, places there are, and when the next day begins."""

    used: int
    limit: int
    reset_time_ms: int


@dataclass(frozen=True)
class Charge:
    """What one turn cost; unique by (request, attempt, turn)."""

    request_id: str
    attempt: int
    turn: int
    user_id: str
    model: str
    kind: str
    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int
    cache_write_5m_input_tokens: int
    cache_write_1h_input_tokens: int
    cost_nano_usd: int
    estimated: bool
    day: str
    end_time_ms: int


@dataclass(frozen=True)
class Settlement:
    """How a request ended (`counted` is None where only charges are told)."""

    request_id: str
    counted: bool | None
    charges: Sequence[Charge]


@dataclass(frozen=True)
class TierChange:
    """A change of tier that the scheduler has yet to hear; `number` orders them."""

    number: int
    user_id: str
    tier: str
    tier_version: int


@dataclass(frozen=True)
class AuditEntry:
    """Who changed what, when, from what to what."""

    time_ms: int
    actor: str
    action: str
    subject: str
    old: str
    new: str


class Unauthenticated(Exception):
    """The key is unknown, malformed or revoked; which of them is not told."""


class Suspended(Exception):
    """The user may not call now."""


class NotFound(Exception):
    """There is no such thing; the argument names it ("user")."""


class AlreadyExists(Exception):
    """There is one already; the argument names it ("user")."""


class Invalid(Exception):
    """A field of a call is wrong; `field` is its path in the request."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field} {message}.")
        self.field = field


class LimitReached(Exception):
    """The user's day is full."""

    def __init__(self, user: User, tier: Tier, next_tier: Tier | None, usage: DayUsage) -> None:
        super().__init__(f"Daily limit of {usage.limit} requests reached")
        self.user, self.tier, self.next_tier, self.usage = user, tier, next_tier, usage
