"""The statements of economics and of the closing of days, by name; as in `statements`, each serves both databases."""

from __future__ import annotations

import functools
import operator
from typing import Any

from sqlalchemy import (
    CTE,
    BigInteger,
    Column,
    ColumnElement,
    CompoundSelect,
    FromClause,
    Integer,
    Select,
    Subquery,
    Table,
    Text,
    and_,
    bindparam,
    case,
    cast,
    func,
    literal,
    literal_column,
    select,
    union,
    union_all,
)

from services.clock import next_day_ms
from services.quota.model import Window
from services.quota.revenue import day_revenue
from services.quota.statements import NEWEST_TERMS, OWN_PRICE, sums
from services.quota.tables import SUMS, days, hours, revenue, terms, tier_days, users

LIST_TIER_DAYS = select(tier_days).where(tier_days.c.day.between(bindparam("first"), bindparam("last")))


def _use_by(*groups: ColumnElement[Any]) -> Select[Any]:
    hour = hours.c.hour.between(bindparam("first_hour"), bindparam("last_hour"))
    return select(*groups, *sums(hours)).where(hour).group_by(*groups)


# Written out: PostgreSQL does not see that two bound numbers are one expression.
_date = (hours.c.hour // literal_column("24", BigInteger)).label("date")
USE_BY_DAY_AND_TIER = _use_by(_date, hours.c.tier)


def _use_of_each() -> CompoundSelect[Any]:
    """By day and tier, by model and by kind; the hours, 150,000 rows a month, are read once."""
    each = _use_by(_date, hours.c.tier, hours.c.model, hours.c.kind).cte("each")
    no_date = literal_column("0", BigInteger)
    return union_all(
        *(
            select(literal_column(f"'{name}'", Text), date, each.c[name], *sums(each)).group_by(*groups)
            for name, date, groups in (
                ("tier", each.c.date, (each.c.date, each.c.tier)),
                ("model", no_date, (each.c.model,)),
                ("kind", no_date, (each.c.kind,)),
            )
        )
    )


USE_OF_EACH = _use_of_each()


def _price(window: Window) -> ColumnElement[int]:
    """What the terms of a row cost a month."""
    return func.coalesce(OWN_PRICE, case(window.prices, value=terms.c.tier, else_=literal(0, BigInteger)))


def _held_on(day: str) -> ColumnElement[bool]:
    return terms.c.number.in_(NEWEST_TERMS.where(terms.c.from_ms < next_day_ms(day)))


_MOST = bindparam("most", type_=Integer, literal_execute=True)


def _within(table: Table, window: Window) -> ColumnElement[bool]:
    # Written out, as the page's size is: PostgreSQL plans a prepared statement for any days, and joined 300,000 rows
    # of a month as if they were few; after ten calls a page took over 10 s.
    first, last = (literal(day, Text, literal_execute=True) for day in (window.first, window.last))
    return table.c.day.between(first, last)


def _closed(window: Window) -> ColumnElement[bool]:
    # A day that is being closed has some revenue already, and counts as open until it has all.
    if not window.open_days:
        return _within(revenue, window)
    first, end = (literal(day, Text, literal_execute=True) for day in (window.first, window.open_days[0]))
    return and_(revenue.c.day >= first, revenue.c.day < end)


def _sum(amount: ColumnElement[int]) -> ColumnElement[int]:
    return cast(func.sum(amount), BigInteger)


def dearest_and_losing(window: Window) -> Select[Any]:
    """Those who cost most, dearest first, and those who cost most beyond what they brought in.

    Everybody's days are read once, and of them what ranks; all else is summed up of those who are shown.
    """
    each = select(days.c.user_id, _sum(days.c.cost_nano_usd).label("cost"))
    cost = each.where(_within(days, window)).group_by(days.c.user_id).subquery()
    paid = select(revenue.c.user_id, _sum(revenue.c.revenue_nano_usd).label("revenue"))
    brought = [paid.where(_closed(window)).group_by(revenue.c.user_id).subquery()]
    brought += [
        select(terms.c.user_id, day_revenue(_price(window), day).label("revenue")).where(_held_on(day)).subquery()
        for day in window.open_days
    ]
    joined: FromClause = cost
    for part in brought:
        joined = joined.outerjoin(part, part.c.user_id == cost.c.user_id)
    total = functools.reduce(operator.add, (func.coalesce(part.c.revenue, 0) for part in brought))
    by_user = select(cost, total.label("revenue")).select_from(joined).cte("by_user")
    rankings = (("dearest", by_user.c.cost), ("losing", by_user.c.cost - by_user.c.revenue))
    pages = [
        select(literal_column(f"'{name}'", Text).label("list"), by_user.c.user_id, amount.label("amount"),
               by_user.c.revenue)
        .where(amount > 0).order_by(amount.desc(), by_user.c.user_id).limit(_MOST).subquery()
        for name, amount in rankings
    ]  # fmt: skip
    page = union_all(*map(select, pages)).cte("page")
    shown = days.c.user_id.in_(select(page.c.user_id))
    use = select(days.c.user_id, *sums(days)).where(shown, _within(days, window)).group_by(days.c.user_id).subquery()
    return (
        select(page.c.list, page.c.user_id, func.coalesce(users.c.tier, ""), page.c.revenue,
               *(use.c[name] for name in SUMS))
        # Who is on a list cost something, so there is use.
        .join_from(page, use, use.c.user_id == page.c.user_id)
        .join(users, users.c.user_id == page.c.user_id, isouter=True)
        .order_by(page.c.amount.desc(), page.c.user_id)
    )  # fmt: skip


def users_in_order(window: Window) -> Select[Any]:
    """A page of the users who used or brought in anything, by id."""
    parts: list[tuple[Column[Any], ColumnElement[bool]]] = [
        (days.c.user_id, _within(days, window)), (revenue.c.user_id, _closed(window)),
        # Who pays nothing leaves no row on a day that is closed either.
        *((terms.c.user_id, and_(_held_on(held), _price(window) > 0)) for held in window.open_days),
    ]  # fmt: skip
    pages = [
        # A page of each, for the indexes begin with the user: none of them is read to its end.
        select(user_id).distinct().where(user_id > bindparam("after"), within)
        .order_by(user_id).limit(_MOST).subquery()
        for user_id, within in parts
    ]  # fmt: skip
    page = union(*(select(page.c.user_id) for page in pages)).order_by("user_id").limit(_MOST).cte("page")
    by_user = _margins_of(window, page)
    return (
        select(by_user.c.user_id, func.coalesce(users.c.tier, ""), by_user.c.revenue, *(by_user.c[n] for n in SUMS))
        .join_from(by_user, users, users.c.user_id == by_user.c.user_id, isouter=True)
        .order_by(by_user.c.user_id)
    )


def _margins_of(window: Window, page: CTE) -> Subquery:
    """Use and revenue of the users of `page`.

    Named by a query, not by a list: a list of 1,000 in a prepared statement was looked through for every row, 10 s.
    """
    ids = select(page.c.user_id)
    none = [literal(0, BigInteger).label(name) for name in SUMS]
    parts = [
        select(days.c.user_id, *(days.c[name] for name in SUMS), literal(0, BigInteger).label("revenue"))
        .where(days.c.user_id.in_(ids), _within(days, window)),
        select(revenue.c.user_id, *none, revenue.c.revenue_nano_usd)
        .where(revenue.c.user_id.in_(ids), _closed(window)),
        *(
            select(terms.c.user_id, *none, day_revenue(_price(window), day))
            .where(terms.c.user_id.in_(ids), _held_on(day))
            for day in window.open_days
        ),
    ]  # fmt: skip
    each = union_all(*parts).subquery()
    totals = [*sums(each), _sum(each.c.revenue).label("revenue")]
    return select(each.c.user_id, *totals).group_by(each.c.user_id).subquery()
