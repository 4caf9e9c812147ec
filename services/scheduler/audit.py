"""What operators changed here, told to quota's audit: written with the change, delivered at least once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy import Connection, delete, insert, select

from services.scheduler.outbox import deliver_until
from services.scheduler.tables import audit_outbox
from services.sql import Database

BATCH = 100
IDLE_MS = 10_000
"""Without a poke: only what a killed replica left is then there."""
RETRY_MS = 500


@dataclass(frozen=True)
class Entry:
    """Who changed what."""

    audit_id: str
    time_ms: int
    actor: str
    action: str
    subject: str
    old: str
    new: str


class Receiver(Protocol):
    """Who keeps the audit."""

    async def record(self, entries: Sequence[Entry]) -> None:
        """Returns once all are durable there; `QuotaUnavailable` otherwise. Repeatable."""
        ...


def note(connection: Connection, entry: Entry) -> None:
    """Writes it down in the transaction of the change."""
    connection.execute(insert(audit_outbox), vars(entry))


class AuditOutbox:
    """Delivers until told to stop."""

    def __init__(self, database: Database, receiver: Receiver) -> None:
        self._database = database
        self._receiver = receiver
        self._some = asyncio.Event()

    def poke(self) -> None:
        """There is something to deliver."""
        self._some.set()

    async def run(self, stopping: asyncio.Event) -> None:
        """Delivers, waiting longer after each failure."""
        await deliver_until(
            stopping, self._some, self._batch, "entries of the audit", idle_ms=IDLE_MS, retry_ms=RETRY_MS
        )

    async def _batch(self) -> bool:
        return await self.deliver() == BATCH

    async def deliver(self) -> int:
        """One batch; the number delivered."""
        query = select(audit_outbox).order_by(audit_outbox.c.number).limit(BATCH)
        rows = await self._database.read(lambda connection: connection.execute(query).mappings().all())
        if rows:
            entries = [Entry(**{name: value for name, value in row.items() if name != "number"}) for row in rows]
            await self._receiver.record(entries)
            told = delete(audit_outbox).where(audit_outbox.c.number.in_([row["number"] for row in rows]))
            await self._database.write(lambda connection: connection.execute(told).rowcount)
        return len(rows)
