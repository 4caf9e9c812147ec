"""Tells quota how requests ended, at least once each, in batches."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Protocol

from services import telemetry
from services.clock import Clock
from services.scheduler.life import Settlement
from services.scheduler.ports import Requests
from services.sql import StoreUnavailable

log = logging.getLogger(__name__)

BATCH = 500
IDLE_MS = 1_000
RETRY_CAP_MS = 10_000


class QuotaUnavailable(Exception):
    """Quota did not take the settlements."""


class QuotaRefused(Exception):
    """Quota will never take one of the settlements."""


class Quota(Protocol):
    """Who must hear."""

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """Returns once all are durable there; `QuotaUnavailable` or `QuotaRefused` otherwise. Repeatable."""
        ...


async def deliver_until(
    stopping: asyncio.Event, some: asyncio.Event, deliver: Callable[[], Awaitable[bool]], what: str,
    *, idle_ms: int, retry_ms: int,
) -> None:  # fmt: skip
    """Delivers batches while `deliver` says that there may be more, then when there is some, and at least every
    `idle_ms`. A failure is tried again after `retry_ms`, each further one after twice as long, 10 s at most."""
    delay_ms = retry_ms
    while not stopping.is_set():
        some.clear()
        try:
            while await deliver() and not stopping.is_set():
                continue
        except (QuotaUnavailable, StoreUnavailable) as error:
            log.warning("%s wait: %s", what, error)
            # Told to stop means no second try: another replica or the next start delivers.
            with suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), delay_ms / 1000)
            delay_ms = min(RETRY_CAP_MS, 2 * delay_ms)
        else:
            delay_ms = retry_ms
            with suppress(TimeoutError):
                await asyncio.wait_for(some.wait(), idle_ms / 1000)


class Outbox:
    """Delivers the outbox until told to stop."""

    def __init__(self, requests: Requests, quota: Quota, clock: Clock) -> None:
        self._clock = clock
        self._requests = requests
        self._quota = quota
        self._some = asyncio.Event()

    def poke(self) -> None:
        """There may be something to deliver."""
        self._some.set()

    async def run(self, stopping: asyncio.Event) -> None:
        """Delivers, waiting longer after each failure."""
        await deliver_until(stopping, self._some, self._batch, "settlements", idle_ms=IDLE_MS, retry_ms=2 * IDLE_MS)

    async def _batch(self) -> bool:
        return await self.deliver() == BATCH

    async def deliver(self) -> int:
        """One batch; the number delivered."""
        settlements = await self._requests.settlements(BATCH)
        if settlements:
            begun_ns = self._clock.now_ms() * 1_000_000
            try:
                await self._settle(settlements)
            except QuotaRefused:
                # One that is refused must not hold up the others, nor be lost.
                for settlement in settlements:
                    await self._settle_alone(settlement)
            if telemetry.enabled():
                _trace(settlements, begun_ns)
        return len(settlements)

    async def _settle(self, settlements: Sequence[Settlement]) -> None:
        await self._quota.settle(settlements)
        await self._requests.settled([s.outbox_id for s in settlements])

    async def _settle_alone(self, settlement: Settlement) -> None:
        try:
            await self._settle([settlement])
        except QuotaRefused as error:
            log.error("the settlement of %s is set aside: %s", settlement.request_id, error)
            await self._requests.set_aside(settlement.outbox_id)


def _trace(settlements: Sequence[Settlement], begun_ns: int) -> None:
    """A span in the trace of each request: the batch has none of its own that they could share."""
    for settlement in settlements:
        context = telemetry.context_of(settlement.traceparent)
        attributes: dict[str, str | bool] = {
            "headgate.request_id": settlement.request_id,
            "headgate.counted": settlement.counted,
        }
        name = f"settle {settlement.pool}"
        telemetry.tracer().start_span(name, context=context, attributes=attributes, start_time=begun_ns).end()
