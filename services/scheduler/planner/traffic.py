"""Recorded traffic: a CSV file with one request a line."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from services.clock import DAY_MS
from services.scheduler.intake import DIAGRAM_TYPES
from services.scheduler.planner.drive import Answer, Arrival

HEADER = ("time", "user", "tier", "kind", "input_tokens", "output_tokens", "duration_ms")
MOST_REQUESTS = 500_000
"""A run of so many takes about five minutes and 1 GB."""
MOST_DAYS = 31
_MOST = {"input_tokens": 10_000_000, "output_tokens": 1_000_000, "duration_ms": 3_600_000}


_Row = tuple[int, str, str, str, int, Answer]


class TrafficError(Exception):
    """The traffic cannot be read; the text names the file, the line and the column."""


@dataclass(frozen=True)
class Traffic:
    """Who sends what when; times in ms since the first day's midnight (UTC)."""

    arrivals: Sequence[Arrival]
    users: Mapping[str, int]
    """By tier: those who pay, whether they send something or not."""
    days: int

    def answer(self, arrival: Arrival) -> Answer:
        """A drive's provider: each answer is as long as the traffic says."""
        if arrival.answer is None:
            raise ValueError("this arrival was not made by this module's readers")
        return arrival.answer


def read_traffic(path: Path, tiers: Collection[str]) -> Traffic:
    """Reads and checks all of it. `TrafficError` if a line is wrong."""
    rows: list[_Row] = []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = csv.reader(file, strict=True)
            if tuple(next(lines, ())) != HEADER:
                raise TrafficError(f"{path.name} line 1: the header must be {','.join(HEADER)}")
            for cells in lines:
                if len(rows) == MOST_REQUESTS:
                    raise TrafficError(f"{path.name} line {lines.line_num}: at most {MOST_REQUESTS} requests are read")
                rows.append(_row(f"{path.name} line {lines.line_num}", cells, tiers))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TrafficError(f"{path.name} cannot be read: {error}") from error
    if not rows:
        raise TrafficError(f"{path.name}: there is no request in it")
    return _from_midnight(path.name, rows)


def _from_midnight(name: str, rows: list[_Row]) -> Traffic:
    rows.sort(key=lambda row: row[0])
    midnight_ms = rows[0][0] // DAY_MS * DAY_MS
    days = (rows[-1][0] - midnight_ms) // DAY_MS + 1
    if days > MOST_DAYS:
        raise TrafficError(f"{name}: its requests lie {days} days apart; at most {MOST_DAYS} are read")
    arrivals = [
        Arrival(time_ms - midnight_ms, user, tier, input_tokens, kind=kind, answer=answer)
        for time_ms, user, tier, kind, input_tokens, answer in rows
    ]
    return Traffic(arrivals, Counter({a.user: a.tier for a in arrivals}.values()), days)


def _row(where: str, cells: Sequence[str], tiers: Collection[str]) -> _Row:
    if len(cells) != len(HEADER):
        raise TrafficError(f"{where}: it has {len(cells)} columns, not {len(HEADER)}")
    row = dict(zip(HEADER, cells, strict=True))
    for column, known in (("tier", tiers), ("kind", DIAGRAM_TYPES)):
        if row[column] not in known:
            raise TrafficError(f"{where}, {column}: '{row[column]}' is not one of {', '.join(sorted(known))}")
    if not 1 <= len(row["user"]) <= 128:
        raise TrafficError(f"{where}, user: must have 1 to 128 characters")
    input_tokens, output_tokens, took_ms = (_whole(where, column, row[column]) for column in _MOST)
    return (
        _time_ms(where, row["time"]), row["user"], row["tier"], row["kind"], input_tokens,
        Answer(output_tokens, took_ms),
    )  # fmt: skip


def _whole(where: str, column: str, text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) > _MOST[column]:
        raise TrafficError(f"{where}, {column}: must be a whole number from 0 to {_MOST[column]}, not '{text}'")
    return int(text)


def _time_ms(where: str, text: str) -> int:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise TrafficError(f"{where}, time: '{text}' is no time as 2026-11-24T09:30:00Z") from None
    # Without an offset it is UTC, as everything here is.
    return round((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000)


def time_text(time_ms: int) -> str:
    """A moment as the file has it."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
