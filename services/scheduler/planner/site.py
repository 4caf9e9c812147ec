"""What config/ says of a site: its tiers, the provider plans, what tokens cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from services.config import Entry, read_file, read_list, read_text, read_whole
from services.pricing import PriceList, read_prices
from services.scheduler.planner.drive import Plan
from services.scheduler.providers import LIMITS, read_provider

SLOTS = 10_000
"""Attempts at once: generators are added as they are needed, so only the provider holds up."""


class SiteError(Exception):
    """What is asked for is not in config/; the text says what is."""


@dataclass(frozen=True)
class Tier:
    """What a tier's users may do and pay."""

    name: str
    share: int
    outstanding: int
    requests_per_day: int
    price_nano_usd_per_month: int | None
    """None: agreed on with each user."""


@dataclass(frozen=True)
class Site:
    """A site that serves one model."""

    tiers: Mapping[str, Tier]
    prices: PriceList
    model: str
    pool: str
    plans: Mapping[str, Mapping[str, int]]
    """The provider plans to compare: their limits by name in the scripts."""

    def plan(self, name: str, max_wait_ms: int) -> Plan:
        """What a drive is given under that provider plan."""
        tiers = self.tiers.values()
        return Plan(
            self.plans[name], {t.name: t.share for t in tiers}, SLOTS, {t.name: t.outstanding for t in tiers},
            {t.name: t.requests_per_day for t in tiers}, max_wait_ms,
        )  # fmt: skip


def read_site(config: Path, plans: Sequence[str], model: str | None) -> Site:
    """Reads what is needed for those provider plans. `SiteError`, or the errors of the files' own readers."""
    prices = read_prices(config / "prices.yaml")
    model = model or str(yaml.safe_load((config / "prices.yaml").read_text())["default_model"])
    limits: dict[str, dict[str, int]] = {}
    pool = None
    for name in plans:
        provider = read_provider(config / "providers.yaml", name)
        pool = provider.pool_of(model)
        if pool is None or model not in prices.models:
            raise SiteError(f"the model '{model}' has no pool or no price in config/")
        if name == "auto":
            raise SiteError("plan 'auto' stands for limits that the provider's answers name: name your account's plan")
        found = {limit: provider.limits[pool].of(limit) for limit in LIMITS}
        limits[name] = {limit: value for limit, value in found.items() if value is not None}
        if not limits[name]:
            raise SiteError(f"plan '{name}' names no limit of pool '{pool}'")
    return Site(_tiers(config / "plans.yaml"), prices, model, str(pool), limits)


def _tiers(path: Path) -> dict[str, Tier]:
    nodes = read_file(path.read_text(), path.name).take("tiers", read_list)
    tiers = [_tier(Entry(node, path.name, ", tier")) for node in nodes]
    return {tier.name: tier for tier in tiers}


def _tier(entry: Entry) -> Tier:
    """Only what is needed here: quota, whose file it is, refuses what does not belong there."""
    return Tier(
        entry.take("name", read_text),
        entry.take("share", read_whole(1, 2**31 - 1)),
        entry.take("outstanding", read_whole(1, 2**31 - 1)),
        entry.take("requests_per_day", read_whole(1, 2**63 - 1)),
        entry.take("price_nano_usd_per_month", read_whole(0, 2**63 - 1), None),
    )
