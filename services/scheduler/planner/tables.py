"""Figures for people in a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rich.table import Table

from services.money import to_the_cent
from services.scheduler.planner.figures import Figures, TierFigures, Use, smallest

LIMITS = {
    "requests": "requests a minute", "tokens": "tokens a minute", "input_tokens": "input tokens a minute",
    "output_tokens": "output tokens a minute", "requests_day": "requests a day", "concurrency": "at once",
}  # fmt: skip


def tables(found: Sequence[Figures], keep_wait: str | None) -> Iterator[Table | str]:
    """All there is to say, the comparison last: that is what stays in sight."""
    for one in found:
        yield _hours(one)
    for one in found:
        yield _tiers(one)
    yield _comparison(found)
    if keep_wait:
        best = smallest(found)
        yield (
            f"Smallest of these plans that keeps {keep_wait}: {best.plan}."
            if best
            else f"None of these plans keeps {keep_wait}."
        )


def _comparison(found: Sequence[Figures]) -> Table:
    table = Table("", *(one.plan for one in found), title="Plans side by side; money for 30 such days")
    for name, cell in _LINES:
        table.add_row(name, *(cell(one) for one in found))
    for limit, words in LIMITS.items():
        if any(limit in one.use for one in found):
            table.add_row(f"used of {words}: mean, peak", *(_use(one.use.get(limit)) for one in found))
    return table


_LINES: Sequence[tuple[str, Callable[[Figures], str]]] = (
    ("requests sent", lambda one: f"{one.sent:,}"),
    ("served", lambda one: f"{one.served:,}"),
    ("refused: over the user's daily limit", lambda one: _total(one, lambda tier: tier.over_daily_limit)),
    ("refused: too many outstanding", lambda one: _total(one, lambda tier: tier.over_outstanding)),
    ("expired in line", lambda one: _total(one, lambda tier: tier.expired)),
    ("wait of all tiers' worst: median", lambda one: seconds(max(t.waits.median_ms for t in one.tiers.values()))),
    ("90th percentile", lambda one: seconds(max(t.waits.p90_ms for t in one.tiers.values()))),
    ("served in the busiest hour, a minute", lambda one: f"{max(one.served_an_hour) / 60:,.1f}"),
    ("room for requests like these, a minute", lambda one: f"{one.capacity_a_minute:,.1f}"),
    ("cost of 30 such days", lambda one: to_the_cent(one.cost_month_nano_usd)),
    ("revenue of 30 such days", lambda one: to_the_cent(one.revenue_month_nano_usd)),
    ("margin of 30 such days", lambda one: to_the_cent(one.margin_month_nano_usd)),
)


def _tiers(one: Figures) -> Table:
    heads = ("tier", "users", "sent", "over daily limit", "too many outstanding", "expired", "wait, median", "90th p.",
             "longest", "cost", "revenue", "margin")  # fmt: skip
    table = Table(*heads, title=f"{one.plan}: tiers; money for 30 such days")
    for name, tier in one.tiers.items():
        counts = (tier.users, tier.sent, tier.over_daily_limit, tier.over_outstanding, tier.expired)
        waits = (tier.waits.median_ms, tier.waits.p90_ms, tier.waits.longest_ms)
        table.add_row(name, *(f"{count:,}" for count in counts), *map(seconds, waits), *_money(tier))
    return table


def _money(tier: TierFigures) -> tuple[str, str, str]:
    cost, revenue = tier.cost_month_nano_usd, tier.revenue_month_nano_usd
    if revenue is None:
        return to_the_cent(cost), "agreed", "-"
    return to_the_cent(cost), to_the_cent(revenue), to_the_cent(revenue - cost)


def _hours(one: Figures) -> Table:
    table = Table(
        "hour, UTC", *one.hours, "served", title=f"{one.plan}: wait by hour of arrival, median / 90th percentile"
    )
    for hour in range(24):
        cells = [one.hours[tier].get(hour) for tier in one.hours]
        if any(cells) or one.served_an_hour[hour]:
            waits = (f"{seconds(cell.median_ms)} / {seconds(cell.p90_ms)}" if cell else "" for cell in cells)
            table.add_row(f"{hour:02d}", *waits, f"{one.served_an_hour[hour]:,.0f}")
    return table


def _use(use: Use | None) -> str:
    return f"{use.mean:.0%}, {use.peak:.0%} of {use.limit:,}" if use else "-"


def _total(one: Figures, count: Callable[[TierFigures], int]) -> str:
    return f"{sum(map(count, one.tiers.values())):,}"


def seconds(wait_ms: int) -> str:
    """A wait as people say it."""
    if wait_ms < 60_000:
        return f"{wait_ms / 1000:.1f} s"
    return f"{wait_ms / 60_000:.1f} min" if wait_ms < 3_600_000 else f"{wait_ms / 3_600_000:.1f} h"
