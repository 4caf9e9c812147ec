"""Provider plans and pools, from config/providers.yaml. Pure but for reading the file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from services.config import Entry, read_day, read_file, read_list, read_text, read_whole

DIMENSIONS = {
    "requests_per_minute": "requests",
    "tokens_per_minute": "tokens",
    "input_tokens_per_minute": "input_tokens",
    "output_tokens_per_minute": "output_tokens",
}
"""Names in the file to names in the scripts."""
OTHER_LIMITS = {"requests_per_day": "requests_day", "concurrency": "concurrency"}
LIMITS = (*DIMENSIONS.values(), *OTHER_LIMITS.values())
"""Every limit there is, by its name in the scripts."""
MOST = {"concurrency": 100_000, "requests": 10_000_000}
"""The largest limit that is believed, by its name in the scripts; a larger one is a slip of the hand."""
MOST_OF_OTHERS = 10_000_000_000
NAME_CHARACTERS = 64
"""Of a plan's name: what its column holds."""


class PlanError(Exception):
    """A name from the provider file is unknown; the text says which there are."""


@dataclass(frozen=True)
class Limits:
    """What one pool may use."""

    per_minute: Mapping[str, int]
    """By dimension of the scripts."""
    others: Mapping[str, int] = field(default_factory=dict)
    """Requests a day and concurrency, by their names in the scripts."""

    def of(self, name: str) -> int | None:
        """One limit by its name in the scripts."""
        return self.per_minute.get(name, self.others.get(name))


@dataclass(frozen=True)
class Plan:
    """One provider plan."""

    name: str
    limits: Mapping[str, Limits]
    """By pool."""
    costs: str = ""
    """For people."""
    next: str = ""
    """The plan to go to when this one is full; empty if there is none."""


@dataclass(frozen=True)
class Provider:
    """Which model belongs to which pool, the plans there are, and the one to begin with."""

    plan: str
    pools: Mapping[str, tuple[str, ...]]
    plans: Mapping[str, Plan]
    """By name, from the smallest to the largest of their kind."""

    @property
    def limits(self) -> Mapping[str, Limits]:
        """Those of the plan to begin with, by pool."""
        return self.plans[self.plan].limits

    def pool_of(self, model: str) -> str | None:
        """The pool a model draws from; None for a model that is not configured."""
        return next((pool for pool, models in self.pools.items() if model in models), None)

    def above(self, name: str) -> Iterator[Plan]:
        """The plans to go to from one, the nearest first."""
        while name := self.plans[name].next:
            yield self.plans[name]


def read_provider(path: Path, plan: str) -> Provider:
    """Reads config/providers.yaml. ConfigError with the line if it is wrong, PlanError if there is no such plan."""
    top = read_file(path.read_text(), path.name)
    top.take("read_on", read_day)
    pools = _pools(top)
    listed = top.within("plans", "")
    plans = {}
    for number, name in enumerate(listed.names, 1):
        if len(name) > NAME_CHARACTERS:
            raise listed.error(name, f"has more than {NAME_CHARACTERS} characters")
        plans[name] = _plan(listed.within(name, f", plan {name}"), name, pools, listed.names[number:])
    top.finish()
    if plan not in plans:
        raise PlanError(f"provider plan '{plan}' is not one of {', '.join(plans)}")
    return Provider(plan, pools, plans)


def _pools(top: Entry) -> dict[str, tuple[str, ...]]:
    entry = top.within("pools", ", pools")
    pools: dict[str, tuple[str, ...]] = {}
    for pool in entry.names:
        models = entry.take(pool, _models)
        taken = {model for others in pools.values() for model in others}
        if twice := taken.intersection(models):
            raise entry.error(pool, f"has {min(twice)}, which is in another pool")
        pools[pool] = models
    if not pools:
        raise top.error("pools", "must name at least one pool")
    return pools


def _models(node: yaml.Node) -> tuple[str, ...]:
    return tuple(map(read_text, read_list(node)))


def _plan(entry: Entry, name: str, pools: Mapping[str, tuple[str, ...]], below: Sequence[str]) -> Plan:
    costs, following = entry.take("costs", read_text, ""), entry.take("next", read_text, "")
    if following and following not in below:
        # Only downward: so no way leads in a circle.
        raise entry.error("next", f"'{following}' is no plan further down")
    named = {key: _limits(entry.within(key, entry.place + f", {key}")) for key in ("all", *pools) if key in entry.names}
    entry.finish()
    limits = {pool: named.get(pool) or named.get("all") or Limits({}) for pool in pools}
    for pool, its in limits.items():
        # Without any the scheduler takes them for lost and sends nothing.
        if not its.per_minute:
            raise entry.error("all", f"gives the pool {pool} no limit a minute")
    return Plan(name, limits, costs, following)


def _limits(entry: Entry) -> Limits:
    found = {
        limit: entry.take(name, read_whole(1, MOST.get(limit, MOST_OF_OTHERS)))
        for name, limit in {**DIMENSIONS, **OTHER_LIMITS}.items()
        if name in entry.names
    }
    entry.finish()
    per_minute = {name: found[name] for name in DIMENSIONS.values() if name in found}
    return Limits(per_minute, {name: found[name] for name in OTHER_LIMITS.values() if name in found})
