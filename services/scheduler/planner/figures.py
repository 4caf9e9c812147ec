"""What a run adds up to. Pure; money is whole nano-dollars, and a month has 30 days."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.clock import DAY_MS
from services.pricing import Tokens
from services.scheduler.planner.drive import DAY, OUTSTANDING, Journey
from services.scheduler.planner.site import Site, Tier
from services.scheduler.planner.traffic import Traffic

MONTH_DAYS = 30
HOUR_MS = DAY_MS // 24
UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000}


@dataclass(frozen=True)
class Waits:
    """Of some requests; one that expired waited until then."""

    requests: int
    median_ms: int
    p90_ms: int
    longest_ms: int


@dataclass(frozen=True)
class TierFigures:
    """One tier over the whole run."""

    users: int
    sent: int
    over_daily_limit: int
    over_outstanding: int
    expired: int
    waits: Waits
    cost_month_nano_usd: int
    revenue_month_nano_usd: int | None
    """None: its price is agreed on with each user."""


@dataclass(frozen=True)
class Use:
    """Of one limit; parts of it."""

    limit: int
    mean: float
    peak: float
    """In the busiest hour; of a day's requests, on the busiest day."""


@dataclass(frozen=True)
class Figures:
    """One provider plan."""

    plan: str
    sent: int
    served: int
    tiers: Mapping[str, TierFigures]
    hours: Mapping[str, Mapping[int, Waits]]
    """By tier and hour of arrival."""
    served_an_hour: Sequence[float]
    """By hour of the day."""
    use: Mapping[str, Use]
    use_by_hour: Mapping[str, Sequence[float]]
    cost_month_nano_usd: int
    revenue_month_nano_usd: int
    """Of tiers that have a price."""
    capacity_a_minute: float
    """How many requests like these it lets through."""
    keeps: bool | None
    """Whether it keeps the wait that was named; None if none was."""

    @property
    def margin_month_nano_usd(self) -> int:
        """What is left."""
        return self.revenue_month_nano_usd - self.cost_month_nano_usd


@dataclass(frozen=True)
class Promise:
    """A wait to keep: so much of each tier's requests, or of one's, wait no longer."""

    wait_ms: int
    part: float
    tier: str | None

    @classmethod
    def of(cls, text: str, tiers: Iterable[str]) -> Promise:
        """From 60s@p90 or 60s@p90:pro. ValueError if it is something else."""
        found = re.fullmatch(r"(\d{1,8})(ms|s|m|h)@p(\d{1,2})(?::(.+))?", text)
        if not found or int(found[3]) == 0 or (found[4] and found[4] not in tiers):
            raise ValueError(f"'{text}' is no wait to keep: write 60s@p90, or 60s@p90:TIER")
        return cls(int(found[1]) * UNITS_MS[found[2]], int(found[3]) / 100, found[4])

    def kept(self, waits: Mapping[str, Sequence[int]]) -> bool:
        """Whether these waits, sorted and by tier, are."""
        tiers = [self.tier] if self.tier else list(waits)
        return all(percentile(waits[tier], self.part) <= self.wait_ms for tier in tiers if waits.get(tier))


def percentile(ordered: Sequence[int], part: float) -> int:
    """The smallest that at least that part does not exceed."""
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)] if ordered else 0


