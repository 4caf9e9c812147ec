"""The statements of administrators' lists of use, by name; the others are in statements.py."""

from __future__ import annotations

import functools
from typing import Any

from sqlalchemy import BigInteger, Select, Text, and_, bindparam, cast, func, literal_column, or_, select

from services.quota.statements import sums, tokens
from services.quota.tables import SUMS, days, hours, revenue, users

# Written out: a plan for any days whatever expects few of them.
_FIRST, _LAST = (bindparam(name, type_=Text, literal_execute=True) for name in ("first_day", "last_day"))
_DAYS = days.c.day.between(_FIRST, _LAST)


_AMOUNTS = {
    "cost": days.c.cost_nano_usd,
    "requests": days.c.requests,
    "tokens": tokens(days),
}


@functools.cache
def users_by(sort: str, *, by_prefix: bool, by_tier: bool) -> Select[Any]:
    """A page of users, highest first; only what is sorted by is summed up of everybody."""
    amount = cast(func.sum(_AMOUNTS[sort]), BigInteger).label("amount")
    each = select(days.c.user_id, amount).where(_DAYS).group_by(days.c.user_id).subquery()
    value, prefix = func.coalesce(each.c.amount, 0), bindparam("of_prefix", type_=Text)
    after = bindparam("value", type_=BigInteger)
    chosen = (
        select(users.c.user_id, users.c.email, users.c.tier, users.c.status, value.label("sorted_by"))
        .join_from(users, each, each.c.user_id == users.c.user_id, isouter=True)
        .where(or_(value < after, and_(value == after, users.c.user_id > bindparam("user_id"))))
        .order_by(value.desc(), users.c.user_id)
        .limit(bindparam("most"))
    )
    # Only where they are asked for: conditions that always hold made PostgreSQL expect one user, and sum up the days
    # anew for each of them.
    if by_prefix:
        begins = [func.substr(column, 1, func.length(prefix)) == prefix for column in (users.c.user_id, users.c.email)]
        chosen = chosen.where(or_(*begins))
    page = (chosen.where(users.c.tier == bindparam("of_tier")) if by_tier else chosen).cte("page")
    ids = select(page.c.user_id)
    use = select(days.c.user_id, *sums(days)).where(days.c.user_id.in_(ids), _DAYS).group_by(days.c.user_id).subquery()
    brought = (
        select(revenue.c.user_id, cast(func.sum(revenue.c.revenue_nano_usd), BigInteger).label("nano_usd"))
        .where(revenue.c.user_id.in_(ids), revenue.c.day.between(_FIRST, _LAST))
        .group_by(revenue.c.user_id)
        .subquery()
    )
    return (
        select(page, func.coalesce(brought.c.nano_usd, 0), *(func.coalesce(use.c[name], 0) for name in SUMS))
        .join_from(page, use, use.c.user_id == page.c.user_id, isouter=True)
        .join(brought, brought.c.user_id == page.c.user_id, isouter=True)
        .order_by(page.c.sorted_by.desc(), page.c.user_id)
    )


def _hour(name: str) -> Any:
    return bindparam(name, type_=BigInteger, literal_execute=True)


def _usage(hourly: bool, group: str) -> Any:
    # Written out: PostgreSQL does not see that two bound numbers are one expression.
    start = hours.c.hour if hourly else hours.c.hour - hours.c.hour % literal_column("24")
    divided = hours.c[group] if group else literal_column("''", Text)
    return (
        select(start.label("start"), divided.label("divided"), *sums(hours))
        .where(hours.c.hour >= _hour("first_hour"), hours.c.hour < _hour("end_hour"))
        .group_by(start, *([divided] if group else []))
        .order_by(start, *([divided] if group else []))
    )


USAGE = {(hourly, group): _usage(hourly, group) for hourly in (True, False) for group in ("", "tier", "model", "kind")}
