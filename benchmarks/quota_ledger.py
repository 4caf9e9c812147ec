"""Reserving a place and settling what became of it, a second, against bare INSERTs of the same rows in the same run.

`python -m benchmarks.quota_ledger [--write FILE]`. Aim: within 2.5 times. All sides go through services/sql with as
many callers at once, so they share commits alike, into tables with the same indexes. A Reserve (the key looked up, the
limits checked, the day counted up, the reservation inserted) stands against the INSERT of a reservation and of a day; a
Settle of a batch (reservations ended, charges inserted, sums of days and of the hour added to) against the INSERT of as
many of each. A second peer inserts only what is new for good: the reservation, and the charges.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Table, insert

from benchmarks import report
from benchmarks.accept import DURABLE
from services import sql
from services.clock import SystemClock, utc_day
from services.ids import random_id
from services.pricing import read_prices
from services.quota import reservations, tables
from services.quota.__main__ import MIGRATIONS, VERSION_TABLE
from services.quota.accounts import Accounts
from services.quota.ledger import Ledger
from services.quota.model import Caller, Charge, Settlement, TierChange, Use
from services.quota.places import Places
from services.quota.plans import read_plans
from services.quota.ports import SchedulerUnreachable
from services.quota.reservations import Answer
from services.quota.store import SqlStore
from services.settings import config_dir
from tests.servers.postgres import start_server

ROUNDS, REQUESTS, USERS = 5, 4_000, 200
CALLERS = 64
"""At once, as from a few gateways under load."""
SETTLED = 100
"""In one Settle: what the scheduler's outbox gathers between two looks at several hundred requests a second."""
MODEL = "claude-sonnet-5-5"
HEADS = ("store", "what", "Headgate, a second", "INSERT of every row (times)", "of new rows alone (times)")
Work = Callable[[], Awaitable[object]]


class Nobody:
    """A scheduler that is never asked."""

    async def account(self, asked: Sequence[tuple[str, int]]) -> dict[str, Answer]:
        raise SchedulerUnreachable("not asked here")

    async def apply_tiers(self, changes: Sequence[TierChange]) -> None:
        raise SchedulerUnreachable("not told here")


class Side:
    """Quota's own parts on one database, and bare INSERTs on others with the same tables."""

    def __init__(self, ours: sql.Database, every_row: sql.Database, new_rows: sql.Database) -> None:
        clock, store = SystemClock(), SqlStore(ours)
        plans = read_plans((config_dir() / "plans.yaml").read_text(), "plans.yaml")
        self._accounts = Accounts(store, plans, clock, secrets.token_bytes)
        self._places = Places(store, plans, self._accounts, Nobody(), clock, b"benchmark")
        self._ledger = Ledger(store, read_prices(config_dir() / "prices.yaml"), clock)
        self._every_row, self._new_rows = every_row, new_rows
        self._keys: dict[str, str] = {}
        self._numbers = itertools.count()
        self.took_s: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
        """By what was done and by whom, of each round."""

    async def begin(self) -> None:
        """Creates the users."""
        for _ in range(USERS):
            user, _, key = await self._accounts.create_user("", "", "enterprise", "benchmark")
            self._keys[user.user_id] = key

    async def measure(self) -> None:
        """One round of each, after one another."""
        users = list(itertools.islice(itertools.cycle(self._keys), REQUESTS))
        pairs = [(random_id("req_"), user) for user in users]
        ends = [_end(id_, user) for id_, user in pairs]
        batches = [ends[first : first + SETTLED] for first in range(0, REQUESTS, SETTLED)]
        reserving = {"ours": self._reserve, "every row": self._insert_places, "new rows": self._insert_reservation}
        for who, reserve in reserving.items():
            self.took_s["Reserve", who].append(await _timed([reserve(*pair) for pair in pairs], CALLERS))
        settling = {"ours": self._settle, "every row": self._insert_ends, "new rows": self._insert_charges}
        for who, settle in settling.items():
            self.took_s["Settle", who].append(await _timed([settle(batch) for batch in batches], 1))

    def rows(self) -> list[list[str]]:
        """The table's."""
        for who in ("ours", "every row", "new rows"):
            both = zip(self.took_s["Reserve", who], self.took_s["Settle", who], strict=True)
            self.took_s["both", who] = [sum(pair) for pair in both]
        return [self._row(what) for what in ("Reserve", "Settle", "both")]

    def _row(self, what: str) -> list[str]:
        ours, every_row, new_rows = (
            REQUESTS / statistics.median(self.took_s[what, who]) for who in ("ours", "every row", "new rows")
        )
        return [what, f"{ours:,.0f}", *(f"{bare:,.0f} ({bare / ours:.2f})" for bare in (every_row, new_rows))]

    def _reserve(self, id_: str, user: str) -> Work:
        return lambda: self._places.reserve(Caller(api_key=self._keys[user]), id_, "")

    def _settle(self, ends: Sequence[Settlement]) -> Work:
        return lambda: self._ledger.settle(ends)

    def _insert_reservation(self, id_: str, user: str) -> Work:
        return self._insert(self._new_rows, [(tables.reservations, [_reservation(id_, user)])], fold=user)

    def _insert_places(self, id_: str, user: str) -> Work:
        rows = [(tables.reservations, [_reservation(id_, user)]), (tables.days, [self._day(user)])]
        return self._insert(self._every_row, rows, fold=user)

    def _insert_charges(self, ends: Sequence[Settlement]) -> Work:
        return self._insert(self._new_rows, [(tables.charges, _charges(ends))])

    def _insert_ends(self, ends: Sequence[Settlement]) -> Work:
        # An INSERT of what is updated there needs a key that is new.
        hour = {"hour": next(self._numbers), "tier": "", "model": MODEL, "kind": ""}
        rows = [
            (tables.reservations, [_reservation(end.request_id + "'", end.user_id) for end in ends]),
            (tables.charges, _charges(ends)),
            (tables.days, [self._day(user) for user in {end.user_id for end in ends}]),
            (tables.hours, [hour | vars(Use())]),
        ]
        return self._insert(self._every_row, rows)

    def _day(self, user: str) -> dict[str, object]:
        return {"user_id": user, "day": str(next(self._numbers)), "used": 1} | vars(Use())

    def _insert(self, database: sql.Database, rows: Sequence[tuple[Table, list[Any]]], fold: str = "") -> Work:
        def run(connection: Connection) -> None:
            for table, values in rows:
                connection.execute(INSERTS[table], values)

        return lambda: database.write(run, fold=fold)


