"""The words of this service: what it keeps, and how it refuses."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from services.quota.plans import Tier
from services.quota.terms import NOTHING_OWN, OwnTerms, Reached


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
    """A user; `tier_version` rises by one with each change that the scheduler must hear of."""

    user_id: str
    email: str
    tier: str
    tier_version: int
    status: UserStatus
    create_time_ms: int
    own: OwnTerms = NOTHING_OWN


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
    """The place that a request holds or held; `day` is the UTC day it was taken on.

    `live`: the scheduler is known to have the request, and its settlement has not come.
    """

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
    """What one turn cost; unique by (request, attempt, turn). `day` is that of its request."""

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
    tier: str
    summed: bool = True
    """Whether it is in the sums, as everything is that this release writes."""

    @property
    def key(self) -> ChargeKey:
        """What it is unique by."""
        return self.request_id, self.attempt, self.turn


ChargeKey = tuple[str, int, int]


@dataclass(frozen=True)
class Settlement:
    """How a request ended (`counted` is None where only charges are told)."""

    request_id: str
    user_id: str
    counted: bool | None
    charges: Sequence[Charge]
    tier: str = ""
    """Empty from a scheduler that does not tell."""
    completed: bool = False
    cached: bool = False
    saved_nano_usd: int = 0
    kind: str = ""
    model: str = ""


UserDay = tuple[str, str]
"""User and day."""
Hour = tuple[int, str, str, str]
"""Hour since 1970, tier, model, kind."""


@dataclass(frozen=True)
class TierChange:
    """A change of tier or terms that the scheduler has yet to hear; `number` orders them.

    `own` are the user's terms as they are now, so a message that is late tells nothing that is not so any more.
    """

    number: int
    user_id: str
    tier: str
    tier_version: int
    own: OwnTerms = NOTHING_OWN


@dataclass(frozen=True)
class Terms:
    """What a user had agreed to."""

    user_id: str
    tier: str
    own_price_nano_usd_per_month: int | None


@dataclass(frozen=True)
class HeldTerms:
    """How many users had agreed to the same."""

    tier: str
    own_price_nano_usd_per_month: int | None
    users: int


@dataclass(frozen=True)
class Revenue:
    """What a user brought in on a day, by the terms held at its end."""

    day: str
    user_id: str
    tier: str
    revenue_nano_usd: int


@dataclass(frozen=True)
class TierDay:
    """A closed day of a tier: users who held it at the day's end, and what they brought in."""

    day: str
    tier: str
    users: int
    revenue_nano_usd: int


@dataclass(frozen=True)
class Use:
    """What was used, and what it cost; the fields are the sums that the tables keep."""

    requests: int = 0
    completed: int = 0
    cached: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_write_input_tokens: int = 0
    cost_nano_usd: int = 0
    saved_by_equals_nano_usd: int = 0
    saved_by_prompt_cache_nano_usd: int = 0

    def __add__(self, other: Use) -> Use:
        return Use(*map(operator.add, vars(self).values(), vars(other).values()))

    def __sub__(self, other: Use) -> Use:
        return Use(*map(operator.sub, vars(self).values(), vars(other).values()))


DayTier = tuple[str, str]
"""Day and tier."""


@dataclass(frozen=True)
class UseSums:
    """The same use added up in three ways."""

    days: dict[DayTier, Use]
    models: dict[str, Use]
    kinds: dict[str, Use]


@dataclass(frozen=True)
class Margin:
    """What came in and what went out."""

    revenue_nano_usd: int = 0
    use: Use = field(default_factory=Use)

    def __add__(self, other: Margin) -> Margin:
        return Margin(self.revenue_nano_usd + other.revenue_nano_usd, self.use + other.use)

    @property
    def margin_nano_usd(self) -> int:
        """Revenue less cost."""
        return self.revenue_nano_usd - self.use.cost_nano_usd

    @property
    def unsustainable(self) -> bool:
        """Whether it costs more than it brings in."""
        return self.margin_nano_usd < 0


@dataclass(frozen=True)
class UserMargin:
    """A user's margin; the tier is empty where there is no such user any more."""

    user_id: str
    tier: str
    margin: Margin


@dataclass(frozen=True)
class Window:
    """Days to look at. On open ones, which are not closed yet, the terms held count, at `prices` a month by tier."""

    first: str
    last: str
    open_days: Sequence[str]
    prices: Mapping[str, int]


@dataclass(frozen=True)
class AuditEntry:
    """Who changed what, when, from what to what."""

    time_ms: int
    actor: str
    action: str
    subject: str
    old: str
    new: str


@dataclass(frozen=True)
class UsersQuery:
    """Which users; `sort` is cost, requests or tokens."""

    sort: str
    days: int
    page_size: int
    prefix: str = ""
    tier: str = ""


class UsersCursor(NamedTuple):
    """Where a page ended. It keeps the days, so that pages fit together over midnight."""

    first_day: str
    last_day: str
    value: int
    user_id: str


@dataclass(frozen=True)
class UserRow:
    """A user with what they used and brought in."""

    user_id: str
    email: str
    tier: str
    status: UserStatus
    sorted_by: int
    revenue_nano_usd: int
    use: Use


@dataclass(frozen=True)
class UsageQuery:
    """Which report; `group` is tier, model, kind or nothing."""

    days: int
    hourly: bool
    group: str


@dataclass(frozen=True)
class UsageRow:
    """Use in the hour, or in the day that begins with it."""

    hour: int
    group: str
    use: Use


class Unauthenticated(Exception):
    """The key is unknown, malformed or revoked; which of them is not told."""


class Suspended(Exception):
    """The user may not call now."""


class InvalidSignature(Exception):
    """Something that should be signed is not, or was so too long ago."""


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
    """The user may have no more for now; `next_tier` is one that would give them more."""

    def __init__(self, user: User, tier: Tier, next_tier: Tier | None, usage: DayUsage, reached: Reached) -> None:
        super().__init__(str(reached))
        self.user, self.tier, self.next_tier, self.usage, self.reached = user, tier, next_tier, usage, reached
