"""The store on SQL: each method of `Transaction` is one statement."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from sqlalchemy import Connection, RowMapping

from services.clock import DAY_MS, next_day_ms, utc_day
from services.quota import billing_statements as billing_sql
from services.quota import charge_statements as charge_sql
from services.quota import economics_statements, report_statements
from services.quota import statements as sql
from services.quota.billing import Event, Subscription
from services.quota.ledger import HOUR_MS
from services.quota.model import (
    AuditEntry,
    Charge,
    ChargeKey,
    DayTier,
    HeldTerms,
    Hour,
    Key,
    Margin,
    Reservation,
    ReservationState,
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
from services.quota.ports import Transaction
from services.quota.terms import NOTHING_OWN, Limit, LimitUse, OwnTerms
from services.sql import Database

T = TypeVar("T")


class SqlStore:
    """Implements `Store` on a database, which stays the caller's to close."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def write(self, transaction: Callable[[Transaction], T], *, user_id: str = "") -> T:
        """See `Store.write`."""
        return await self._database.write(lambda connection: transaction(SqlTransaction(connection)), fold=user_id)

    async def read(self, transaction: Callable[[Transaction], T]) -> T:
        """See `Store.read`."""
        return await self._database.read(lambda connection: transaction(SqlTransaction(connection)))


class RowChanged(Exception):
    """A row was no longer as it had been read, although it was locked."""


