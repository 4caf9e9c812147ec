"""Time as an argument: production reads the machine's clock, tests move their own."""

from __future__ import annotations

import asyncio
import functools
import time
from datetime import UTC, date, datetime, timedelta
from typing import Protocol

DAY_MS = 86_400_000


class Clock(Protocol):
    """What code may know of time."""

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch, UTC."""
        ...

    async def sleep(self, delay_ms: float) -> None:
        """Returns after `delay_ms` milliseconds (at once if not positive)."""
        ...


class SystemClock:
    """The machine's clock."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    async def sleep(self, delay_ms: float) -> None:
        await asyncio.sleep(max(0.0, delay_ms) / 1000)


def utc_day(now_ms: int) -> str:
    """The UTC day of a moment, as YYYY-MM-DD."""
    return datetime.fromtimestamp(now_ms / 1000, UTC).date().isoformat()


@functools.lru_cache(maxsize=64)
def next_day_ms(day: str) -> int:
    """The moment at which the day after `day` begins."""
    after = date.fromisoformat(day) + timedelta(days=1)
    return int(datetime(after.year, after.month, after.day, tzinfo=UTC).timestamp() * 1000)


def next_month_ms(day: str) -> int:
    """The moment at which the month after that of `day` begins."""
    # The 31st day after the first of any month is in the next one.
    after = (date.fromisoformat(day).replace(day=1) + timedelta(days=31)).replace(day=1)
    return int(datetime(after.year, after.month, after.day, tzinfo=UTC).timestamp() * 1000)
