"""Closes days that are over: what each user brought in by the terms they held at the day's end."""

from __future__ import annotations

import logging
from collections import Counter

from services.clock import Clock, next_day_ms, utc_day
from services.quota.ledger import Ledger
from services.quota.model import Revenue, Terms, TierDay
from services.quota.plans import Plans
from services.quota.ports import Store, Transaction
from services.quota.revenue import agreed_price, day_before, day_revenue, days_between, month_prices

INTERVAL_MS = 60_000
CLOSE_AFTER_MS = 60_000
"""After midnight: a change of terms that was under way then is committed, for no transaction takes 10 s."""
BATCH = 1_000
log = logging.getLogger(__name__)


class Closing:
    """Closes one day after the other, however many were missed.

    Replicas may do it at the same time: terms of a day that is over stay as they are, a row that is there is kept,
    and the sums are made of the rows.
    """

    def __init__(self, store: Store, plans: Plans, clock: Clock, ledger: Ledger) -> None:
        self._store = store
        self._ledger = ledger
        self._prices = month_prices(plans)
        self._clock = clock

    async def run(self) -> None:
        """Closes until cancelled."""
        while True:
            try:
                await self.close_all()
            except Exception:
                # The next round starts from the same rows, so nothing is lost by going on.
                log.exception("closing of days failed")
            await self._clock.sleep(INTERVAL_MS)

    async def close_all(self) -> None:
        """Closes every day that is over and not closed yet, oldest first; before that, sums up what is old."""
        await self._ledger.sum_old()
        last = day_before(utc_day(self._clock.now_ms() - CLOSE_AFTER_MS))
        first = await self._store.read(_first_open_day)
        if not first or first > last:
            return
        end_ms = next_day_ms(last)
        await self._store.write(lambda tx: tx.mend_terms(end_ms - 1))
        for day in days_between(first, last):
            await self._close(day)
            log.info("closed %s", day)

    async def _close(self, day: str) -> None:
        after: str | None = ""
        while after is not None:
            after = await self._record(day, after)
        await self._store.write(lambda tx: tx.insert_tier_days(self._tier_days(tx, day)))

    async def _record(self, day: str, after: str) -> str | None:
        """Keeps the revenue of the next users behind `after`; the last of them, None at the end."""

        def run(tx: Transaction) -> str | None:
            held = tx.list_held(next_day_ms(day), after, BATCH)
            tx.insert_revenue([row for terms in held if (row := self._revenue(day, terms)).revenue_nano_usd])
            return held[-1].user_id if len(held) == BATCH else None

        return await self._store.write(run)

    def _revenue(self, day: str, terms: Terms) -> Revenue:
        price = agreed_price(self._prices, terms.tier, terms.own_price_nano_usd_per_month)
        return Revenue(day, terms.user_id, terms.tier, day_revenue(price, day))

    def _tier_days(self, tx: Transaction, day: str) -> list[TierDay]:
        users: Counter[str] = Counter()
        for group in tx.sum_held(next_day_ms(day)):
            users[group.tier] += group.users
        revenue = tx.sum_revenue(day)
        names = set(self._prices) | set(users) | set(revenue)
        return [TierDay(day, name, users[name], revenue.get(name, 0)) for name in sorted(names)]


def _first_open_day(tx: Transaction) -> str:
    """The first day that is not closed; nothing where nobody has terms yet."""
    closed = tx.last_closed_day()
    if closed:
        return utc_day(next_day_ms(closed))
    first_ms = tx.first_terms_ms()
    return "" if first_ms is None else utc_day(first_ms)
