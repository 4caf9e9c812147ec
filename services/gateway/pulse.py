"""One timer for everything that happens every few seconds to each of many readers."""

from __future__ import annotations

from typing import Protocol

from services.clock import Clock

TICK_MS = 1_000


class Beating(Protocol):
    """Whoever wants to be woken."""

    def tick(self, now_ms: int) -> None:
        """Called about once a second; must not block."""
        ...


class Pulse:
    """Wakes its members once a second: a timer each would cost more than what they do."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._members: set[Beating] = set()

    def join(self, member: Beating) -> None:
        """Wakes `member` from now on."""
        self._members.add(member)

    def leave(self, member: Beating) -> None:
        """Stops waking it; repeatable."""
        self._members.discard(member)

    def beat(self) -> None:
        """Wakes everybody once."""
        now_ms = self.clock.now_ms()
        for member in list(self._members):
            member.tick(now_ms)

    async def run(self) -> None:
        """Beats until cancelled."""
        while True:
            await self.clock.sleep(TICK_MS)
            self.beat()