class SqlTransaction:
    """Implements `Transaction` on a connection that is inside one."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def find_user(self, user_id: str, *, lock: bool = False) -> User | None:
        row = self._one(sql.LOCK_USER if lock else sql.FIND_USER, id=user_id)
        return _user(row) if row else None

    def claim_user_id(self, user_id: str) -> None:
        # SQLite has one writer.
        if self._connection.dialect.name == "postgresql":
            self._run(sql.CLAIM_USER_ID, id=user_id)

    def insert_user(self, user: User) -> bool:
        values = asdict(user)
        own = {f"own_{name}": value for name, value in values.pop("own").items()}
        return self._one(sql.INSERT_USER, **values, **own) is not None

    def update_tier(self, user_id: str, tier: str, version: int) -> None:
        self._run(sql.UPDATE_TIER, id=user_id, new_tier=tier, new_version=version)

    def update_terms(self, user_id: str, own: OwnTerms, version: int) -> None:
        values = {f"new_own_{name}": value for name, value in asdict(own).items()}
        self._run(sql.UPDATE_TERMS, id=user_id, new_version=version, **values)

    def update_status(self, user_id: str, status: UserStatus) -> None:
        self._run(sql.UPDATE_STATUS, id=user_id, new_status=status)

    def find_key(self, key_id: str) -> StoredKey | None:
        row = self._one(sql.FIND_KEY, id=key_id)
        if row is None:
            return None
        return StoredKey(row["key_id"], row["secret_hash"], row["revoke_time_ms"] is not None, _user(row))

    def insert_key(self, key: Key, secret_hash: bytes) -> None:
        self._run(sql.INSERT_KEY, **asdict(key), secret_hash=secret_hash)

    def lock_key(self, key_id: str) -> Key | None:
        row = self._one(sql.LOCK_KEY, id=key_id)
        return Key(**row) if row else None

    def revoke_key(self, key_id: str, now_ms: int) -> None:
        self._run(sql.REVOKE_KEY, id=key_id, now_ms=now_ms)

    def list_keys(self, user_id: str, limit: int) -> list[Key]:
        return [Key(**row) for row in self._all(sql.LIST_KEYS, id=user_id, most=limit)]

    def note_terms(self, user_id: str, now_ms: int) -> None:
        self._run(sql.NOTE_TERMS, id=user_id, now_ms=now_ms)

    def mend_terms(self, now_ms: int) -> None:
        self._run(sql.MEND_TERMS, now_ms=now_ms)

    def first_terms_ms(self) -> int | None:
        first: int | None = self._connection.execute(sql.FIRST_TERMS).scalar_one()
        return first

    def list_held(self, end_ms: int, after: str, limit: int) -> list[Terms]:
        return [Terms(**row) for row in self._all(sql.LIST_HELD, end_ms=end_ms, after=after, most=limit)]

    def sum_held(self, end_ms: int) -> list[HeldTerms]:
        return [HeldTerms(**row) for row in self._all(sql.SUM_HELD, end_ms=end_ms)]

    def insert_revenue(self, rows: Sequence[Revenue]) -> None:
        if rows:
            self._connection.execute(sql.INSERT_REVENUE, [asdict(row) for row in rows])

    def sum_revenue(self, day: str) -> dict[str, int]:
        return {row["tier"]: int(row["sum"]) for row in self._all(sql.SUM_REVENUE, of_day=day)}

    def insert_tier_days(self, rows: Sequence[TierDay]) -> None:
        self._connection.execute(sql.INSERT_TIER_DAYS, [asdict(row) for row in rows])

    def last_closed_day(self) -> str:
        return self._connection.execute(sql.LAST_CLOSED_DAY).scalar_one() or ""

    def has_pending(self, first: str, last: str) -> bool:
        return bool(self._connection.execute(sql.HAS_PENDING, {"first": first, "last": last}).scalar_one())

    def list_tier_days(self, window: Window) -> list[TierDay]:
        rows = self._all(economics_statements.LIST_TIER_DAYS, first=window.first, last=window.last)
        return [TierDay(**row) for row in rows]

    def sum_use_by_day_and_tier(self, window: Window) -> dict[DayTier, Use]:
        rows = self._connection.execute(economics_statements.USE_BY_DAY_AND_TIER, _hours(window))
        return {(utc_day(date * DAY_MS), tier): Use(*sums) for date, tier, *sums in rows}

    def sum_use(self, window: Window) -> UseSums:
        use = UseSums({}, {}, {})
        of_part = {"model": use.models, "kind": use.kinds}
        for part, date, name, *sums in self._connection.execute(economics_statements.USE_OF_EACH, _hours(window)):
            if part == "tier":
                use.days[utc_day(date * DAY_MS), name] = Use(*sums)
            else:
                of_part[part][name] = Use(*sums)
        return use

    def list_dearest_and_losing(self, window: Window, limit: int) -> tuple[list[UserMargin], list[UserMargin]]:
        rows = self._connection.execute(economics_statements.dearest_and_losing(window), {"most": limit}).all()
        dearest, losing = ([_user_margin(user) for name, *user in rows if name == n] for n in ("dearest", "losing"))
        return dearest, losing

    def list_users_in_order(self, window: Window, after: str, limit: int) -> list[UserMargin]:
        values = {"after": after, "most": limit}
        return [
            _user_margin(row) for row in self._connection.execute(economics_statements.users_in_order(window), values)
        ]

    def insert_reservation(self, row: Reservation) -> bool:
        # scalar: a mapping of one value costs as much again as the value (5 us, on the path of every request).
        return self._connection.execute(sql.INSERT_RESERVATION, vars(row)).scalar() is not None

    def find_reservation(self, request_id: str) -> Reservation | None:
        row = self._one(sql.FIND_RESERVATION, id=request_id)
        return _reservation(row) if row else None

    def lock_reservations(self, request_ids: Sequence[str]) -> list[Reservation]:
        rows = self._all(sql.LOCK_RESERVATIONS, ids=request_ids) if request_ids else ()
        return [_reservation(row) for row in rows]

    def update_reservations(self, changes: Sequence[tuple[Reservation, Reservation]]) -> None:
        if not changes:
            return
        values = [_update(before, after) for before, after in changes]
        if self._connection.execute(sql.UPDATE_RESERVATION, values).rowcount != len(changes):
            raise RowChanged

    def list_unresolved(self, reserved_before_ms: int, after: tuple[int, str], limit: int) -> list[Reservation]:
        rows = self._all(
            sql.LIST_UNRESOLVED, before_ms=reserved_before_ms, after_ms=after[0], after_id=after[1], most=limit
        )
        return [_reservation(row) for row in rows]

    def take_place(self, user_id: str, day: str, minute: int, tier: Tier) -> int | None:
        limits = {limit.value: limit.of(tier) for limit in Limit}
        values = {"user_id": user_id, "day": day, "minute": minute, **_month(day), **limits}
        used: int | None = self._connection.execute(sql.TAKE_PLACE, values).scalar()
        return used

    def find_limit_use(self, user_id: str, day: str) -> LimitUse:
        (row,) = self._all(sql.FIND_LIMIT_USE, user_id=user_id, day=day, **_month(day))
        return LimitUse(**row)

    def count_used(self, user_id: str, day: str) -> int:
        return int(self._connection.execute(sql.COUNT_USED, {"of_user": user_id, "of_day": day}).scalar_one())

    def add_to_days(self, freed: Mapping[UserDay, int], uses: Mapping[UserDay, Use]) -> None:
        # In one order everywhere, so that two batches cannot wait for each other.
        keys = sorted(freed.keys() | uses.keys())
        nothing = Use()
        self._run_each(
            sql.ADD_TO_DAY,
            [
                {"user_id": key[0], "day": key[1], "used": -freed.get(key, 0), **vars(uses.get(key, nothing))}
                for key in keys
            ],
        )

    def add_to_hours(self, uses: Mapping[Hour, Use]) -> None:
        names = ("hour", "tier", "model", "kind")
        self._run_each(
            sql.ADD_TO_HOUR, [dict(zip(names, hour, strict=True)) | vars(uses[hour]) for hour in sorted(uses)]
        )

    def list_tiers_of(self, user_ids: Sequence[str]) -> dict[str, str]:
        return {row["user_id"]: row["tier"] for row in self._all(sql.TIERS_OF, ids=user_ids)}

    def insert_charges(self, charges: Sequence[Charge]) -> set[ChargeKey]:
        if not charges:
            return set()
        rows = self._connection.execute(charge_sql.INSERT_CHARGE, [dict(vars(charge)) for charge in charges])
        return {(row.request_id, row.attempt, row.turn) for row in rows}

    def lock_estimates(self, request_ids: Sequence[str]) -> list[Charge]:
        rows = self._all(charge_sql.LOCK_ESTIMATES, ids=request_ids) if request_ids else ()
        return [Charge(**row) for row in rows]

    def lock_unsummed(self, limit: int) -> list[Charge]:
        return [Charge(**row) for row in self._all(charge_sql.LOCK_UNSUMMED, most=limit)]

    def replace_charges(self, charges: Sequence[Charge]) -> None:
        values = [{f"new_{name}": value for name, value in vars(charge).items()} for charge in charges]
        self._run_each(charge_sql.REPLACE_CHARGE, values)

    def list_users(self, query: UsersQuery, after: UsersCursor) -> list[UserRow]:
        named = {"of_prefix": query.prefix, "of_tier": query.tier, "most": query.page_size}
        statement = report_statements.users_by(query.sort, by_prefix=bool(query.prefix), by_tier=bool(query.tier))
        rows = self._connection.execute(statement, named | after._asdict())
        return [
            UserRow(user_id, email, tier, UserStatus(status), sorted_by, revenue, Use(*sums))
            for user_id, email, tier, status, sorted_by, revenue, *sums in rows
        ]

    def list_usage(self, hours: range, query: UsageQuery) -> list[UsageRow]:
        statement = report_statements.USAGE[query.hourly, query.group]
        rows = self._connection.execute(statement, {"first_hour": hours.start, "end_hour": hours.stop})
        return [UsageRow(start, divided, Use(*sums)) for start, divided, *sums in rows]

    def enqueue_tier_change(self, user: User, now_ms: int) -> None:
        self._run(
            sql.INSERT_TIER_CHANGE,
            user_id=user.user_id,
            tier=user.tier,
            tier_version=user.tier_version,
            create_time_ms=now_ms,
        )

    def list_tier_changes(self, limit: int) -> list[TierChange]:
        rows = self._all(sql.LIST_TIER_CHANGES, most=limit)
        return [TierChange(row["number"], row["user_id"], row["tier"], row["tier_version"], _own(row)) for row in rows]

    def delete_tier_changes(self, numbers: Sequence[int]) -> None:
        self._run(sql.DELETE_TIER_CHANGES, numbers=numbers)

    def record_audit(self, entry: AuditEntry, audit_id: str | None = None) -> None:
        self._run(sql.INSERT_AUDIT, **asdict(entry), audit_id=audit_id)

    def list_audit(self, limit: int, below: int, subject: str) -> list[tuple[int, AuditEntry]]:
        statement = sql.LIST_AUDIT_OF if subject else sql.LIST_AUDIT
        rows = self._all(statement, most=limit, below=below, **({"of": subject} if subject else {}))
        return [(row["number"], AuditEntry(**{k: v for k, v in row.items() if k != "number"})) for row in rows]

    def keep_billing_event(self, event: Event, now_ms: int) -> bool:
        told = {name: getattr(event, name) for name in ("event_id", "type", "created_s", "subscription_id", "user_id")}
        new = {**told, "receive_time_ms": now_ms, "applied": False, "reason": ""}
        if self._one(billing_sql.KEEP_BILLING_EVENT, **new) is not None:
            return False
        return bool(self._connection.execute(billing_sql.LOCK_BILLING_EVENT, {"id": event.event_id}).scalar_one())

    def update_billing_event(self, event_id: str, user_id: str, reason: str) -> None:
        self._run(billing_sql.UPDATE_BILLING_EVENT, id=event_id, owner=user_id, is_applied=not reason, why=reason)

    def lock_customer(self, customer_id: str) -> str:
        self._run(billing_sql.KEEP_CUSTOMER, customer_id=customer_id, user_id="")
        return str(self._connection.execute(billing_sql.LOCK_CUSTOMER, {"id": customer_id}).scalar_one())

    def set_customer(self, customer_id: str, user_id: str) -> None:
        self._run(billing_sql.SET_CUSTOMER, id=customer_id, owner=user_id)

    def find_subscription(self, subscription_id: str) -> Subscription | None:
        row = self._one(billing_sql.FIND_SUBSCRIPTION, id=subscription_id)
        return Subscription(**row) if row else None

    def keep_subscription(self, subscription: Subscription) -> None:
        self._run(billing_sql.KEEP_SUBSCRIPTION, **asdict(subscription))

    def give_subscriptions(self, customer_id: str, user_id: str) -> int:
        values = {"customer": customer_id, "owner": user_id}
        return int(self._connection.execute(billing_sql.GIVE_SUBSCRIPTIONS, values).rowcount)

    def list_subscriptions(self, user_id: str) -> list[Subscription]:
        return [Subscription(**row) for row in self._all(billing_sql.LIST_SUBSCRIPTIONS, owner=user_id)]

    def list_held_tiers(self) -> list[str]:
        return [row["tier"] for row in self._all(sql.HELD_TIERS)]

    def _run_each(self, statement: Any, values: list[dict[str, Any]]) -> None:
        if values:
            self._connection.execute(statement, values)

    def _run(self, statement: Any, **values: Any) -> None:
        self._connection.execute(statement, values)

    def _one(self, statement: Any, **values: Any) -> RowMapping | None:
        return self._connection.execute(statement, values).mappings().first()

    def _all(self, statement: Any, **values: Any) -> Sequence[RowMapping]:
        return self._connection.execute(statement, values).mappings().all()


def _user(row: RowMapping) -> User:
    return User(
        row["user_id"],
        row["email"],
        row["tier"],
        row["tier_version"],
        UserStatus(row["status"]),
        row["create_time_ms"],
        _own(row),
    )


def _own(row: RowMapping) -> OwnTerms:
    terms = [row[name] for name in sql.OWN_TERMS]
    return OwnTerms(*terms) if any(term is not None for term in terms) else NOTHING_OWN


def _month(day: str) -> dict[str, str]:
    return {"month_first": day[:8] + "01", "month_last": day[:8] + "31"}


def _reservation(row: RowMapping) -> Reservation:
    return Reservation(**{**row, "state": ReservationState(row["state"])})


def _update(before: Reservation, after: Reservation) -> dict[str, Any]:
    guards = {"id": before.request_id, "old_state": before.state, "old_generation": before.generation}
    changed = dict(vars(after))
    del changed["request_id"], changed["user_id"]
    return {**changed, **guards}


def _hours(window: Window) -> dict[str, int]:
    first_ms, end_ms = next_day_ms(window.first) - DAY_MS, next_day_ms(window.last)
    return {"first_hour": first_ms // HOUR_MS, "last_hour": end_ms // HOUR_MS - 1}


def _user_margin(row: Iterable[Any]) -> UserMargin:
    user_id, tier, revenue, *sums = row
    return UserMargin(user_id, tier, Margin(revenue, Use(*sums)))