def figures(
    site: Site, plan: str, traffic: Traffic, journeys: Sequence[Journey], refused: Mapping[tuple[str, str], int],
    promise: Promise | None,
) -> Figures:  # fmt: skip
    """All of it."""
    waits: dict[str, list[int]] = defaultdict(list)
    hours: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    costs: Counter[str] = Counter()
    served = [journey for journey in journeys if journey.begun_ms is not None]
    for journey in journeys:
        arrival = journey.arrival
        waited_ms = journey.waited_ms if journey.waited_ms is not None else (journey.ended_ms or 0) - arrival.at_ms
        waits[arrival.tier].append(waited_ms)
        hours[arrival.tier][_hour(arrival.at_ms)].append(waited_ms)
    for journey in served:
        tokens = Tokens(journey.arrival.input_tokens, journey.output_tokens)
        costs[journey.arrival.tier] += site.prices.cost_nano_usd(site.model, tokens)
    for line in waits.values():
        line.sort()
    expired = Counter(journey.arrival.tier for journey in journeys if journey.begun_ms is None)
    tiers = {
        name: _tier(traffic, tier, waits[name], refused, expired[name], costs[name])
        for name, tier in site.tiers.items()
        if name in waits or traffic.users.get(name)
    }
    use, by_hour = _use(site.plans[plan], served, traffic.days)
    return Figures(
        plan, sum(tier.sent for tier in tiers.values()), len(served), tiers,
        {name: {hour: _waits(sorted(some)) for hour, some in sorted(hours[name].items())} for name in tiers},
        _by_hour(served, traffic.days, lambda _: 1.0), use, by_hour,
        sum(costs.values()) * MONTH_DAYS // traffic.days,
        sum(tier.revenue_month_nano_usd or 0 for tier in tiers.values()),
        _capacity_a_minute(site, plan, traffic), promise.kept(waits) if promise else None,
    )  # fmt: skip


def _tier(
    traffic: Traffic, tier: Tier, waits: Sequence[int], refused: Mapping[tuple[str, str], int], expired: int, cost: int
) -> TierFigures:
    users, price = traffic.users.get(tier.name, 0), tier.price_nano_usd_per_month
    over_daily, over_outstanding = refused.get((tier.name, DAY), 0), refused.get((tier.name, OUTSTANDING), 0)
    return TierFigures(
        users, len(waits) + over_daily + over_outstanding, over_daily, over_outstanding, expired, _waits(waits),
        cost * MONTH_DAYS // traffic.days, None if price is None else price * users,
    )  # fmt: skip


def smallest(found: Sequence[Figures]) -> Figures | None:
    """Of the plans that keep the wait, the one that lets least through."""
    return min((one for one in found if one.keeps), key=lambda one: one.capacity_a_minute, default=None)


def _waits(ordered: Sequence[int]) -> Waits:
    return Waits(len(ordered), percentile(ordered, 0.5), percentile(ordered, 0.9), ordered[-1] if ordered else 0)


def _hour(at_ms: int) -> int:
    return at_ms % DAY_MS // HOUR_MS


_NEEDS: Mapping[str, Any] = {
    "requests": lambda _: 1.0,
    "tokens": lambda journey: float(journey.arrival.input_tokens + journey.output_tokens),
    "input_tokens": lambda journey: float(journey.arrival.input_tokens),
    "output_tokens": lambda journey: float(journey.output_tokens),
    "concurrency": lambda journey: journey.took_ms / 60_000,
}
"""What an attempt needs of a limit: of those a minute, and of concurrency in minutes."""


def _use(
    limits: Mapping[str, int], served: Sequence[Journey], days: int
) -> tuple[dict[str, Use], dict[str, list[float]]]:
    use, hourly = {}, {}
    for name, limit in limits.items():
        if name == "requests_day":
            by_day = Counter((journey.begun_ms or 0) // DAY_MS for journey in served)
            use[name] = Use(limit, len(served) / days / limit, max(by_day.values(), default=0) / limit)
            continue
        hourly[name] = [need / (60 * limit) for need in _by_hour(served, days, _NEEDS[name])]
        use[name] = Use(limit, sum(hourly[name]) / 24, max(hourly[name]))
    return use, hourly


def _by_hour(served: Sequence[Journey], days: int, need: Any) -> list[float]:
    """By hour of the day in which it began, mean over the days; what begins after them is left out."""
    hours = [0.0] * 24
    for journey in served:
        if (journey.begun_ms or 0) < days * DAY_MS:
            hours[_hour(journey.begun_ms or 0)] += need(journey) / days
    return hours


def _capacity_a_minute(site: Site, plan: str, traffic: Traffic) -> float:
    drive_plan = site.plan(plan, 0)
    answers = ((a.input_tokens, traffic.answer(a)) for a in traffic.arrivals)
    cost_s = sum(drive_plan.cost(i, answer.output_tokens, answer.took_ms) for i, answer in answers)
    return 60 * len(traffic.arrivals) / cost_s
