"""The audit: who changed what, of this service and of others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.quota.model import AuditEntry
from services.quota.ports import Store, Transaction

NEWEST = 2**63 - 1
"""Above the number of every entry."""


@dataclass(frozen=True)
class Page:
    """Entries, newest first, and the number to go on below (0 on the last page)."""

    entries: Sequence[AuditEntry]
    next_below: int


class AuditLog:
    """Keeps entries for ever; our own changes write theirs in their own transactions."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def record(self, entries: Sequence[tuple[str, AuditEntry]]) -> None:
        """Keeps (audit id, entry) of another service; one that is known stays as it is."""
        # In one order everywhere, so that two deliveries of the same cannot wait for each other.
        ordered = sorted(entries, key=lambda item: item[0])

        def run(tx: Transaction) -> None:
            for audit_id, entry in ordered:
                tx.record_audit(entry, audit_id)

        await self._store.write(run)

    async def page(self, limit: int, below: int, subject: str) -> Page:
        """At most `limit` entries with numbers below `below`, of one subject if it is named."""
        rows = await self._store.read(lambda tx: tx.list_audit(limit + 1, below, subject))
        return Page([entry for _, entry in rows[:limit]], rows[limit - 1][0] if len(rows) > limit else 0)
