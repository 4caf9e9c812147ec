"""Places and waits: pure arithmetic over what view.lua says of a pool."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ROUNDED_MS = 100
"""Waits are told in whole tenths of a second: more would be false precision."""
MAX_WAIT_MS = 7 * 86_400_000
"""Estimates stay finite: beyond a week the figure says nothing."""
DEFAULT_MEAN_MS = 8_000.0
"""Length of an attempt before the first was seen."""


@dataclass(frozen=True)
class Place:
    """A request's place in line."""

    position: int
    """1 + how many would go first; 0 when not queued."""
    wait_ms: int
    paused: str = ""
    """Why the wait cannot be trusted; one of the contract's words."""
    paused_until_ms: int | None = None


@dataclass(frozen=True)
class TierView:
    """One tier of a pool."""

    virtual_time: float
    share: float
    queued: int
    queued_cost: float
    """Sum of the costs of what is queued, in provider-seconds."""

    @property
    def mean_cost(self) -> float:
        """Cost of one queued request."""
        return max(self.queued_cost / self.queued, 1e-9) if self.queued else 0.0


@dataclass(frozen=True)
class PoolView:
    """One pool at one moment."""

    now_ms: int
    tiers: Mapping[str, TierView]
    limits: Mapping[str, float]
    levels: Mapping[str, float]
    running: int
    paused_until_ms: int
    paused_why: str
    mean_ms: float
    mean_output: float | None
    refusals: int

    @property
    def pause_ms(self) -> int:
        """How long dispatch is known to stand still from now."""
        return max(0, self.paused_until_ms - self.now_ms)


def read_view(answer: Mapping[str, Any]) -> PoolView:
    """The pool as view.lua describes it (an empty table of Lua arrives as an empty object)."""
    bucket = answer["bucket"] or {}
    tiers = {
        name: TierView(tier["T"], tier["share"], tier["queued"], tier["sum"])
        for name, tier in (answer["tiers"] or {}).items()
    }
    return PoolView(
        now_ms=int(answer["now"]),
        tiers=tiers,
        limits=answer["limits"] or {},
        levels=answer["levels"] or {},
        running=answer["running"],
        paused_until_ms=int(float(bucket.get("paused_until", 0))),
        paused_why=bucket.get("paused_why", ""),
        mean_ms=float(bucket.get("mean_ms", DEFAULT_MEAN_MS)),
        mean_output=float(bucket["mean_output"]) if "mean_output" in bucket else None,
        refusals=int(bucket.get("pauses", 0)),
    )


def cost_of(view: PoolView, input_tokens: int, output_tokens: int) -> float:
    """A request's share of the pool in provider-seconds; as place.lua computes it."""
    need = {
        "requests": 1,
        "tokens": input_tokens + output_tokens,
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
    }
    return max((need[dimension] * 60 / limit for dimension, limit in view.limits.items()), default=1.0)


def place_of(view: PoolView, tier: str, rank: int, cost: float, slots: int, not_before_ms: int = 0) -> Place:
    """The place of a request with `rank` requests of its own tier ahead; `slots` attempts can run at once.

    Tiers are served so that T + cost/share stays level, so another tier's requests go first as
    far as their T does not pass the one this request will have.
    """
    own = view.tiers.get(tier)
    ahead_cost = rank * own.mean_cost if own else 0.0
    position = 1 + rank
    finish = (own.virtual_time if own else 0.0) + (ahead_cost + cost) / (own.share if own else 1.0)
    for name, other in view.tiers.items():
        if name != tier and other.queued:
            fit = (finish - other.virtual_time) * other.share / other.mean_cost
            count = max(0, min(other.queued, math.floor(fit + 1e-9)))
            position += count
            ahead_cost += count * other.mean_cost
    wait_ms = max(_flow_ms(view, ahead_cost + cost), _slots_ms(view, position, slots)) + view.pause_ms
    wait_ms = min(MAX_WAIT_MS, max(wait_ms, not_before_ms - view.now_ms))
    paused = view.paused_why if view.pause_ms else ""
    return Place(position, rounded(wait_ms), paused, view.paused_until_ms if paused else None)


def _flow_ms(view: PoolView, cost: float) -> float:
    """Time until the buckets have let that much through."""
    if not view.limits:
        return 0.0
    saved = min(view.levels.get(dimension, 0.0) * 60 / limit for dimension, limit in view.limits.items())
    return max(0.0, cost - saved) * 1000


def _slots_ms(view: PoolView, position: int, slots: int) -> float:
    """Time until enough running attempts have ended."""
    if slots <= 0:
        return view.mean_ms * position
    return max(0, position - max(0, slots - view.running)) * view.mean_ms / slots


def rounded(wait_ms: float) -> int:
    """Up to whole tenths of a second."""
    return math.ceil(max(0.0, wait_ms) / ROUNDED_MS) * ROUNDED_MS
