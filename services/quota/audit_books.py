"""The audit's reading: every statement of it, on one snapshot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, func, literal_column, or_, select, union_all

from services.clock import utc_day
from services.quota.audit import OF_LEDGER, Difference, differing
from services.quota.ledger import HOUR_MS
from services.quota.model import Charge, Hour, Use
from services.quota.tables import SUMS, charges, days, hours, reservations, revenue, tier_days

ROWS_AT_ONCE = 5_000
"""Rows in memory."""


def _unequal(keys: Sequence[str], amounts: Sequence[str], right: Select[Any], kept: Select[Any]) -> Select[Any]:
    """Where the sums of `right` are not those of `kept`, each by key; each gives the keys and then the amounts."""
    of_right, of_kept = right.subquery(), kept.subquery()
    none: ColumnElement[int] = literal_column("0")
    sides = union_all(
        select(*(of_right.c[key] for key in keys), *(of_right.c[a].label(f"right_{a}") for a in amounts),
               *(none.label(f"kept_{a}") for a in amounts)),
        select(*(of_kept.c[key] for key in keys), *(none for _ in amounts), *(of_kept.c[a] for a in amounts)),
    ).subquery()  # fmt: skip
    sums = {name: func.sum(sides.c[name]) for name in map(str, sides.c.keys()) if name not in keys}
    by = [sides.c[key] for key in keys]
    differs = or_(*(sums[f"right_{a}"] != sums[f"kept_{a}"] for a in amounts))
    return select(*by, *(total.label(name) for name, total in sums.items())).group_by(*by).having(differs).order_by(*by)


_cache_writes = charges.c.cache_write_5m_input_tokens + charges.c.cache_write_1h_input_tokens
WRONG_PLACES = _unequal(
    ("day", "user_id"),
    ("used",),
    select(reservations.c.day, reservations.c.user_id, literal_column("1").label("used")).where(
        reservations.c.state.in_(("pending", "counted"))
    ),
    select(days.c.day, days.c.user_id, days.c.used),
)
WRONG_DAYS = _unequal(
    ("day", "user_id"),
    OF_LEDGER,
    select(
        charges.c.day,
        charges.c.user_id,
        *(_cache_writes.label(name) if name not in charges.c else charges.c[name] for name in OF_LEDGER),
    ).where(charges.c.summed),
    select(days.c.day, days.c.user_id, *(days.c[name] for name in OF_LEDGER)),
)
WRONG_TIER_DAYS = _unequal(
    ("day", "tier"),
    ("revenue_nano_usd",),
    select(revenue.c.day, revenue.c.tier, revenue.c.revenue_nano_usd),
    select(tier_days.c.day, tier_days.c.tier, tier_days.c.revenue_nano_usd),
)


_CHARGE = [charges.c[field.name] for field in fields(Charge)]


class SqlBooks:
    """Implements `Books` on a connection that reads one snapshot."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def days(self) -> list[str]:
        found = {day for table in (charges, days) for (day,) in self._rows(select(table.c.day).distinct())}
        found |= {utc_day(hour * HOUR_MS) for (hour,) in self._rows(select(hours.c.hour).distinct())}
        return sorted(found)

    def charges(self, day: str) -> Iterator[Charge]:
        return (Charge(*row) for row in self._rows(select(*_CHARGE).where(charges.c.day == day)))

    def hours(self, hours_of_day: range) -> dict[Hour, Use]:
        query = select(hours).where(hours.c.hour >= hours_of_day.start, hours.c.hour < hours_of_day.stop)
        return {(r.hour, r.tier, r.model, r.kind): Use(*(getattr(r, n) for n in SUMS)) for r in self._rows(query)}

    def use(self, day: str) -> Use:
        sums = (func.coalesce(func.sum(days.c[name]), 0) for name in SUMS)
        return Use(*map(int, self._connection.execute(select(*sums).where(days.c.day == day)).one()))

    def wrong_places(self) -> Iterator[Difference]:
        return self._differences("quota_days", WRONG_PLACES, ("used",))

    def wrong_days(self) -> Iterator[Difference]:
        return self._differences("quota_days", WRONG_DAYS, OF_LEDGER)

    def wrong_tier_days(self) -> Iterator[Difference]:
        return self._differences("quota_tier_days", WRONG_TIER_DAYS, ("revenue_nano_usd",))

    def _differences(self, table: str, query: Select[Any], amounts: tuple[str, ...]) -> Iterator[Difference]:
        for day, whose, *values in self._rows(query):
            right, kept = (dict(zip(amounts, half, strict=True)) for half in _halves(values))
            yield from differing(table, f"{whose}, {day}", kept, right, amounts)

    def _rows(self, query: Select[Any]) -> Iterator[Any]:
        return iter(self._connection.execute(query, execution_options={"yield_per": ROWS_AT_ONCE}))


def _halves(values: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
    return values[: len(values) // 2], values[len(values) // 2 :]
