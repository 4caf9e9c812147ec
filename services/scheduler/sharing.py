"""One answer for all who asked the same, in SQL: later ones find it, those that wait end with it.

A row keeps its cache_key as long as others can have something of it: while it waits or runs, and afterwards if its own
answer may be given again. So the index holds nothing else, and an erased answer is found by nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, select, update

from services.scheduler import rows
from services.scheduler import statements as sql
from services.scheduler.life import End, Request, State
from services.scheduler.sameness import BATCH, shared
from services.scheduler.tables import requests

_ANSWER = ("result", "svg", "has_svg", "truncated")
_ENDING = (*_ANSWER, "state", "code", "error", "cached", "counted", "ended_ms")

ANSWER = select(*(requests.c[name] for name in (*_ANSWER, "cost_nano_usd"))).where(
    requests.c.acceptance == bindparam("source"), requests.c.result != ""
)
_asking = requests.alias("asking")
SOURCE = sql.by_key(
    select(_asking.c.cache_key)
    .where(_asking.c.request_id == bindparam("id"), _asking.c.state == "queued")
    .where(_asking.c.attempt == bindparam("of_attempt"))
    .scalar_subquery()
)


def _ending(which: ColumnElement[bool]) -> Any:
    queued = requests.c.state == "queued"
    # The last first: see `Equals.tell`.
    batch = select(requests.c.acceptance).where(which, queued).order_by(requests.c.acceptance.desc()).limit(BATCH)
    # What another transaction holds is just ending otherwise or being begun: neither may be waited for. A CTE, because
    # PostgreSQL runs a subquery that locks as often as it likes, and each run finds a batch of its own.
    chosen = batch.with_for_update(skip_locked=True).cte("batch")
    return (
        update(requests)
        .where(requests.c.acceptance.in_(select(chosen.c.acceptance)), queued)
        .values({name: bindparam(f"new_{name}") for name in _ENDING})
        .values(cache_key=None)
        .returning(*sql.LIGHT)
    )


_equal = requests.c.cache_key == bindparam("key")
END_EQUALS = _ending(_equal)
END_PARKED = _ending(_equal & requests.c.request_id.in_(bindparam("parked", expanding=True)))
END_ONE = _ending(requests.c.request_id == bindparam("id"))
FORGET = update(requests).where(requests.c.acceptance == bindparam("row")).values(cache_key=None)


GIVEN = (*_ANSWER, "cached", "ended_ms")
"""Columns of a row that begins at its end."""


def answered(connection: Connection, request: Request, source: int, now_ms: int) -> tuple[Request, int] | None:
    """A request that is just being accepted, with the answer of the row of that number, and what that had cost.

    None if it was erased now.
    """
    row = connection.execute(ANSWER, {"source": source}).mappings().first()
    if row is None:
        return None
    answer = {name: row[name] for name in _ANSWER}
    ended = replace(request, **answer, state=State.COMPLETED, cached=True, ended_ms=now_ms, cache_key=None)
    return ended, row["cost_nano_usd"]


def found(connection: Connection, named: dict[str, Any]) -> Request | None:
    """Completes a queued request that was to begin, by an answer that an equal one got since this was accepted.

    That is rare: the two passed each other, or whoever shared the answer died after its first batch.
    """
    source = connection.execute(SOURCE, named).scalar()
    answer = connection.execute(ANSWER, {"source": source}).mappings().first() if source else None
    if answer is None:
        return None
    end = End(State.COMPLETED, result=answer["result"], svg=answer["svg"], truncated=answer["truncated"])
    ended = _end(connection, END_ONE, {"id": named["id"]}, end, named["now_ms"], answer["cost_nano_usd"])
    return ended[0] if ended else None


def share(connection: Connection, request: Request, end: End, parked: Sequence[str], now_ms: int) -> list[Request]:
    """Ends a batch of those that are queued and equal: all if the request completed, else of the parked ones."""
    if request.cache_key is None or not shared(end):
        return []
    named: dict[str, Any] = {"key": request.cache_key}
    if end.state is State.COMPLETED:
        return _end(connection, END_EQUALS, named, end, now_ms, request.cost_nano_usd)
    return _end(connection, END_PARKED, named | {"parked": list(parked)}, end, now_ms, 0)


def _end(
    connection: Connection, statement: Any, named: dict[str, Any], end: End, now_ms: int, saved_nano_usd: int
) -> list[Request]:
    completed = end.state is State.COMPLETED
    new = {
        "state": end.state.value, "code": end.code.value if end.code else None, "error": end.error,
        "result": end.result, "svg": end.svg, "has_svg": bool(end.svg), "truncated": end.truncated,
        "cached": completed, "counted": completed, "ended_ms": now_ms,
    }  # fmt: skip
    found = connection.execute(statement, named | {f"new_{name}": value for name, value in new.items()}).mappings()
    ended = [rows.request(row) for row in found]
    if ended:
        connection.execute(
            sql.TELL_QUOTA,
            [rows.settlement(r, final=True, counted=completed, saved_nano_usd=saved_nano_usd) for r in ended],
        )
    return ended
