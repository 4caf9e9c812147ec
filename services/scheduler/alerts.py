"""What the owner should act on: one row a subject, so that neither replicas nor restarts say it twice."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Update, delete, select, update

from services import telemetry
from services.clock import Clock
from services.scheduler.statements import upsert
from services.scheduler.tables import alerts
from services.sql import Database

log = logging.getLogger(__name__)

MOST_TOLD = 100
MOST_SENT = 20
"""At once; the rest is due a moment later."""


@dataclass(frozen=True)
class Alert:
    """One that was raised."""

    subject: str
    message: str
    raised_ms: int
    tries: int = 0
    """To send it."""
    send_ms: int | None = None
    """When to try again."""


class Alerts:
    """Raises and ends them. Every method raises `StoreUnavailable` if it cannot; all may be repeated."""

    def __init__(self, database: Database, clock: Clock, on_raised: Callable[[], None] | None) -> None:
        """`on_raised` hears that there is one to send; None: they are sent nowhere."""
        self._database = database
        self._clock = clock
        self._on_raised = on_raised
        self._counter = telemetry.meter().create_counter("headgate.alerts", description="Alerts raised")

    async def raise_(self, subject: str, message: str) -> None:
        """Something is the matter; nothing happens if that is known already."""
        now_ms = self._clock.now_ms()
        row = {
            "subject": subject[:200], "message": message, "raised_ms": now_ms, "ended_ms": None,
            "send_ms": now_ms if self._on_raised else None, "tries": 0,
        }  # fmt: skip
        statement = upsert(self._database.engine.dialect.name, alerts).values(row)
        statement = statement.on_conflict_do_update(
            index_elements=["subject"], set_=row, where=alerts.c.ended_ms.is_not(None)
        ).returning(alerts.c.subject)
        # Not the count of rows: on PostgreSQL that of an INSERT which does nothing is not 0.
        if await self._database.write(lambda connection: connection.execute(statement).first()):
            log.warning("ALERT %s: %s", subject, message)
            self._counter.add(1, {"headgate.alert": subject.split("/")[0]})
            if self._on_raised:
                self._on_raised()

    async def end(self, subject: str) -> None:
        """It is over; nothing happens if it was not raised."""
        statement = update(alerts).where(alerts.c.subject == subject[:200], alerts.c.ended_ms.is_(None))
        if await self._changed(statement.values(ended_ms=self._clock.now_ms())):
            log.warning("the alert %s is over", subject)

    async def active(self) -> list[Alert]:
        """Those that are raised now, newest first."""
        query = select(alerts.c.subject, alerts.c.message, alerts.c.raised_ms).where(alerts.c.ended_ms.is_(None))
        query = query.order_by(alerts.c.raised_ms.desc()).limit(MOST_TOLD)
        return await self._database.read(lambda connection: [Alert(*row) for row in connection.execute(query)])

    async def purge(self, ended_before_ms: int) -> None:
        """Forgets those that ended before that."""
        statement = delete(alerts).where(alerts.c.ended_ms < ended_before_ms)
        await self._database.write(lambda connection: connection.execute(statement).rowcount)

    async def due(self) -> list[Alert]:
        """Those to send now."""
        row = alerts.c
        query = select(row.subject, row.message, row.raised_ms, row.tries, row.send_ms)
        query = query.where(row.send_ms <= self._clock.now_ms()).order_by(row.send_ms).limit(MOST_SENT)
        return await self._database.read(lambda connection: [Alert(*found) for found in connection.execute(query)])

    async def claim(self, alert: Alert, until_ms: int) -> bool:
        """Takes one to send it; False if another replica has. It is due again at that time unless settled."""
        mine = self._of(alert).where(alerts.c.send_ms == alert.send_ms)
        return await self._changed(mine.values(send_ms=until_ms, tries=alerts.c.tries + 1))

    async def settle(self, alert: Alert, send_ms: int | None) -> None:
        """It was taken or is given up (None), or is to be tried again at that time."""
        await self._changed(self._of(alert).values(send_ms=send_ms))

    def _of(self, alert: Alert) -> Update:
        # Not one that was raised anew meanwhile.
        return update(alerts).where(alerts.c.subject == alert.subject, alerts.c.raised_ms == alert.raised_ms)

    async def _changed(self, statement: Update) -> bool:
        return await self._database.write(lambda connection: connection.execute(statement).rowcount == 1)
