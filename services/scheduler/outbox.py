"""Tells quota how requests ended, at least once each, in batches."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from services.scheduler.life import Requests, Settlement
from services.sql import StoreUnavailable

log = logging.getLogger(__name__)

BATCH = 500
IDLE_MS = 1_000
RETRY_CAP_MS = 10_000


class QuotaUnavailable(Exception):
    """Quota did not take the settlements."""


class Quota(Protocol):
    """Who must hear."""

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """Returns once all are durable there; `QuotaUnavailable` otherwise. Repeatable."""
        ...


class Outbox:
    """Delivers the outbox until told to stop."""

    def __init__(self, requests: Requests, quota: Quota) -> None:
        self._requests = requests
        self._quota = quota
        self._some = asyncio.Event()

    def poke(self) -> None:
        """There may be something to deliver."""
        self._some.set()

    async def run(self, stopping: asyncio.Event) -> None:
        """Delivers, waiting longer after each failure."""
        delay_ms = IDLE_MS
        while not stopping.is_set():
            self._some.clear()
            try:
                delivered = await self.deliver()
                delay_ms = 0 if delivered == BATCH else IDLE_MS
            except (QuotaUnavailable, StoreUnavailable) as error:
                delay_ms = min(RETRY_CAP_MS, max(IDLE_MS, delay_ms * 2))
                log.warning("settlements wait: %s", error)
                with suppress(TimeoutError):
                    await asyncio.wait_for(stopping.wait(), delay_ms / 1000)
                continue
            if delay_ms:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._some.wait(), delay_ms / 1000)

    async def deliver(self) -> int:
        """One batch; the number delivered."""
        settlements = await self._requests.settlements(BATCH)
        if settlements:
            await self._quota.settle(settlements)
            await self._requests.settled([s.outbox_id for s in settlements])
        return len(settlements)