TABLES = (tables.reservations, tables.charges, tables.days, tables.hours)
INSERTS = {table: insert(table) for table in TABLES}


def _reservation(id_: str, user: str) -> dict[str, object]:
    now_ms = time.time_ns() // 1_000_000
    return vars(reservations.first(id_, user, utc_day(now_ms), now_ms))


def _charges(ends: Sequence[Settlement]) -> list[dict[str, object]]:
    return [dict(vars(charge)) for end in ends for charge in end.charges]


def _end(id_: str, user: str) -> Settlement:
    now_ms = time.time_ns() // 1_000_000
    charge = Charge(
        request_id=id_, attempt=1, turn=1, user_id=user, model=MODEL, kind="flowchart", input_tokens=500,
        output_tokens=800, cache_read_input_tokens=1_200, cache_write_5m_input_tokens=0, cache_write_1h_input_tokens=0,
        cost_nano_usd=9_120_000, estimated=False, day=utc_day(now_ms), end_time_ms=now_ms, tier="enterprise",
    )  # fmt: skip
    return Settlement(id_, user, True, [charge], "enterprise", completed=True, kind="flowchart", model=MODEL)


async def _timed(work: Sequence[Work], callers: int) -> float:
    """Seconds that all of it takes that many at once."""
    waiting: Iterator[Work] = iter(work)

    async def call() -> None:
        for one in waiting:
            await one()

    begun_s = time.perf_counter()
    await asyncio.gather(*(call() for _ in range(callers)))
    return time.perf_counter() - begun_s


async def measure(write: Path | None) -> None:
    """All of it."""
    rows: list[list[str]] = []
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="hg-ledger-"))
        postgres = start_server(**DURABLE)
        stack.callback(postgres.stop)
        urls = {"SQLite": [f"sqlite:///{folder}/{name}.db" for name in "abc"]}
        urls["PostgreSQL"] = [postgres.url(postgres.create()) for _ in "abc"]
        for store, places in urls.items():
            for url in places:
                sql.migrate(url, MIGRATIONS, version_table=VERSION_TABLE)
            databases = [sql.connect(url) for url in places]
            side = Side(*databases)
            await side.begin()
            for _ in range(ROUNDS):
                await side.measure()
            rows += [[store, *cells] for cells in side.rows()]
            for database in databases:
                await database.close()
    title = f"{CALLERS} callers, {SETTLED} requests in a Settle, median of {ROUNDS} rounds of {REQUESTS:,}"
    report.publish(write, "quota-ledger", title, HEADS, rows)


def main() -> None:
    """Measures and prints."""
    asyncio.run(measure(report.parser(__doc__).parse_args().write))


if __name__ == "__main__":
    main()
