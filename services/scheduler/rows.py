"""Rows of SQL as the domain's values, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, Select, select
from sqlalchemy.engine import RowMapping

from services.clock import DAY_MS
from services.pricing import Tokens
from services.scheduler import statements as sql
from services.scheduler.life import Code, Request, State, Turn
from services.scheduler.tables import requests

_PLAIN = [column.name for column in sql.LIGHT if column.name not in (*sql.TOKENS, "state", "code")]


def select_requests(*heavy: str) -> Select[Any]:
    """Every light column, and those heavy ones."""
    return select(*sql.LIGHT, *(requests.c[name] for name in heavy))


def request(row: RowMapping) -> Request:
    """A row that holds at least the light columns."""
    tokens = Tokens(*(row[name] for name in sql.TOKENS))
    heavy = {name: row[name] for name in sql.HEAVY if name in row}
    plain = {name: row[name] for name in _PLAIN}
    return Request(
        **plain, **heavy, state=State(row["state"]), code=Code(row["code"]) if row["code"] else None, tokens=tokens
    )


def one(connection: Connection, request_id: str, heavy: Sequence[str] = ("result",)) -> Request | None:
    """The row of that id."""
    return changed(connection, select_requests(*heavy).where(requests.c.request_id == request_id))


def many(connection: Connection, query: Select[Any], values: dict[str, Any] | None = None) -> list[Request]:
    """All rows of a query."""
    return [request(row) for row in connection.execute(query, values).mappings()]


def changed(connection: Connection, statement: Any, values: dict[str, Any] | None = None) -> Request | None:
    """The row that a statement changed or found."""
    row = connection.execute(statement, values).mappings().first()
    return request(row) if row else None


def settlement(
    row: Request, turns: Sequence[Turn] = (), *, final: bool, counted: bool, saved_nano_usd: int = 0
) -> dict[str, Any]:
    """What quota must hear, as a row of the outbox."""
    return {
        "request_id": row.request_id, "user_id": row.user_id, "final": final, "counted": counted,
        "kind": row.diagram_type, "turns": msgspec.json.encode(list(turns)).decode(),
        "pool": row.pool, "traceparent": row.traceparent, "day": row.day, "tier": row.tier, "model": row.model,
        "completed": final and row.state is State.COMPLETED, "cached": final and row.cached,
        "saved_nano_usd": saved_nano_usd,
        "cost_nano_usd": sum(turn.cost_nano_usd for turn in turns),
        "spent_day": turns[-1].ended_ms // DAY_MS if turns else 0,
    }  # fmt: skip
