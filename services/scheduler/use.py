"""How much of each limit is used, and where the limit comes from. Pure arithmetic over a pool's bucket."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from services.scheduler.providers import DIMENSIONS, LIMITS
from services.scheduler.waits import PoolView

WINDOW_MS = 60_000
"""Limits are a minute's."""
RAISED_FROM, ENDED_BELOW = 0.8, 0.7
"""Use at which an alert is raised, and below which it ends: between them it stays as it is, so that use around one
figure does not raise it again and again."""


@dataclass(frozen=True)
class Limit:
    """One limit in force."""

    limit: int
    source: str
    """plan, header or override."""


def limits_of(bucket: Mapping[str, Any]) -> dict[str, Limit]:
    """The limits in force, as limits.lua chooses them: the smaller of an override and what the provider's headers say
    (else its plan)."""
    found = {}
    for name in LIMITS:
        override, header, plan = (_number(bucket.get(f"{kind}:{name}")) for kind in ("override", "header", "plan"))
        named = header or plan
        if override and (not named or override <= named):
            found[name] = Limit(override, "override")
        elif named:
            found[name] = Limit(named, "header" if header else "plan")
    return found


def _number(text: Any) -> int:
    return round(float(text or 0))


def is_high(share: float, *, raised: bool) -> bool:
    """Whether the alert about a limit stands, of which that share is used."""
    return share >= (ENDED_BELOW if raised else RAISED_FROM)


@dataclass
class Window:
    """The last minute of one pool, from what has been sent ever."""

    full: bool = False
    """A whole minute was seen."""
    used: dict[str, int] = field(default_factory=dict)
    """By limit: in the minute that ends now; requests of the day, attempts that run now."""
    lasting: dict[str, float] = field(default_factory=dict)
    """The same as it lasted for the minute: of what runs the mean."""
    _seen: deque[tuple[int, dict[str, float], int]] = field(default_factory=deque)

    def see(self, view: PoolView) -> None:
        """The pool as it is now."""
        sent = {name: float(view.bucket.get(f"sent:{name}") or 0) for name in DIMENSIONS.values()}
        if self._seen and (view.now_ms < self._seen[-1][0] or any(sent[n] < self._seen[-1][1][n] for n in sent)):
            # A clock that was set back, or an order that was made anew.
            self._seen.clear()
        self._seen.append((view.now_ms, sent, view.running))
        while len(self._seen) > 1 and self._seen[1][0] <= view.now_ms - WINDOW_MS:
            self._seen.popleft()
        at_ms, before, _ = self._seen[0]
        seen_ms = view.now_ms - at_ms
        self.full = seen_ms >= WINDOW_MS
        # Of a longer time, as after an outage, its average minute.
        part = WINDOW_MS / seen_ms if self.full else 1
        self.used = {name: round((sent[name] - before[name]) * part) for name in sent}
        self.used |= {"requests_day": _number(view.bucket.get("today")), "concurrency": view.running}
        running = [one for _, _, one in self._seen]
        self.lasting = {**self.used, "concurrency": sum(running) / len(running)}
