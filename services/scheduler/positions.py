"""Who goes before whom: pure arithmetic over what view.lua tells of each tier's line."""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

FIRST = 100
"""So many positions are exact."""
SLACK = 1e-9
"""Sums in another order differ in their last digits."""


@dataclass(frozen=True)
class Along:
    """What is queued along one tier's line."""

    ids: Sequence[str]
    """Of the first hundred."""
    heads: Sequence[float]
    """Costs of the first hundreds, as exact as the scripts have them."""
    ranks: Sequence[int]
    sums: Sequence[float]
    """`sums[i]` is what the first `ranks[i]` cost: exact for the heads, from samples behind them."""
    drift: float
    """Cost at today's limits over cost as it was placed."""

    def up_to(self, queued: int, queued_cost: float) -> Along:
        """The same line somewhat later, when so many wait: what came since is taken to stand at its end."""
        if queued <= self.ranks[-1]:
            return self
        ranks, sums = [*self.ranks, queued], [*self.sums, max(queued_cost, self.sums[-1])]
        return replace(self, ranks=ranks, sums=sums)

    def cost_of_first(self, count: int) -> float:
        """What the first `count` cost together."""
        return _between(self.ranks, self.sums, count)

    def count_within(self, cost: float) -> int:
        """How many of the first cost no more than that together."""
        return int(_between(self.sums, self.ranks, cost + SLACK))


@dataclass(frozen=True)
class Standing:
    """A tier as the merge sees it."""

    virtual_time: float
    share: float
    queued: int
    along: Along


def read_along(found: Mapping[str, Any], queued: int, queued_cost: float) -> Along:
    """One tier's line as view.lua tells it."""
    heads = [float(cost) for cost in found["costs"] or ()]
    ranks, sums = list(range(len(heads) + 1)), [0.0, *accumulate(heads)]
    strata = found["strata"] or ()
    sampled = [
        mean * (to - from_) for (to, mean), from_ in zip(strata, [len(heads), *(to for to, _ in strata)], strict=False)
    ]
    # The tier's own sum is known: samples only say how it is spread.
    scale = max(0.0, queued_cost - sums[-1]) / max(sum(sampled), SLACK)
    ranks += [to for to, _ in strata]
    sums += list(accumulate((cost * scale for cost in sampled), initial=sums[-1]))[1:]
    then = found["then"] or 0.0
    return Along(found["ids"] or (), heads, ranks, sums, found["now"] / then if then else 1.0)


def first_positions(tiers: Mapping[str, Standing]) -> dict[str, int]:
    """The first hundred to go, by id: what dispatch.lua would choose one after the other, to the last bit."""
    heap = [(t.virtual_time + t.along.heads[0] / t.share, name, 0) for name, t in tiers.items() if t.along.heads]
    heapq.heapify(heap)
    positions: dict[str, int] = {}
    while heap and len(positions) < FIRST:
        finish, name, rank = heapq.heappop(heap)
        tier = tiers[name]
        positions[tier.along.ids[rank]] = len(positions) + 1
        if rank + 1 < len(tier.along.heads):
            heapq.heappush(heap, (finish + tier.along.heads[rank + 1] / tier.share, name, rank + 1))
    return positions


def position_of(tiers: Mapping[str, Standing], tier: str, rank: int, finish: float) -> int:
    """The position of a request with `rank` of its tier ahead, after whose service its tier's time is `finish`."""
    others = (
        min(other.queued, other.along.count_within((finish - other.virtual_time) * other.share))
        for name, other in tiers.items()
        if name != tier
    )
    return 1 + rank + sum(others)


NOTHING = Along((), (), (0,), (0.0,), 1.0)


def _between(xs: Sequence[float], ys: Sequence[float], x: float) -> float:
    """Where a line through the points is at `x`; it ends at the last."""
    if x <= 0:
        return 0.0
    if x >= xs[-1]:
        return ys[-1]
    i = bisect_right(xs, x)
    low = xs[i - 1]
    return ys[i - 1] + (ys[i] - ys[i - 1]) * (x - low) / (xs[i] - low)
