"""What the domain needs from a store and from the scheduler."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from services.quota.billing import Event, Subscription
from services.quota.model import (
    AuditEntry,
    Charge,
    ChargeKey,
    DayTier,
    HeldTerms,
    Hour,
    Key,
    Reservation,
    Revenue,
    StoredKey,
    Terms,
    TierChange,
    TierDay,
    UsageQuery,
    UsageRow,
    Use,
    User,
    UserDay,
    UserMargin,
    UserRow,
    UsersCursor,
    UsersQuery,
    UserStatus,
    UseSums,
    Window,
)
from services.quota.plans import Tier
from services.quota.reservations import Answer
from services.quota.terms import LimitUse, OwnTerms

T = TypeVar("T")


class SchedulerUnreachable(Exception):
    """The scheduler did not answer; nothing may be concluded from that."""


class Scheduler(Protocol):
    """The scheduler, as far as quota asks and tells it."""

    async def account(self, asked: Sequence[tuple[str, int]]) -> dict[str, Answer]:
        """Answers for (request id, generation), at most 500. Raises `SchedulerUnreachable`."""
        ...

    async def apply_tiers(self, changes: Sequence[TierChange]) -> None:
        """Returns once the changes, at most 500, are durable there. Raises `SchedulerUnreachable`."""
        ...


class Transaction(Protocol):
    """One transaction. Rows read with a lock stay as they are until it ends."""

    def find_user(self, user_id: str, *, lock: bool = False) -> User | None: ...
    def claim_user_id(self, user_id: str) -> None:
        """Waits until no other transaction has claimed that id, which need not be a user's yet."""
        ...

    def insert_user(self, user: User) -> bool:
        """False if there is one with that id."""
        ...

    def update_tier(self, user_id: str, tier: str, version: int) -> None: ...
    def update_terms(self, user_id: str, own: OwnTerms, version: int) -> None: ...
    def update_status(self, user_id: str, status: UserStatus) -> None: ...

    def find_key(self, key_id: str) -> StoredKey | None: ...
    def insert_key(self, key: Key, secret_hash: bytes) -> None: ...
    def lock_key(self, key_id: str) -> Key | None: ...
    def revoke_key(self, key_id: str, now_ms: int) -> None: ...
    def list_keys(self, user_id: str, limit: int) -> list[Key]:
        """Newest first."""
        ...

    def note_terms(self, user_id: str, now_ms: int) -> None:
        """Keeps what the user's row says now as their terms from now on; belongs to every change of them."""
        ...

    def mend_terms(self, now_ms: int) -> None:
        """Notes terms that a release without that table changed."""
        ...

    def first_terms_ms(self) -> int | None: ...
    def list_held(self, end_ms: int, after: str, limit: int) -> list[Terms]:
        """Terms held just before `end_ms`, by user, behind the user `after`."""
        ...

    def sum_held(self, end_ms: int) -> list[HeldTerms]:
        """The same of all users, counted."""
        ...

    def insert_revenue(self, rows: Sequence[Revenue]) -> None:
        """Keeps what is new."""
        ...

    def sum_revenue(self, day: str) -> dict[str, int]:
        """What was kept of a day, by tier."""
        ...

    def insert_tier_days(self, rows: Sequence[TierDay]) -> None:
        """Closes their day; keeps what is new."""
        ...

    def last_closed_day(self) -> str:
        """Empty if there is none."""
        ...

    def has_pending(self, first: str, last: str) -> bool:
        """Whether a request that took a place of these days has not been settled."""
        ...

    def list_tier_days(self, window: Window) -> list[TierDay]: ...
    def sum_use_by_day_and_tier(self, window: Window) -> dict[DayTier, Use]: ...
    def sum_use(self, window: Window) -> UseSums: ...
    def list_dearest_and_losing(self, window: Window, limit: int) -> tuple[list[UserMargin], list[UserMargin]]:
        """Who cost most, dearest first; who cost more than they brought in, most first."""
        ...

    def list_users_in_order(self, window: Window, after: str, limit: int) -> list[UserMargin]:
        """Who used or brought in anything, by id, behind `after`."""
        ...

    def insert_reservation(self, row: Reservation) -> bool:
        """False if the request has one; waits for a concurrent insert to end, but for no lock on what is there."""
        ...

    def find_reservation(self, request_id: str) -> Reservation | None: ...
    def lock_reservations(self, request_ids: Sequence[str]) -> list[Reservation]:
        """Those that exist, locked in order of their ids."""
        ...

    def update_reservations(self, changes: Sequence[tuple[Reservation, Reservation]]) -> None:
        """Replaces (before, after), each guarded by the state and generation it had."""
        ...

    def list_unresolved(self, reserved_before_ms: int, after: tuple[int, str], limit: int) -> list[Reservation]:
        """Pending and not known to be live, by (time of the last Reserve, id), behind `after`."""
        ...

    def take_place(self, user_id: str, day: str, minute: int, tier: Tier) -> int | None:
        """Takes one place if less than all that `tier` gives has been used; the day's new count, or None."""
        ...

    def find_limit_use(self, user_id: str, day: str) -> LimitUse:
        """What was used by the end of that day."""
        ...

    def count_used(self, user_id: str, day: str) -> int: ...

    def add_to_days(self, freed: Mapping[UserDay, int], uses: Mapping[UserDay, Use]) -> None:
        """Gives places back and adds what was used."""
        ...

    def add_to_hours(self, uses: Mapping[Hour, Use]) -> None: ...
    def list_tiers_of(self, user_ids: Sequence[str]) -> dict[str, str]:
        """The tiers that those of them who exist have now."""
        ...

    def insert_charges(self, charges: Sequence[Charge]) -> set[ChargeKey]:
        """Inserts those that are not there; which these were. Waits for concurrent inserts to end."""
        ...

    def lock_estimates(self, request_ids: Sequence[str]) -> list[Charge]:
        """The estimated charges of those requests, locked in order of their keys."""
        ...

    def lock_unsummed(self, limit: int) -> list[Charge]:
        """Charges that are not in the sums, oldest first, locked; without those that somebody else has locked."""
        ...

    def replace_charges(self, charges: Sequence[Charge]) -> None:
        """Puts them in place of those with their keys, which are locked."""
        ...

    def list_users(self, query: UsersQuery, after: UsersCursor) -> list[UserRow]:
        """Highest first, behind `after`."""
        ...

    def list_usage(self, hours: range, query: UsageQuery) -> list[UsageRow]:
        """Use by hour or day, oldest first."""
        ...

    def enqueue_tier_change(self, user: User, now_ms: int) -> None: ...
    def list_tier_changes(self, limit: int) -> list[TierChange]:
        """Oldest first."""
        ...

    def delete_tier_changes(self, numbers: Sequence[int]) -> None: ...
    def record_audit(self, entry: AuditEntry, audit_id: str | None = None) -> None:
        """Keeps it, once by its id."""
        ...

    def list_audit(self, limit: int, below: int, subject: str) -> list[tuple[int, AuditEntry]]:
        """(number, entry) of the numbers below `below`, highest first; only of `subject` if it is not empty."""
        ...

    def keep_billing_event(self, event: Event, now_ms: int) -> bool:
        """Keeps it, locked; whether it was applied before. Waits for a concurrent delivery to end."""
        ...

    def update_billing_event(self, event_id: str, user_id: str, reason: str) -> None:
        """Notes whose it is, and why it was not applied; an empty reason: it was."""
        ...

    def lock_customer(self, customer_id: str) -> str:
        """The customer's user; empty if nobody knows."""
        ...

    def set_customer(self, customer_id: str, user_id: str) -> None: ...
    def find_subscription(self, subscription_id: str) -> Subscription | None: ...
    def keep_subscription(self, subscription: Subscription) -> None:
        """Inserts or replaces it."""
        ...

    def give_subscriptions(self, customer_id: str, user_id: str) -> int:
        """Makes a customer's subscriptions that are nobody's that user's; how many there were."""
        ...

    def list_subscriptions(self, user_id: str) -> list[Subscription]:
        """Those that were not deleted."""
        ...

    def list_held_tiers(self) -> list[str]:
        """Names of the tiers that users have."""
        ...


class Store(Protocol):
    """Runs transactions."""

    async def write(self, transaction: Callable[[Transaction], T], *, user_id: str = "") -> T:
        """Runs it, perhaps more than once; returns once it is committed. An exception undoes it.

        `user_id`: the only user whose day it changes; such transactions may share a commit.
        """
        ...

    async def read(self, transaction: Callable[[Transaction], T]) -> T:
        """Runs it on a snapshot."""
        ...
