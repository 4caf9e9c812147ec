"""What came in and what went out, from sums and closed days alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from services.clock import Clock, next_day_ms, utc_day
from services.quota.model import Invalid, Margin, Use, UserMargin, Window
from services.quota.plans import Plans
from services.quota.ports import Store, Transaction
from services.quota.revenue import (
    agreed_price,
    day_before,
    day_revenue,
    days_between,
    month_bounds,
    month_prices,
)

MAX_OPEN_DAYS = 2
"""Today and, until it is closed a minute after midnight, yesterday. Days missed for longer count once they are closed,
which begins with the service and takes moments."""


@dataclass(frozen=True)
class DayMargin:
    """A day's margin in one tier."""

    day: str
    tier: str
    margin: Margin


@dataclass(frozen=True)
class TierMargin:
    """A tier's margin, and how many users have the tier now."""

    tier: str
    margin: Margin
    users: int


@dataclass(frozen=True)
class Report:
    """The economics of some days."""

    first: str
    last: str
    total: Margin
    tiers: Sequence[TierMargin]
    days: Sequence[DayMargin]
    models: Sequence[tuple[str, Use]]
    kinds: Sequence[tuple[str, Use]]
    top_users: Sequence[UserMargin]
    unprofitable_users: Sequence[UserMargin]


@dataclass(frozen=True)
class Statement:
    """One month, and a page of its users; `next_after` is empty on the last page."""

    month: str
    closed: bool
    total: Margin
    days: Sequence[DayMargin]
    users: Sequence[UserMargin]
    next_after: str


class Economics:
    """Answers for administrators."""

    def __init__(self, store: Store, plans: Plans, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._prices = month_prices(plans)
        self._ranks = {tier.name: rank for rank, tier in enumerate(plans.tiers)}

    async def report(self, days: int, top: int) -> Report:
        """The days that end with today, and the `top` users at both ends."""
        today = utc_day(self._clock.now_ms())
        first = day_before(today, days - 1)

        def read(tx: Transaction) -> Report:
            window = self._window(tx, first, today)
            by_day = self._days(tx, window)
            holders = Counter[str]()
            for group in tx.sum_held(next_day_ms(today)):
                holders[group.tier] += group.users
            names = sorted({*self._ranks, *holders, *(row.tier for row in by_day)}, key=self._rank)
            return Report(
                first,
                today,
                total=_total(by_day),
                tiers=[TierMargin(n, _total(row for row in by_day if row.tier == n), holders[n]) for n in names],
                days=by_day,
                models=tx.sum_use_by_model(window),
                kinds=tx.sum_use_by_kind(window),
                top_users=tx.list_top_users(window, top),
                unprofitable_users=tx.list_unprofitable_users(window, top),
            )

        return await self._store.read(read)

    async def statement(self, month: str, size: int, after: str) -> Statement:
        """One month with the next `size` users behind `after`. Raises `Invalid`."""
        today = utc_day(self._clock.now_ms())
        first, last = month_bounds(month)
        if first > today:
            raise Invalid("month", "has not begun yet")

        def read(tx: Transaction) -> Statement:
            window = self._window(tx, first, min(last, today))
            by_day = self._days(tx, window)
            users = tx.list_users_in_order(window, after, size + 1)
            closed = last < today and not window.open_days and not tx.has_pending(first, last)
            next_after = users[size - 1].user_id if len(users) > size else ""
            return Statement(month, closed, _total(by_day), by_day, users[:size], next_after)

        return await self._store.read(read)

    def _window(self, tx: Transaction, first: str, last: str) -> Window:
        closed = tx.last_closed_day()
        newest = days_between(max(first, day_before(last, MAX_OPEN_DAYS - 1)), last)
        return Window(first, last, [day for day in newest if day > closed], self._prices)

    def _days(self, tx: Transaction, window: Window) -> list[DayMargin]:
        """By day and tier; what had neither use nor revenue is left out."""
        revenue = Counter({(row.day, row.tier): row.revenue_nano_usd for row in tx.list_tier_days(window)})
        for day in window.open_days:
            for group in tx.sum_held(next_day_ms(day)):
                price = agreed_price(self._prices, group.tier, group.own_price_nano_usd_per_month)
                revenue[day, group.tier] += group.users * day_revenue(price, day)
        use = tx.sum_use_by_day_and_tier(window)
        keys = sorted({*use, *revenue}, key=lambda key: (key[0], self._rank(key[1])))
        margins = [DayMargin(*key, Margin(revenue[key], use.get(key, Use()))) for key in keys]
        return [row for row in margins if row.margin != Margin()]

    def _rank(self, tier: str) -> tuple[int, str]:
        # Tiers that are no more come behind those there are.
        return self._ranks.get(tier, len(self._ranks)), tier


def _total(rows: Iterable[DayMargin]) -> Margin:
    total = Margin()
    for row in rows:
        total += row.margin
    return total
