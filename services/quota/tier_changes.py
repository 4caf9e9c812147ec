"""Tells the scheduler of tier changes, at least once each."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable

from services.clock import Clock
from services.quota.ports import Scheduler, SchedulerUnreachable, Store

POLL_MS = 250
BACKOFF_BASE_MS = 250
BACKOFF_CAP_MS = 10_000
BATCH = 500
"""What one ApplyTiers call may carry."""
log = logging.getLogger(__name__)


class TierChangeDelivery:
    """Delivers the outbox of tier changes, oldest first, and forgets what was taken."""

    def __init__(
        self,
        store: Store,
        scheduler: Scheduler,
        clock: Clock,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """`uniform(low, high)` spreads the retries."""
        self._store = store
        self._scheduler = scheduler
        self._clock = clock
        self._uniform = uniform

    async def run(self) -> None:
        """Delivers until cancelled; a change cut off by that is delivered again at the next start."""
        failures = 0
        while True:
            try:
                while await self.deliver():
                    pass
                failures = 0
                delay_ms: float = POLL_MS
            except Exception as error:
                failures = min(failures + 1, 10)
                delay_ms = self._uniform(0, min(BACKOFF_CAP_MS, BACKOFF_BASE_MS * 2**failures))
                log.warning("tier changes wait: %s", error, exc_info=not isinstance(error, SchedulerUnreachable))
            await self._clock.sleep(delay_ms)

    async def deliver(self) -> bool:
        """Delivers at most 500 changes; true if there may be more. Raises `SchedulerUnreachable`."""
        rows = await self._store.read(lambda tx: tx.list_tier_changes(BATCH))
        if rows:
            newest = {row.user_id: row for row in rows}
            await self._scheduler.apply_tiers(list(newest.values()))
            await self._store.write(lambda tx: tx.delete_tier_changes([row.number for row in rows]))
        return len(rows) == BATCH
