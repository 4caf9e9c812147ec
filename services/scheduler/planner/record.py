"""Traffic out of the scheduler's SQL: no prompts, no answers, and users as u1, u2 in order of appearance."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from sqlalchemy import Connection, func, select

from services import sql
from services.scheduler.planner.traffic import HEADER, time_text
from services.scheduler.tables import requests

FETCHED = 1_000
"""Rows at a time: the history may be larger than memory."""
ATTEMPT_MS = 20_000
"""Of an attempt, where none was ever completed."""
_r = requests.c
_COLUMNS = (
    _r.accepted_ms, _r.user_id, _r.tier, _r.diagram_type, _r.state, _r.output_tokens, _r.started_ms, _r.ended_ms,
    (_r.input_tokens + _r.cache_write_5m_tokens + _r.cache_write_1h_tokens).label("counted_input"),
    _r.estimated_input_tokens, _r.estimated_output_tokens,
)  # fmt: skip


async def record(database: sql.Database, since_ms: int, file: TextIO) -> int:
    """Writes what was accepted since then, as `read_traffic` reads it; the number of requests.

    Left out are those that were given an answer others had got: they load no provider. Of those that did not complete
    it says what was assumed.
    """
    return await database.read(lambda connection: _write(connection, since_ms, file))


def _write(connection: Connection, since_ms: int, file: TextIO) -> int:
    wanted = (_r.accepted_ms >= since_ms) & ~_r.cached
    mean = select(func.avg(_r.ended_ms - _r.started_ms)).where(wanted, _r.state == "completed")
    usual_ms = round(connection.execute(mean).scalar() or ATTEMPT_MS)
    rows = connection.execution_options(yield_per=FETCHED).execute(
        select(*_COLUMNS).where(wanted).order_by(_r.acceptance)
    )
    lines, written = csv.writer(file, lineterminator="\n"), 0
    lines.writerow(HEADER)
    for written, line in enumerate(_lines(rows, usual_ms), 1):  # noqa: B007
        lines.writerow(line)
    return written


def _lines(rows: Iterable[Any], usual_ms: int) -> Iterator[tuple[object, ...]]:
    names: dict[str, str] = {}
    for row in rows:
        user = names.setdefault(row.user_id, f"u{len(names) + 1}")
        figures = (row.estimated_input_tokens, row.estimated_output_tokens, usual_ms)
        if row.state == "completed":
            figures = (row.counted_input, row.output_tokens, row.ended_ms - row.started_ms)
        yield (time_text(row.accepted_ms), user, row.tier, row.diagram_type, *figures)
