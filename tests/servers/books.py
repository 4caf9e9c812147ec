"""Charges with the sums that the ledger keeps of them, written as Settle writes them, thousands at a time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from sqlalchemy import Connection, func, select
from sqlalchemy.dialects.postgresql import insert

from services.clock import next_day_ms
from services.quota.model import Use
from services.quota.tables import SUMS, charges, days, hours
from tests.servers.quota import Quota

HOUR_MS = 3_600_000


@dataclass(frozen=True)
class Spent:
    """What requests of one user, model and kind used on a day; all ended in its hour `hour`."""

    user_id: str
    tier: str
    day: str
    use: Use
    model: str = "claude-sonnet-5-5"
    kind: str = "flowchart"
    hour: int = 12

    @property
    def hour_since_1970(self) -> int:
        return next_day_ms(self.day) // HOUR_MS - 24 + self.hour


async def spend(quota: Quota, spent: Iterable[Spent]) -> None:
    """Keeps all of it in one transaction."""
    rows = list(spent)
    await quota.database.write(lambda connection: _keep(connection, rows))


def _keep(connection: Connection, rows: list[Spent]) -> None:
    number = connection.execute(select(func.count()).select_from(charges)).scalar_one()
    connection.execute(charges.insert(), [_charge(number + i, row) for i, row in enumerate(rows)])
    for table, keys in ((days, ("user_id", "day")), (hours, ("hour", "tier", "model", "kind"))):
        new = insert(table)
        added = new.on_conflict_do_update(
            index_elements=list(keys), set_={name: table.c[name] + new.excluded[name] for name in SUMS}
        )
        connection.execute(added, [_sum(table is days, row) for row in rows])


def _charge(number: int, row: Spent) -> dict[str, object]:
    use = row.use
    return {
        "request_id": f"req_{number:022}",
        "attempt": 1,
        "turn": 1,
        "user_id": row.user_id,
        "model": row.model,
        "kind": row.kind,
        "input_tokens": use.input_tokens,
        "output_tokens": use.output_tokens,
        "cache_read_input_tokens": use.cache_read_input_tokens,
        "cache_write_5m_input_tokens": use.cache_write_input_tokens,
        "cache_write_1h_input_tokens": 0,
        "cost_nano_usd": use.cost_nano_usd,
        "estimated": False,
        "day": row.day,
        "end_time_ms": row.hour_since_1970 * HOUR_MS,
        "tier": row.tier,
    }


def _sum(by_day: bool, row: Spent) -> dict[str, object]:
    if by_day:
        return {"user_id": row.user_id, "day": row.day, "used": row.use.requests, **asdict(row.use)}
    return {"hour": row.hour_since_1970, "tier": row.tier, "model": row.model, "kind": row.kind, **asdict(row.use)}
