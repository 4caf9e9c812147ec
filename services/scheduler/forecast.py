"""When a limit will be reached, and what to do about one that nearly is. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from services.clock import DAY_MS
from services.scheduler.providers import Plan
from services.scheduler.use import RAISED_FROM

DAYS = 14
LEAST_DAYS = 3
"""Of a growth: two points are always on a line."""
HORIZON_DAYS = 3_650
WORDS = {
    "requests": "requests a minute",
    "tokens": "tokens a minute",
    "input_tokens": "input tokens a minute",
    "output_tokens": "output tokens a minute",
    "requests_day": "requests a day",
    "concurrency": "requests at once",
}
NO_INTERFACE = "The provider has no interface to ask for more"


@dataclass(frozen=True)
class Use:
    """One limit and its use."""

    dimension: str
    limit: int
    """0: there is none."""
    source: str
    used: int
    """In the window that ends now."""
    peak: int
    """The most of the last day."""
    refusals: int = 0
    exhausted_ms: int | None = None

    @property
    def most(self) -> int:
        """What the limit must hold."""
        return max(self.used, self.peak)

    @property
    def share(self) -> float:
        """Of the limit."""
        return self.most / self.limit if self.limit else 0.0


def exhausted_ms(peaks: Iterable[tuple[int, int]], limit: int, now_ms: int) -> int | None:
    """When use reaches the limit if the daily peaks, each (day since 1970, peak), grow on as they did: the line of
    least squares. None if they do not grow, too little is known, or it is more than ten years off."""
    today = now_ms // DAY_MS
    known = [(day, peak) for day, peak in peaks if today - DAYS <= day < today]
    if len(known) < LEAST_DAYS:
        return None
    mean_day = sum(day for day, _ in known) / len(known)
    mean_peak = sum(peak for _, peak in known) / len(known)
    spread = sum((day - mean_day) ** 2 for day, _ in known)
    growth = sum((day - mean_day) * (peak - mean_peak) for day, peak in known) / spread
    if growth <= 0:
        return None
    day = mean_day + (limit - mean_peak) / growth
    if day > today + HORIZON_DAYS:
        return None
    return max(now_ms, math.floor(day * DAY_MS))


def advice(pool: str, uses: Sequence[Use], above: Iterable[Plan], about: str = "") -> str:
    """What to do about the limit that is used most, or that of the name `about`; empty below 80%. `above`: the plans to
    go to, the nearest first."""
    fullest = max((use for use in uses if about in ("", use.dimension)), key=lambda use: use.share, default=None)
    if fullest is None or fullest.share < RAISED_FROM:
        return ""
    what = WORDS[fullest.dimension]
    said = f"Pool {pool} uses {fullest.share:.0%} of its {what} ({fullest.most:,} of {fullest.limit:,})."
    if fullest.source == "override":
        return f"{said} This limit was set by hand here: raise it, or take it back, with PUT /api/admin/provider-plan."
    fits = next((plan for plan in above if _holds(plan, pool, uses)), None)
    if fits is None:
        return f"{said} No plan of config/providers.yaml is large enough. {NO_INTERFACE}: write to its sales team."
    costs = f" ({fits.costs})" if fits.costs else ""
    would = _would(fits, pool, fullest)
    change = f"change it in the provider's console, then run: headgate capacity use {fits.name}"
    return f"{said} Plan {fits.name}{costs} would do: {would}. {NO_INTERFACE}: {change}"


def _holds(plan: Plan, pool: str, uses: Sequence[Use]) -> bool:
    needs: Mapping[str, int] = {use.dimension: use.most for use in uses}
    limits = plan.limits[pool]
    return all(most < RAISED_FROM * (limits.of(name) or math.inf) for name, most in needs.items())


def _would(plan: Plan, pool: str, use: Use) -> str:
    limit = plan.limits[pool].of(use.dimension)
    return f"the same use is {use.most / limit:.0%} of it" if limit else "it has no such limit"
