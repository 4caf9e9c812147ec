"""Every SQL statement of quota, by name, for PostgreSQL and SQLite alike.

`insert` is PostgreSQL's: SQLite took over its ON CONFLICT and RETURNING, and SQLAlchemy
writes this one construct for both.
"""

from __future__ import annotations

import functools
import operator
from typing import Any

from sqlalchemy import (
    BigInteger,
    BindParameter,
    ColumnElement,
    FromClause,
    Table,
    Text,
    and_,
    bindparam,
    case,
    cast,
    delete,
    exists,
    func,
    literal_column,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from services.quota.tables import (
    SUMS,
    audit,
    days,
    hours,
    keys,
    outbox,
    reservations,
    revenue,
    terms,
    tier_days,
    unresolved,
    users,
)
from services.quota.terms import NO_LIMIT, TERMS

FIND_USER = select(users).where(users.c.user_id == bindparam("id"))
LOCK_USER = FIND_USER.with_for_update()
CLAIM_USER_ID = select(func.pg_advisory_xact_lock(func.hashtextextended(bindparam("id", type_=Text), 0)))
INSERT_USER = insert(users).on_conflict_do_nothing().returning(users.c.user_id)
UPDATE_TIER = (
    update(users)
    .where(users.c.user_id == bindparam("id"))
    .values(tier=bindparam("new_tier"), tier_version=bindparam("new_version"))
)
OWN_TERMS = tuple(f"own_{name}" for name in TERMS)
UPDATE_TERMS = (
    update(users)
    .where(users.c.user_id == bindparam("id"))
    .values(tier_version=bindparam("new_version"), **{name: bindparam(f"new_{name}") for name in OWN_TERMS})
)
UPDATE_STATUS = update(users).where(users.c.user_id == bindparam("id")).values(status=bindparam("new_status"))
HELD_TIERS = select(users.c.tier).distinct()

FIND_KEY = (
    select(keys.c.key_id, keys.c.secret_hash, keys.c.revoke_time_ms, users)
    .join_from(keys, users)
    .where(keys.c.key_id == bindparam("id"))
)
_KEY = select(keys.c.key_id, keys.c.user_id, keys.c.create_time_ms, keys.c.revoke_time_ms)
LOCK_KEY = _KEY.where(keys.c.key_id == bindparam("id")).with_for_update()
LIST_KEYS = (
    _KEY.where(keys.c.user_id == bindparam("id"))
    .order_by(keys.c.create_time_ms.desc(), keys.c.key_id)
    .limit(bindparam("most"))
)
INSERT_KEY = insert(keys)
REVOKE_KEY = update(keys).where(keys.c.key_id == bindparam("id")).values(revoke_time_ms=bindparam("now_ms"))

OWN_PRICE = terms.c.own_price_nano_usd_per_month
_agreed = (terms.c.user_id, terms.c.from_ms, terms.c.tier, OWN_PRICE)
NOTE_TERMS = insert(terms).from_select(
    _agreed,
    select(users.c.user_id, bindparam("now_ms", type_=BigInteger), users.c.tier, users.c.own_price_nano_usd_per_month)
    .where(users.c.user_id == bindparam("id")),
)  # fmt: skip
NEWEST_TERMS = select(func.max(terms.c.number)).group_by(terms.c.user_id)
MEND_TERMS = insert(terms).from_select(
    _agreed,
    select(
        users.c.user_id,
        # Who has none had these since they came, as far as anybody knows.
        case((terms.c.number.is_(None), users.c.create_time_ms), else_=bindparam("now_ms", type_=BigInteger)),
        users.c.tier,
        users.c.own_price_nano_usd_per_month,
    )
    .join_from(users, terms, and_(terms.c.user_id == users.c.user_id, terms.c.number.in_(NEWEST_TERMS)), isouter=True)
    .where(
        or_(
            terms.c.number.is_(None),
            terms.c.tier != users.c.tier,
            func.coalesce(OWN_PRICE, -1) != func.coalesce(users.c.own_price_nano_usd_per_month, -1),
        )
    ),
)
FIRST_TERMS = select(func.min(terms.c.from_ms))
# By number and not by time: of two changes, the one that was committed later holds, whatever clocks said.
_before_end = NEWEST_TERMS.where(terms.c.from_ms < bindparam("end_ms"))
LIST_HELD = (
    select(terms.c.user_id, terms.c.tier, OWN_PRICE)
    .where(
        terms.c.number.in_(
            _before_end.where(terms.c.user_id > bindparam("after"))
            .order_by(terms.c.user_id)
            .limit(bindparam("most"))
        )
    )
    .order_by(terms.c.user_id)
)  # fmt: skip
SUM_HELD = (
    select(terms.c.tier, OWN_PRICE, func.count().label("users"))
    .where(terms.c.number.in_(_before_end))
    .group_by(terms.c.tier, OWN_PRICE)
)
INSERT_REVENUE = insert(revenue).on_conflict_do_nothing()
SUM_REVENUE = (
    select(revenue.c.tier, func.sum(revenue.c.revenue_nano_usd).label("sum"))
    .where(revenue.c.day == bindparam("of_day"))
    .group_by(revenue.c.tier)
)
INSERT_TIER_DAYS = insert(tier_days).on_conflict_do_nothing()
LAST_CLOSED_DAY = select(func.max(tier_days.c.day))

_of_days = reservations.c.day.between(bindparam("first"), bindparam("last"))
# A pending reservation is one without that time, by which there is an index. One that the scheduler said has ended is
# live until it is settled. Each is looked for by itself, for its own index.
HAS_PENDING = select(
    or_(
        exists().where(reservations.c.settle_time_ms.is_(None), _of_days), exists().where(reservations.c.live, _of_days)
    )
)


def sums(of: FromClause) -> list[ColumnElement[int]]:
    # Whole numbers: PostgreSQL's own sums of them are decimals, which take longer to read than all the rest of a page.
    return [cast(func.sum(of.c[name]), BigInteger).label(name) for name in SUMS]


_new = [bindparam(column.name, type_=column.type) for column in reservations.c]
_is_there = exists().where(reservations.c.request_id == bindparam("request_id", type_=Text))
# What is there is seen first: ON CONFLICT would wait for whoever changes it, and a fold holds days of others by then.
INSERT_RESERVATION = (
    insert(reservations)
    .from_select(list(reservations.c), select(*_new).where(~_is_there))
    .on_conflict_do_nothing()
    .returning(reservations.c.request_id)
)
FIND_RESERVATION = select(reservations).where(reservations.c.request_id == bindparam("id"))
LOCK_RESERVATIONS = (
    select(reservations)
    .where(reservations.c.request_id.in_(bindparam("ids", expanding=True)))
    # One order everywhere, so that two batches cannot wait for each other.
    .order_by(reservations.c.request_id)
    .with_for_update()
)
UPDATE_RESERVATION = update(reservations).where(
    and_(
        reservations.c.request_id == bindparam("id"),
        reservations.c.state == bindparam("old_state"),
        reservations.c.generation == bindparam("old_generation"),
    )
)
LIST_UNRESOLVED = (
    select(reservations)
    .where(
        unresolved,
        reservations.c.reserve_time_ms < bindparam("before_ms"),
        tuple_(reservations.c.reserve_time_ms, reservations.c.request_id)
        > tuple_(bindparam("after_ms", type_=BigInteger), bindparam("after_id", type_=Text)),
    )
    .order_by(reservations.c.reserve_time_ms, reservations.c.request_id)
    .limit(bindparam("most"))
)


def _number(name: str) -> BindParameter[int]:
    return bindparam(name, type_=BigInteger)


def tokens(of: FromClause) -> ColumnElement[int]:
    return functools.reduce(operator.add, (column for column in of.c if column.name.endswith("_tokens")))


_ZERO, _ONE, _NO_LIMIT = (literal_column(str(number), BigInteger) for number in (0, 1, NO_LIMIT))
# The limits are in the statement itself: whoever else takes a place at this moment is seen by it. What holds for the
# first place of a day stands in the SELECT, what depends on the day's row in the WHERE of the update.
_day, _minute = bindparam("day", type_=Text), _number("minute")
_month = days.alias("month")
_OF_MONTH = and_(
    _month.c.user_id == bindparam("user_id", type_=Text),
    # As text the days of a month lie between its first and a 31st, whether it has one or not.
    _month.c.day.between(bindparam("month_first", type_=Text), bindparam("month_last", type_=Text)),
)
_SPENT = cast(func.coalesce(func.sum(_month.c.cost_nano_usd), _ZERO), BigInteger)
_may_begin_a_day = and_(
    _number("requests_per_day") > _ZERO,
    _number("tokens_per_day") > _ZERO,
    # Nobody adds up a month for a user who has no limit of it.
    or_(
        _number("spend_nano_usd_per_month") == _NO_LIMIT,
        select(_SPENT).where(_OF_MONTH).scalar_subquery() < _number("spend_nano_usd_per_month"),
    ),
)
# A replica whose clock is behind counts in the minute that another one has begun.
_new_minute = days.c.minute < _minute
TAKE_PLACE = (
    insert(days)
    .from_select(
        ["user_id", "day", "used", "minute", "minute_used"],
        select(bindparam("user_id", type_=Text), _day, _ONE, _minute, _ONE).where(_may_begin_a_day),
    )
    .on_conflict_do_update(
        index_elements=[days.c.user_id, days.c.day],
        set_={
            "used": days.c.used + _ONE,
            "minute": case((_new_minute, _minute), else_=days.c.minute),
            "minute_used": case((_new_minute, _ONE), else_=days.c.minute_used + _ONE),
        },
        where=and_(
            days.c.used < _number("requests_per_day"),
            or_(_new_minute, days.c.minute_used < _number("requests_per_minute")),
            tokens(days) < _number("tokens_per_day"),
        ),
    )
    .returning(days.c.used)
)


def _on_the_day(amount: ColumnElement[int]) -> ColumnElement[int]:
    return func.coalesce(func.max(case((_month.c.day == _day, amount))), _ZERO)


FIND_LIMIT_USE = select(
    _on_the_day(_month.c.used).label("requests"),
    _on_the_day(_month.c.minute).label("minute"),
    _on_the_day(_month.c.minute_used).label("minute_requests"),
    _on_the_day(tokens(_month)).label("tokens"),
    _SPENT.label("spent_nano_usd"),
).where(_OF_MONTH)
_DAY = and_(days.c.user_id == bindparam("of_user"), days.c.day == bindparam("of_day"))
COUNT_USED = select(func.coalesce(func.max(days.c.used), 0)).where(_DAY)


def _add_to(table: Table, *names: str) -> Any:
    new = insert(table)
    return new.on_conflict_do_update(
        index_elements=list(table.primary_key), set_={name: table.c[name] + new.excluded[name] for name in names}
    )


ADD_TO_DAY = _add_to(days, "used", *SUMS)
ADD_TO_HOUR = _add_to(hours, *SUMS)
TIERS_OF = select(users.c.user_id, users.c.tier).where(users.c.user_id.in_(bindparam("ids", expanding=True)))

INSERT_TIER_CHANGE = insert(outbox)
LIST_TIER_CHANGES = (
    select(outbox.c.number, outbox.c.user_id, outbox.c.tier, outbox.c.tier_version, *(users.c[t] for t in OWN_TERMS))
    .join_from(outbox, users, outbox.c.user_id == users.c.user_id, isouter=True)
    .order_by(outbox.c.number)
    .limit(bindparam("most"))
)
DELETE_TIER_CHANGES = delete(outbox).where(outbox.c.number.in_(bindparam("numbers", expanding=True)))
INSERT_AUDIT = insert(audit).on_conflict_do_nothing()
LIST_AUDIT = (
    select(*(audit.c[name] for name in ("number", "time_ms", "actor", "action", "subject", "old", "new")))
    .where(audit.c.number < bindparam("below", type_=BigInteger))
    .order_by(audit.c.number.desc())
    .limit(bindparam("most"))
)
LIST_AUDIT_OF = LIST_AUDIT.where(audit.c.subject == bindparam("of"))
