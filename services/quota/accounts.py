"""Users and their keys: who is calling, and what administrators change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from services.clock import Clock
from services.ids import RandomBytes, random_id
from services.quota.billing import tier_of
from services.quota.keys import NewKey, is_valid, make_key, read_key
from services.quota.model import (
    AlreadyExists,
    AuditEntry,
    Caller,
    Invalid,
    Key,
    NotFound,
    Suspended,
    Unauthenticated,
    User,
    UserStatus,
)
from services.quota.plans import Plans, Tier
from services.quota.ports import Store, Transaction
from services.quota.terms import effective

MAX_KEYS_LISTED = 100
TOLD = ("outstanding", "spend_nano_usd_per_day")
"""Own terms that the scheduler keeps to: a change of them is told as one of tier is."""


@dataclass(frozen=True)
class Identity:
    """Who calls; `key_id` is empty if the gateway vouched for the user."""

    user: User
    key_id: str


class Accounts:
    """Looks callers up and changes users and keys; every change by an administrator leaves an audit row."""

    def __init__(self, store: Store, plans: Plans, clock: Clock, random_bytes: RandomBytes) -> None:
        self._store = store
        self._plans = plans
        self._clock = clock
        self._random_bytes = random_bytes

    async def authenticate(self, caller: Caller) -> Identity:
        """The caller. Raises `Unauthenticated`, `Suspended` or `NotFound`."""
        run = self._store.write if caller.create_if_missing else self._store.read
        return await run(lambda tx: self.identify(tx, caller))

    def identify(self, tx: Transaction, caller: Caller) -> Identity:
        """`authenticate` inside a transaction."""
        identity = self._by_user_id(tx, caller) if caller.user_id else self._by_key(tx, caller.api_key)
        if identity.user.status is UserStatus.SUSPENDED:
            raise Suspended
        return identity

    def _by_key(self, tx: Transaction, text: str) -> Identity:
        presented = read_key(text)
        stored = tx.find_key(presented.key_id) if presented else None
        if presented and is_valid(presented, stored) and stored:
            return Identity(stored.user, stored.key_id)
        raise Unauthenticated

    def _by_user_id(self, tx: Transaction, caller: Caller) -> Identity:
        user = tx.find_user(caller.user_id)
        if user is None and caller.create_if_missing:
            user = self._new_user(caller.user_id, "", self._paid_tier(tx, caller.user_id))
            if not self._insert_user(tx, user):
                user = tx.find_user(caller.user_id)
        if user is None:
            raise NotFound("user")
        return Identity(user, "")

    async def create_user(self, user_id: str, email: str, tier: str, actor: str) -> tuple[User, Key, str]:
        """Creates a user with a first key and returns the key's text too. An empty id or tier is chosen here."""
        user_id = user_id or random_id("usr_", self._random_bytes)
        tier = tier and self._known(tier)
        made = make_key(self._random_bytes)

        def create(tx: Transaction) -> tuple[User, Key]:
            user = self._new_user(user_id, email, tier or self._paid_tier(tx, user_id))
            if not self._insert_user(tx, user):
                raise AlreadyExists("user")
            self._audit(tx, actor, "user.create", user.user_id, "", user.tier)
            return user, self._insert_key(tx, made, user.user_id, actor)

        return *await self._store.write(create), made.text

    async def get_user(self, user_id: str) -> User:
        """One user, suspended or not."""
        return await self._store.read(lambda tx: self._existing(tx, user_id))

    def tier_of(self, user: User) -> Tier:
        """The user's tier, with the limits that hold for this user."""
        return effective(self._plans.tier(user.tier), user.own)

    async def set_tier(self, user_id: str, tier: str, actor: str) -> tuple[User, str]:
        """Moves a user to another tier and returns the former one; the scheduler is told by the outbox."""
        self._known(tier)

        def change(tx: Transaction) -> tuple[User, str]:
            before = self._existing(tx, user_id, lock=True)
            return self.move(tx, before, tier, actor), before.tier

        return await self._store.write(change)

    def move(self, tx: Transaction, before: User, tier: str, actor: str) -> User:
        """`set_tier` inside a transaction that has the user locked."""
        if before.tier == tier:
            return before
        now_ms = self._clock.now_ms()
        after = replace(before, tier=tier, tier_version=before.tier_version + 1)
        tx.update_tier(after.user_id, tier, after.tier_version)
        tx.note_terms(after.user_id, now_ms)
        tx.enqueue_tier_change(after, now_ms)
        self._audit(tx, actor, "user.tier", after.user_id, before.tier, tier)
        return after

    async def set_terms(self, user_id: str, changes: Mapping[str, int | None], actor: str) -> User:
        """Gives a user terms of their own, by name; None takes one back."""
        now_ms = self._clock.now_ms()

        def change(tx: Transaction) -> User:
            before = self._existing(tx, user_id, lock=True)
            own = replace(before.own, **changes)
            if own == before.own:
                return before
            told = any(getattr(own, name) != getattr(before.own, name) for name in TOLD)
            after = replace(before, own=own, tier_version=before.tier_version + told)
            tx.update_terms(user_id, own, after.tier_version)
            if own.price_nano_usd_per_month != before.own.price_nano_usd_per_month:
                tx.note_terms(user_id, now_ms)
            if told:
                tx.enqueue_tier_change(after, now_ms)
            self._audit(tx, actor, "user.limits", user_id, str(before.own), str(own))
            return after

        return await self._store.write(change)

    async def set_status(self, user_id: str, status: UserStatus, actor: str) -> User:
        """Suspends a user or lets them in again."""

        def change(tx: Transaction) -> User:
            before = self._existing(tx, user_id, lock=True)
            if before.status is not status:
                tx.update_status(user_id, status)
                self._audit(tx, actor, "user.status", user_id, before.status, status)
            return replace(before, status=status)

        return await self._store.write(change)

    async def list_keys(self, user_id: str) -> list[Key]:
        """A user's newest keys."""

        def find(tx: Transaction) -> list[Key]:
            self._existing(tx, user_id)
            return tx.list_keys(user_id, MAX_KEYS_LISTED)

        return await self._store.read(find)

    async def create_key(self, user_id: str, actor: str) -> tuple[Key, str]:
        """A further key and its text."""
        made = make_key(self._random_bytes)

        def create(tx: Transaction) -> Key:
            self._existing(tx, user_id)
            return self._insert_key(tx, made, user_id, actor)

        return await self._store.write(create), made.text

    async def revoke_key(self, key_id: str, actor: str) -> Key:
        """Revokes a key for good; a repeat answers the same."""
        now_ms = self._clock.now_ms()

        def revoke(tx: Transaction) -> Key:
            key = tx.lock_key(key_id)
            if key is None:
                raise NotFound("key")
            if key.revoke_time_ms is not None:
                return key
            tx.revoke_key(key_id, now_ms)
            self._audit(tx, actor, "key.revoke", key.user_id, key_id, "")
            return replace(key, revoke_time_ms=now_ms)

        return await self._store.write(revoke)

    def _new_user(self, user_id: str, email: str, tier: str) -> User:
        return User(user_id, email, tier, 1, UserStatus.ACTIVE, self._clock.now_ms())

    def _insert_user(self, tx: Transaction, user: User) -> bool:
        if not tx.insert_user(user):
            return False
        tx.note_terms(user.user_id, user.create_time_ms)
        return True

    def _paid_tier(self, tx: Transaction, user_id: str) -> str:
        """What somebody who is new has subscribed to already: people may pay before they first call."""
        # Whoever keeps a subscription now either sees the user or is seen here.
        tx.claim_user_id(user_id)
        return tier_of(tx.list_subscriptions(user_id), self._plans)

    def _known(self, tier: str) -> str:
        if tier not in self._plans:
            raise Invalid("tier", f"must be one of {', '.join(t.name for t in self._plans.tiers)}")
        return tier

    def _existing(self, tx: Transaction, user_id: str, *, lock: bool = False) -> User:
        user = tx.find_user(user_id, lock=lock)
        if user is None:
            raise NotFound("user")
        return user

    def _insert_key(self, tx: Transaction, made: NewKey, user_id: str, actor: str) -> Key:
        key = Key(made.key_id, user_id, self._clock.now_ms())
        tx.insert_key(key, made.secret_hash)
        self._audit(tx, actor, "key.create", user_id, "", made.key_id)
        return key

    def _audit(self, tx: Transaction, actor: str, action: str, subject: str, old: str, new: str) -> None:
        tx.record_audit(AuditEntry(self._clock.now_ms(), actor, action, subject, old, new))
