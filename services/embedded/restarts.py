"""When a child that died is started again, and when we stop trying."""

from __future__ import annotations

RAPID_MS = 3_000
"""A child that lived shorter than this died rapidly: each of ours is up within two seconds."""
DELAYS_MS = (0, 100, 300, 1_000, 2_000, 3_000, 5_000, 5_000, 5_000, 5_000)
"""Before each further try after rapid deaths in a row; the first is at once, as after a kill."""


class Restarts:
    """Counts one child's rapid deaths in a row."""

    def __init__(self) -> None:
        self.rapid_deaths = 0

    def delay_ms(self, lived_ms: int) -> int | None:
        """How long to wait before starting again; None: do not, it has died too often in a row."""
        self.rapid_deaths = self.rapid_deaths + 1 if lived_ms < RAPID_MS else 1
        if self.rapid_deaths > len(DELAYS_MS):
            return None
        return DELAYS_MS[self.rapid_deaths - 1]
