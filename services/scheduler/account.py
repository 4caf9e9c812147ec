"""Whose fault it is when the provider refuses the account: the pool's own smallest call tells."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Protocol

from services.scheduler.generators import AttemptFailed
from services.scheduler.life import LineUnavailable
from services.scheduler.outcomes import Trouble
from services.sql import StoreUnavailable

log = logging.getLogger(__name__)

REFUSED = (
    "The provider refuses the site's account, so pool {pool} stands still and its requests wait. "
    "Check the key, its credit and its spend limit in the provider's console; the pool goes on by itself."
)
PROBE_TAKES_MS = 15_000
"""More than a probe may take: the pool rests past the next one, but not for ever should this process be gone."""


class Line(Protocol):
    """What this needs of the order."""

    async def pause(self, pool: str, length_ms: int, reason: str) -> None: ...


class Alerts(Protocol):
    """Who tells the owner. May raise `StoreUnavailable`."""

    async def raise_(self, subject: str, message: str) -> None: ...
    async def end(self, subject: str) -> None: ...


class Workers(Protocol):
    """Whoever can ask the provider for a token."""

    async def probe(self, model: str) -> None:
        """Returns once the provider answered; raises `AttemptFailed`."""
        ...


class Account:
    """Stops a pool whose account is refused, and asks every minute whether it still is."""

    def __init__(self, line: Line, workers: Workers, alerts: Alerts, *, probe_every_ms: int) -> None:
        self._line = line
        self._workers = workers
        self._alerts = alerts
        self._probe_every_ms = probe_every_ms
        self._asking: dict[str, asyncio.Task[bool]] = {}
        self._stopped: dict[str, str] = {}

    async def works(self, pool: str, model: str) -> bool:
        """Whether the provider serves the account. Those who ask together share one probe; while the pool stands
        still the answer is known."""
        return pool not in self._stopped and await self._asked(pool, model)

    async def _asked(self, pool: str, model: str) -> bool:
        if pool not in self._asking:
            self._asking[pool] = asyncio.create_task(self._ask(pool, model))
            self._asking[pool].add_done_callback(lambda _: self._asking.pop(pool, None))
        return await asyncio.shield(self._asking[pool])

    async def run(self, stopping: asyncio.Event) -> None:
        """Asks again for the pools that stand still, until told to stop."""
        while not stopping.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), self._probe_every_ms / 1000)
            for pool, model in list(self._stopped.items()):
                if not stopping.is_set():
                    await self._asked(pool, model)

    async def _ask(self, pool: str, model: str) -> bool:
        # Nothing more may go and be refused while the question is open.
        await self._pause(pool, self._probe_every_ms + PROBE_TAKES_MS)
        try:
            await self._workers.probe(model)
        except AttemptFailed as failed:
            if failed.failure.trouble is Trouble.ACCOUNT:
                self._stopped[pool] = model
                # With each probe: what the database did not take now it takes in a minute.
                with suppress(StoreUnavailable):
                    await self._alerts.raise_(f"account/{pool}", REFUSED.format(pool=pool))
                return False
            # Not an answer about the account: the pool goes on, and the next refusal asks again.
            log.warning("the account of pool %s could not be asked about: %s", pool, failed.failure.trouble.value)
            self._stopped.pop(pool, None)
            await self._pause(pool, 0)
            return False
        if self._stopped.pop(pool, None):
            log.warning("the provider serves the account again: pool %s goes on", pool)
        await self._pause(pool, 0)
        with suppress(StoreUnavailable):
            await self._alerts.end(f"account/{pool}")
        return True

    async def _pause(self, pool: str, length_ms: int) -> None:
        with suppress(LineUnavailable):
            await self._line.pause(pool, length_ms, "provider_account")
