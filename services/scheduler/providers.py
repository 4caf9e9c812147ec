"""Provider plans and pools, from config/providers.yaml. Pure but for reading the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

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


class PlanError(Exception):
    """The provider file or a name from it is wrong; the text says which."""


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
class Provider:
    """One provider plan and which model belongs to which pool."""

    plan: str
    pools: Mapping[str, tuple[str, ...]]
    limits: Mapping[str, Limits]
    """By pool."""

    def pool_of(self, model: str) -> str | None:
        """The pool a model draws from; None for a model that is not configured."""
        return next((pool for pool, models in self.pools.items() if model in models), None)


def read_provider(path: Path, plan: str) -> Provider:
    """Reads one plan of config/providers.yaml. PlanError if it is wrong or unknown."""
    content = yaml.safe_load(path.read_text())
    pools, plans = (content.get(k) if isinstance(content, dict) else None for k in ("pools", "plans"))
    if not isinstance(pools, dict) or not isinstance(plans, dict):
        raise PlanError(f"{path.name}: 'pools' and 'plans' must be there")
    if plan not in plans:
        raise PlanError(f"provider plan '{plan}' is not one of {', '.join(sorted(map(str, plans)))}")
    named = {str(pool): tuple(str(model) for model in models) for pool, models in pools.items()}
    limits = {pool: _limits(path.name, plan, plans[plan].get(pool) or plans[plan].get("all") or {}) for pool in named}
    return Provider(plan, named, limits)


def _limits(file: str, plan: str, entry: Mapping[str, Any]) -> Limits:
    for name, value in entry.items():
        if name not in DIMENSIONS and name not in OTHER_LIMITS:
            raise PlanError(f"{file}: plan {plan}: '{name}' is not a limit")
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise PlanError(f"{file}: plan {plan}: '{name}' must be a whole number of at least 1, not {value!r}")
    per_minute = {dim: entry[name] for name, dim in DIMENSIONS.items() if name in entry}
    return Limits(per_minute, {limit: entry[name] for name, limit in OTHER_LIMITS.items() if name in entry})
