"""Where requests stand: asks the line, and at most once a second looks along the whole of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from services.clock import Clock
from services.scheduler.waits import Learned, Place, PoolView, exact_positions, place_of, read_spot, read_view

LOOK_MS = 1_000
"""How long a look along the whole line serves: what it costs does not grow with who asks."""


class Line(Protocol):
    """What places need of the order."""

    async def view(
        self, pool: str, request_ids: Sequence[str] = (), *, whole: bool = False, asker: Sequence[object] = ()
    ) -> dict[str, Any]: ...


@dataclass
class _Pool:
    glance: PoolView
    whole: PoolView
    first: dict[str, int]
    learned: Learned = field(default_factory=Learned)


class Places:
    """One for a process. Every method that asks raises `LineUnavailable` if it cannot."""

    def __init__(self, line: Line, *, slots: Callable[[], int], clock: Clock) -> None:
        """`slots` is how many attempts can run at once."""
        self._line = line
        self._slots = slots
        self._clock = clock
        self._pools: dict[str, _Pool] = {}
        self._next_look_ms: dict[str, int] = {}

    def known(self, pool: str) -> PoolView | None:
        """The pool when it was last looked at."""
        seen = self._pools.get(pool)
        return seen.glance if seen else None

    async def look(self, pool: str) -> PoolView:
        """The pool as it is now."""
        await self._ask(pool)
        return self._pools[pool].glance

    async def of(self, pool: str, request_ids: Sequence[str]) -> dict[str, Place]:
        """Where those of the requests stand that are queued."""
        found = (await self._ask(pool, request_ids))["places"] or ()
        return {i: self._place(pool, one, i) for i, one in zip(request_ids, found, strict=False) if one}

    async def would_be(self, pool: str, user_id: str, tier: str, input_tokens: int, output_tokens: int) -> Place:
        """Where one of that user would stand that came now."""
        asker = (user_id, tier, input_tokens, output_tokens)
        return self._place(pool, (await self._ask(pool, asker=asker))["asked"])

    async def _ask(self, pool: str, request_ids: Sequence[str] = (), asker: Sequence[object] = ()) -> dict[str, Any]:
        now_ms = self._clock.now_ms()
        # Further off than an interval: the clock was set back.
        whole = not 0 < self._next_look_ms.get(pool, 0) - now_ms <= LOOK_MS
        answer = await self._line.view(pool, request_ids, whole=whole, asker=asker)
        view = read_view(answer)
        if whole:
            self._next_look_ms[pool] = now_ms + LOOK_MS
            learned = self._pools[pool].learned if pool in self._pools else Learned()
            learned.see(view)
            self._pools[pool] = _Pool(view, view, exact_positions(view), learned)
        else:
            self._pools[pool].glance = view
        return answer

    def _place(self, pool: str, found: dict[str, Any], request_id: str = "") -> Place:
        seen = self._pools[pool]
        place = place_of(seen.glance, seen.whole, seen.learned, read_spot(found), self._slots())
        exact = seen.first.get(request_id)
        return replace(place, position=exact) if exact else place
