"""What came in and what went out, from sums and closed days alone."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from services.clock import Clock, next_day_ms, utc_day
from services.quota.model import DayTier, HeldTerms, Invalid, Margin, Use, UserMargin, UseSums, Window
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

        window = await self._window(first, today)

        def read_sums(tx: Transaction) -> tuple[list[DayMargin], UseSums, Counter[str]]:
            use = tx.sum_use(window)
            held = _held(tx, {*window.open_days, today})
            holders = Counter[str]()
            for group in held[today]:
                holders[group.tier] += group.users
            return self._days(tx, window, use.days, held), use, holders

        # Side by side, for each takes a while.
        (by_day, use, holders), (dearest, losing) = await asyncio.gather(
            self._store.read(read_sums),
            self._store.read(lambda tx: tx.list_dearest_and_losing(window, top)),
        )
        names = sorted({*self._ranks, *holders, *(row.tier for row in by_day)}, key=self._rank)
        return Report(
            first,
            today,
            total=_total(by_day),
            tiers=[TierMargin(n, _total(row for row in by_day if row.tier == n), holders[n]) for n in names],
            days=by_day,
            models=_dearest_first(use.models),
            kinds=_dearest_first(use.kinds),
            top_users=dearest,
            unprofitable_users=losing,
        )

    async def statement(self, month: str, size: int, after: str) -> Statement:
        """One month with the next `size` users behind `after`. Raises `Invalid`."""
        today = utc_day(self._clock.now_ms())
        first, last = month_bounds(month)
        if first > today:
            raise Invalid("month", "has not begun yet")

        window = await self._window(first, min(last, today))

        def read_days(tx: Transaction) -> tuple[list[DayMargin], bool]:
            closed = last < today and not window.open_days and not tx.has_pending(first, last)
            use, held = tx.sum_use_by_day_and_tier(window), _held(tx, window.open_days)
            return self._days(tx, window, use, held), closed

        (by_day, closed), users = await asyncio.gather(
            self._store.read(read_days),
            self._store.read(lambda tx: tx.list_users_in_order(window, after, size + 1)),
        )
        next_after = users[size - 1].user_id if len(users) > size else ""
        return Statement(month, closed, _total(by_day), by_day, users[:size], next_after)

    async def _window(self, first: str, last: str) -> Window:
        closed = await self._store.read(lambda tx: tx.last_closed_day())
        newest = days_between(max(first, day_before(last, MAX_OPEN_DAYS - 1)), last)
        return Window(first, last, [day for day in newest if day > closed], self._prices)

    def _days(
        self, tx: Transaction, window: Window, use: Mapping[DayTier, Use], held: Mapping[str, Sequence[HeldTerms]]
    ) -> list[DayMargin]:
        """By day and tier; what had neither use nor revenue is left out."""
        # A day may have been closed since the window was read, and counts once.
        closed = [row for row in tx.list_tier_days(window) if row.day not in window.open_days]
        revenue = Counter({(row.day, row.tier): row.revenue_nano_usd for row in closed})
        for day in window.open_days:
            for group in held[day]:
                price = agreed_price(self._prices, group.tier, group.own_price_nano_usd_per_month)
                revenue[day, group.tier] += group.users * day_revenue(price, day)
        keys = sorted({*use, *revenue}, key=lambda key: (key[0], self._rank(key[1])))
        margins = [DayMargin(*key, Margin(revenue[key], use.get(key, Use()))) for key in keys]
        return [row for row in margins if row.margin != Margin()]

    def _rank(self, tier: str) -> tuple[int, str]:
        # Tiers that are no more come behind those there are.
        return self._ranks.get(tier, len(self._ranks)), tier


def _held(tx: Transaction, days: Iterable[str]) -> dict[str, Sequence[HeldTerms]]:
    return {day: tx.sum_held(next_day_ms(day)) for day in days}


def _total(rows: Iterable[DayMargin]) -> Margin:
    total = Margin()
    for row in rows:
        total += row.margin
    return total


def _dearest_first(groups: Mapping[str, Use]) -> list[tuple[str, Use]]:
    return sorted(groups.items(), key=lambda group: (-group[1].cost_nano_usd, group[0]))
