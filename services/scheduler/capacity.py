"""How much of the provider's limits is used: looks at each pool, keeps peaks by hour, raises and ends alerts."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import Connection, Integer, case, delete, func, literal_column, select

from services import telemetry
from services.clock import DAY_MS, Clock
from services.scheduler.alerts import Alerts
from services.scheduler.forecast import DAYS, Use, advice, exhausted_ms
from services.scheduler.life import LineUnavailable
from services.scheduler.places import Places
from services.scheduler.provider_plan import ProviderPlan
from services.scheduler.providers import LIMITS
from services.scheduler.statements import upsert
from services.scheduler.tables import capacity
from services.scheduler.use import Limit, Window, is_high, limits_of
from services.scheduler.waits import PoolView
from services.sql import Database, StoreUnavailable

LOOK_MS = 1_000
"""It costs a call each pool, and what intake knows of the limits is then never older than that."""
KEEP_MS = 60_000
"""A killed replica loses the refusals of so long, and the peaks only if it was the only one."""
HOUR_MS = 3_600_000
RETENTION_HOURS = 90 * 24
NONE = Limit(0, "")

Key = tuple[str, str]
"""(pool, limit's name)."""


@dataclass(frozen=True)
class History:
    """What was written of it."""

    last_day: Mapping[Key, tuple[int, int]]
    """Peak and refusals of the last 24 hours."""
    days: Mapping[Key, Sequence[tuple[int, int]]]
    """(day since 1970, peak) of the days before this one."""


@dataclass(frozen=True)
class PoolUse:
    """One pool's limits and their use."""

    pool: str
    limits: list[Use]
    advice: str


class Capacity:
    """One for a process. All see the same counts: of their peaks the largest is true, of their refusals the sum."""

    def __init__(self, places: Places, plan: ProviderPlan, alerts: Alerts, database: Database, clock: Clock) -> None:
        self._places = places
        self._plan = plan
        self._alerts = alerts
        self._database = database
        self._clock = clock
        self._windows = {pool: Window() for pool in plan.provider.pools}
        self._peaks: dict[tuple[str, str, int], tuple[int, int]] = {}
        """(pool, limit's name, hour) to (peak, limit), not written yet."""
        self._refusals: Counter[tuple[str, int]] = Counter()
        self._raised: set[str] = set()
        self._gauge = telemetry.meter().create_gauge("headgate.limit.use_ratio", description="Use of a provider limit")

    def refused(self, pool: str) -> None:
        """The provider answered 429."""
        self._refusals[pool, self._clock.now_ms() // HOUR_MS] += 1

    async def run(self, stopping: asyncio.Event) -> None:
        """Looks once a second and writes once a minute, until told to stop."""
        keep_ms = 0
        while not stopping.is_set():
            with suppress(StoreUnavailable):
                if (now_ms := self._clock.now_ms()) >= keep_ms:
                    await self.keep()
                    keep_ms = now_ms + KEEP_MS
            await self.look()
            with suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), LOOK_MS / 1000)
        with suppress(StoreUnavailable):
            await self.keep()

    async def look(self) -> None:
        """Every pool as it is now; raises and ends alerts."""
        for pool, view in (await self._see()).items():
            # What the database did not take is tried again in a second.
            with suppress(StoreUnavailable):
                await self._judge(pool, view)

    async def _see(self) -> dict[str, PoolView]:
        """Those pools that can be read."""
        seen = {}
        for pool, window in self._windows.items():
            with suppress(LineUnavailable):
                seen[pool] = await self._places.look(pool)
                window.see(seen[pool])
                self._note(pool, window, limits_of(seen[pool].bucket))
        return seen

    def _note(self, pool: str, window: Window, limits: Mapping[str, Limit]) -> None:
        hour = self._clock.now_ms() // HOUR_MS
        for name, used in window.used.items():
            limit = limits[name].limit if name in limits else 0
            peak, _ = self._peaks.get((pool, name, hour), (0, 0))
            self._peaks[pool, name, hour] = max(peak, used), limit
            if limit:
                self._gauge.set(used / limit, {"headgate.pool": pool, "headgate.limit": name})

    async def _judge(self, pool: str, view: PoolView) -> None:
        window, limits = self._windows[pool], limits_of(view.bucket)
        for name in window.lasting if window.full else ():
            subject = f"capacity/{pool}/{name}"
            share = window.lasting[name] / limits[name].limit if name in limits else 0.0
            raised = subject in self._raised
            if is_high(share, raised=raised) is raised:
                continue
            if raised:
                await self._end(subject)
            else:
                told = (await self._told({pool: view}, about=name))[0]
                await self._alerts.raise_(subject, told.advice)
                self._raised.add(subject)
        # Who stopped the pool for its account may be gone; the pause itself says whether it is served again.
        account, paused_until = f"account/{pool}", float(view.bucket.get("pause:provider_account") or 0)
        if account in self._raised and paused_until <= view.now_ms:
            await self._end(account)

    async def _end(self, subject: str) -> None:
        await self._alerts.end(subject)
        self._raised.discard(subject)

    async def tell(self) -> list[PoolUse]:
        """Every pool that can be read, as it is now."""
        return await self._told(await self._see())

    async def _told(self, views: Mapping[str, PoolView], about: str = "") -> list[PoolUse]:
        now_ms = self._clock.now_ms()
        now, _ = await self._plan.read()
        history = await self._database.read(partial(_history, now_ms=now_ms))
        told = []
        for pool, view in views.items():
            limits = limits_of(view.bucket)
            uses = [self._use(pool, name, limits.get(name, NONE), history, now_ms) for name in LIMITS]
            advised = advice(pool, uses, self._plan.provider.above(now.plan), about)
            told.append(PoolUse(pool, [use for use in uses if use.limit], advised))
        return told

    def _use(self, pool: str, name: str, limit: Limit, history: History, now_ms: int) -> Use:
        used = self._windows[pool].used[name]
        peak, refusals = history.last_day.get((pool, name), (0, 0))
        own = [unwritten for (p, n, _), (unwritten, _) in self._peaks.items() if (p, n) == (pool, name)]
        return Use(
            name, limit.limit, limit.source, used, max([used, peak, *own]),
            refusals + sum(count for (p, _), count in self._refusals.items() if p == pool),
            exhausted_ms(history.days.get((pool, name), ()), limit.limit, now_ms) if limit.limit else None,
        )  # fmt: skip

    async def keep(self) -> None:
        """Writes peaks and refusals, forgets what is too old, and learns which alerts stand."""
        now_ms = self._clock.now_ms()
        # What comes while it is written is of the next minute.
        peaks, self._peaks = self._peaks, {}
        refusals, self._refusals = self._refusals, Counter()
        rows = [
            {"pool": p, "dimension": d, "hour": h, "peak": peak, "limit_then": limit, "refusals": refusals[p, h]}
            for (p, d, h), (peak, limit) in peaks.items()
        ]
        try:
            await self._database.write(partial(_keep, rows=rows, oldest_hour=now_ms // HOUR_MS - RETENTION_HOURS))
        except StoreUnavailable:
            self._peaks, self._refusals = peaks | self._peaks, refusals + self._refusals
            raise
        await self._alerts.purge(now_ms - RETENTION_HOURS * HOUR_MS)
        self._raised = {alert.subject for alert in await self._alerts.active()}


def _keep(connection: Connection, rows: Sequence[dict[str, Any]], oldest_hour: int) -> None:
    statement = upsert(connection.dialect.name, capacity)
    new, old = statement.excluded, capacity.c
    sums = {
        "peak": case((new.peak > old.peak, new.peak), else_=old.peak),
        "limit_then": new.limit_then,
        "refusals": old.refusals + new.refusals,
    }
    statement = statement.on_conflict_do_update(index_elements=["pool", "dimension", "hour"], set_=sums)
    # In one order everywhere, so that two replicas cannot wait for each other.
    for row in sorted(rows, key=lambda row: (row["pool"], row["dimension"], row["hour"])):
        connection.execute(statement, row)
    connection.execute(delete(capacity).where(capacity.c.hour < oldest_hour))


def _history(connection: Connection, now_ms: int) -> History:
    c, hour, today = capacity.c, now_ms // HOUR_MS, now_ms // DAY_MS
    last_day = select(c.pool, c.dimension, func.max(c.peak), func.sum(c.refusals)).where(c.hour > hour - 24)
    # Spelled out, not bound: PostgreSQL takes two parameters for two different divisors.
    day_of = c.hour // literal_column("24", Integer)
    by_day = select(c.pool, c.dimension, day_of, func.max(c.peak))
    by_day = by_day.where(c.hour >= (today - DAYS) * 24, c.hour < today * 24)
    days: dict[Key, list[tuple[int, int]]] = {}
    for pool, name, day, peak in connection.execute(by_day.group_by(c.pool, c.dimension, day_of)):
        days.setdefault((pool, name), []).append((day, peak))
    found = connection.execute(last_day.group_by(c.pool, c.dimension))
    return History({(pool, name): (peak, int(refusals)) for pool, name, peak, refusals in found}, days)
