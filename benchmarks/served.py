"""What users got: service by who got it, and how far two of a tier were ever apart. No I/O."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Served:
    """One attempt; cost in provider-seconds, as it turned out."""

    user: str
    tier: str
    begun_ms: float
    ended_ms: float
    cost: float


LineOf = Callable[[Served], str]


def service(begun: Sequence[Served], line_of: LineOf, until_ms: float) -> dict[str, float]:
    """Provider-seconds of what had ended by then."""
    total: dict[str, float] = defaultdict(float)
    for s in begun:
        total[line_of(s)] += s.cost if s.ended_ms <= until_ms else 0.0
    return total


class Differences:
    """Between any two users of a tier, at every beginning and end of an attempt.

    The bound is twice the largest cost, and what the two had in flight when the one ahead was last begun.
    """

    def __init__(self, begun: Sequence[Served], until_ms: float) -> None:
        """`begun`: in that order, by users who always had something waiting."""
        self.largest = 0.0
        self.worst = (0.0, 1.0)
        """The difference nearest to its bound, and that bound."""
        self._twice = 2 * max(s.cost for s in begun)
        self._served: dict[str, float] = defaultdict(float)
        self._running: dict[str, float] = defaultdict(float)
        self._at_last: dict[str, dict[str, float]] = {}
        tiers: dict[str, set[str]] = defaultdict(set)
        for s in begun:
            tiers[s.tier].add(s.user)
        events = [(s.begun_ms, True, n) for n, s in enumerate(begun)]
        events += [(s.ended_ms, False, n) for n, s in enumerate(begun)]
        for _, begins, number in sorted(event for event in events if event[0] <= until_ms):
            self._step(begun[number], begins=begins)
            for other in tiers[begun[number].tier] - {begun[number].user}:
                self._compare(begun[number].user, other)

    def _step(self, one: Served, *, begins: bool) -> None:
        self._running[one.user] += one.cost if begins else -one.cost
        if begins:
            self._at_last[one.user] = dict(self._running)
        else:
            self._served[one.user] += one.cost

    def _compare(self, ahead: str, behind: str) -> None:
        difference, in_flight = self._served[ahead] - self._served[behind], self._at_last[ahead]
        bound = self._twice + in_flight.get(ahead, 0.0) + in_flight.get(behind, 0.0)
        self.largest = max(self.largest, difference)
        self.worst = max(self.worst, (difference, bound), key=lambda pair: pair[0] / pair[1])
