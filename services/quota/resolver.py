"""Finds out what became of reservations that nobody settled."""

from __future__ import annotations

import logging

from services.clock import Clock
from services.quota.model import Reservation
from services.quota.places import Places
from services.quota.ports import SchedulerUnreachable, Store

INTERVAL_MS = 10_000
UNRESOLVED_AFTER_MS = 60_000
"""A Submit takes 10 s at most with its retries; by then one that is on its way has arrived or never will."""
BATCH = 500
"""What one Account call may ask."""
log = logging.getLogger(__name__)


class Resolver:
    """Asks the scheduler every 10 s about what is pending, not known to be live and a minute old."""

    def __init__(self, store: Store, places: Places, clock: Clock) -> None:
        self._store = store
        self._places = places
        self._clock = clock

    async def run(self) -> None:
        """Resolves until cancelled."""
        while True:
            await self._clock.sleep(INTERVAL_MS)
            try:
                await self.resolve_all()
            except SchedulerUnreachable as error:
                log.warning("reservations are kept: %s", error)
            except Exception:
                # The next round starts from the same rows, so nothing is lost by going on.
                log.exception("resolving failed")

    async def resolve_all(self) -> None:
        """One round over all of them, 500 at a time. Raises `SchedulerUnreachable`."""
        before_ms = self._clock.now_ms() - UNRESOLVED_AFTER_MS
        # A cursor, for an answer may leave a reservation as it is: the round must still end.
        rows = await self._unresolved(before_ms, (0, ""))
        while rows:
            await self._places.account_for([(row.request_id, row.generation) for row in rows])
            after = (rows[-1].reserve_time_ms, rows[-1].request_id)
            rows = await self._unresolved(before_ms, after) if len(rows) == BATCH else []

    async def _unresolved(self, before_ms: int, after: tuple[int, str]) -> list[Reservation]:
        return await self._store.read(lambda tx: tx.list_unresolved(before_ms, after, BATCH))
