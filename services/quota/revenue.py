"""What a price a month brings in each day: arithmetic without any I/O."""

from __future__ import annotations

import calendar
from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from typing import TYPE_CHECKING, TypeVar

from services.quota.plans import Plans

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement

Amount = TypeVar("Amount", int, "ColumnElement[int]")


def day_revenue(price: Amount, day: str) -> Amount:
    """Whole nano-dollars for one day at `price` a month; all days of a month add up to the price.

    Written once for numbers and for columns of a query, which then ranks by the very figure that is kept.
    """
    when = date.fromisoformat(day)
    days = calendar.monthrange(when.year, when.month)[1]
    return _until(price, when.day, days) - _until(price, when.day - 1, days)


def _until(price: Amount, day: int, days: int) -> Amount:
    # floor(price * day / days), and no product is beyond the price: a database's 64 bits must hold it.
    return price // days * day + price % days * day // days


def month_prices(plans: Plans) -> dict[str, int]:
    """What each tier costs a month; 0 where the price is agreed on with each user."""
    return {tier.name: tier.price_nano_usd_per_month or 0 for tier in plans.tiers}


def agreed_price(prices: Mapping[str, int], tier: str, own_price_nano_usd: int | None) -> int:
    """A user's price a month: their own, else their tier's."""
    return prices.get(tier, 0) if own_price_nano_usd is None else own_price_nano_usd


def days_between(first: str, last: str) -> Iterator[str]:
    """Every day from `first` to `last`."""
    day = date.fromisoformat(first)
    while day.isoformat() <= last:
        yield day.isoformat()
        day += timedelta(days=1)


def day_before(day: str, days: int = 1) -> str:
    """The day that lies `days` before `day`."""
    return (date.fromisoformat(day) - timedelta(days=days)).isoformat()


def month_bounds(month: str) -> tuple[str, str]:
    """First and last day of a month (YYYY-MM). ValueError if there is no such month."""
    first = date.fromisoformat(month + "-01")
    return first.isoformat(), first.replace(day=calendar.monthrange(first.year, first.month)[1]).isoformat()
