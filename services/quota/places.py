"""Places of a user's day: reserved, resolved by asking, settled."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from services.clock import Clock, next_day_ms, utc_day
from services.ids import keyed_id
from services.quota import reservations
from services.quota.accounts import Accounts
from services.quota.keys import KEY_ID_CHARACTERS
from services.quota.model import (
    Caller,
    DayUsage,
    Invalid,
    LimitReached,
    NotFound,
    Reservation,
    ReservationState,
    User,
)
from services.quota.plans import Plans, Tier
from services.quota.ports import Scheduler, SchedulerUnreachable, Store, Transaction
from services.quota.reservations import freed_places, holds_place
from services.quota.terms import MINUTE_MS, effective, reached

log = logging.getLogger(__name__)
KEYS_REMEMBERED = 100_000
Change = tuple[Reservation, Reservation]


@dataclass(frozen=True)
class Reserved:
    """What Reserve answers."""

    user: User
    tier: Tier
    reservation: Reservation
    usage: DayUsage


class Places:
    """Everything that takes a place of a day or gives it back."""

    def __init__(
        self, store: Store, plans: Plans, accounts: Accounts, scheduler: Scheduler, clock: Clock, id_key: bytes
    ) -> None:
        """`id_key` turns idempotency keys into request ids."""
        self._store = store
        self._plans = plans
        self._accounts = accounts
        self._scheduler = scheduler
        self._clock = clock
        self._id_key = id_key
        self._user_of_key: dict[str, str] = {}

    async def reserve(self, caller: Caller, request_id: str, idempotency_key: str) -> Reserved:
        """Takes one place of today, or returns what the request has already. Raises `LimitReached`."""
        now_ms = self._clock.now_ms()

        def run(tx: Transaction, *, alone: bool) -> Reserved | None:
            user = self._accounts.identify(tx, caller).user
            id_ = keyed_id("req_", self._id_key, user.user_id, idempotency_key) if idempotency_key else request_id
            return self._reserve(tx, user, id_, now_ms, alone=alone)

        # To fold, whose key it is must be known beforehand; it never changes, so its first call tells the others.
        known = caller.user_id or self._user_of_key.get(caller.api_key[:KEY_ID_CHARACTERS], "")
        reserved = await self._store.write(partial(run, alone=False), user_id=known) if known else None
        reserved = reserved or await self._store.write(partial(run, alone=True))
        assert reserved is not None
        if not known and len(self._user_of_key) < KEYS_REMEMBERED:
            self._user_of_key[caller.api_key[:KEY_ID_CHARACTERS]] = reserved.user.user_id
        return reserved

    def _reserve(self, tx: Transaction, user: User, request_id: str, now_ms: int, *, alone: bool) -> Reserved | None:
        """None, with nothing changed, if what it has must be locked and the transaction is not `alone`."""
        day = utc_day(now_ms)
        after = reservations.first(request_id, user.user_id, day, now_ms)
        takes_place = True
        # The row comes before the place: whoever inserts it is alone with the request from here on.
        if not tx.insert_reservation(after):
            # Reservations are locked before days, but others in this transaction have taken places of theirs.
            if not alone:
                return None
            (before,) = tx.lock_reservations([request_id])
            if before.user_id != user.user_id:
                raise NotFound("request")
            after = reservations.reserved_again(before, day, now_ms)
            takes_place = holds_place(after) and not holds_place(before)
            tx.update_reservations([(before, after)] if after != before else [])
        tier, minute = self._accounts.tier_of(user), now_ms // MINUTE_MS
        used = tx.take_place(user.user_id, day, minute, tier) if takes_place else tx.count_used(user.user_id, day)
        if used is None:
            raise self._refusal(tx, user, tier, day, minute)
        return Reserved(user, tier, after, _day_usage(used, tier, day))

    def _refusal(self, tx: Transaction, user: User, tier: Tier, day: str, minute: int) -> LimitReached:
        use = tx.find_limit_use(user.user_id, day)
        which = reached(tier, use, day, minute)
        gives_more = (t for t in self._plans.above(tier.name) if which.limit.of(effective(t, user.own)) > which.most)
        return LimitReached(user, tier, next(gives_more, None), _day_usage(use.requests, tier, day), which)

    async def usage(self, caller: Caller) -> tuple[User, Tier, DayUsage]:
        """The caller's day."""
        user = (await self._accounts.authenticate(caller)).user
        return await self.usage_of(user)

    async def usage_of(self, user: User) -> tuple[User, Tier, DayUsage]:
        """A user's day."""
        day = utc_day(self._clock.now_ms())
        used = await self._store.read(lambda tx: tx.count_used(user.user_id, day))
        tier = self._accounts.tier_of(user)
        return user, tier, _day_usage(used, tier, day)

    async def resolve(self, request_id: str, generation: int) -> Reservation:
        """Finds out now what became of a reservation whose Submit at `generation` was refused."""
        row = await self._existing(request_id)
        if generation > row.generation:
            raise Invalid("generation", f"is {generation}, but the reservation is at {row.generation}")
        if row.state is ReservationState.PENDING and not row.live:
            try:
                await self.account_for([(request_id, generation)])
            except SchedulerUnreachable:
                log.warning("kept a reservation: the scheduler could not be asked")
            row = await self._existing(request_id)
        return row

    async def account_for(self, asked: Sequence[tuple[str, int]]) -> None:
        """Asks about (request id, generation), at most 500, and does what the answers say.

        Raises `SchedulerUnreachable`; every reservation is kept then.
        """
        answers = await self._scheduler.account(asked)
        now_ms = self._clock.now_ms()

        def run(tx: Transaction) -> None:
            rows = tx.lock_reservations(list(answers))
            self._change(tx, [(row, reservations.accounted(row, answers[row.request_id], now_ms)) for row in rows])

        await self._store.write(run)

    def _change(self, tx: Transaction, changes: Iterable[Change]) -> None:
        changed = [(before, after) for before, after in changes if after != before]
        tx.update_reservations(changed)
        tx.add_to_days(freed_places(changed), {})

    async def _existing(self, request_id: str) -> Reservation:
        row = await self._store.read(lambda tx: tx.find_reservation(request_id))
        if row is None:
            raise NotFound("reservation")
        return row


def _day_usage(used: int, tier: Tier, day: str) -> DayUsage:
    return DayUsage(used, tier.requests_per_day, next_day_ms(day))
