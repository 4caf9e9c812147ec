"""Reserving a place and settling what became of it, a second, against bare INSERTs of the same rows in the same run.

`python -m benchmarks.quota_ledger [--write FILE]`. Aim: within 2.5 times. Both sides go through services/sql with as
many callers at once, so they share commits alike: a Reserve (the key looked up, the limits checked, the day's row
counted up, the reservation inserted) against the INSERT of a reservation; a Settle of a batch (reservations ended,
charges inserted, sums of days and hours added to) against the INSERT of its charges; in tables with the same indexes.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sqlalchemy import Connection, insert

from benchmarks import report
from benchmarks.accept import DURABLE
from services import sql
from services.clock import SystemClock, utc_day
from services.ids import random_id
from services.pricing import read_prices
from services.quota import reservations
from services.quota.__main__ import MIGRATIONS, VERSION_TABLE
from services.quota.accounts import Accounts
from services.quota.ledger import Ledger
from services.quota.model import Caller, Charge, Settlement, TierChange
from services.quota.places import Places
from services.quota.plans import read_plans
from services.quota.ports import SchedulerUnreachable
from services.quota.reservations import Answer
from services.quota.store import SqlStore
from services.quota.tables import charges
from services.quota.tables import reservations as reservation_rows
from services.settings import config_dir
from tests.servers.postgres import start_server

ROUNDS, REQUESTS, USERS = 5, 4_000, 200
CALLERS = 64
"""At once, as from a few gateways under load."""
SETTLED = 100
"""In one Settle: what the scheduler's outbox gathers between two looks at several hundred requests a second."""
MODEL = "claude-sonnet-5-5"
HEADS = ("store", "what", "Headgate, a second", "bare INSERT, a second", "times")
Work = Callable[[], Awaitable[object]]


class Nobody:
    """A scheduler that is never asked."""

    async def account(self, asked: Sequence[tuple[str, int]]) -> dict[str, Answer]:
        raise SchedulerUnreachable("not asked here")

    async def apply_tiers(self, changes: Sequence[TierChange]) -> None:
        raise SchedulerUnreachable("not told here")


@dataclass
class Rates:
    """Of each round, requests a second."""

    ours: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)

    def cells(self) -> list[str]:
        ours, bare = statistics.median(self.ours), statistics.median(self.bare)
        return [f"{ours:,.0f}", f"{bare:,.0f}", f"{bare / ours:.2f}"]


class Side:
    """Quota's own parts on one database, and bare INSERTs on another with the same tables."""

    def __init__(self, database: sql.Database, other: sql.Database) -> None:
        clock, store = SystemClock(), SqlStore(database)
        plans = read_plans((config_dir() / "plans.yaml").read_text(), "plans.yaml")
        self._accounts = Accounts(store, plans, clock, secrets.token_bytes)
        self._places = Places(store, plans, self._accounts, Nobody(), clock, b"benchmark")
        self._ledger = Ledger(store, read_prices(config_dir() / "prices.yaml"), clock)
        self._other = other
        self._keys: dict[str, str] = {}
        self.reserving, self.settling, self.both = Rates(), Rates(), Rates()

    async def begin(self) -> None:
        """Creates the users."""
        for _ in range(USERS):
            user, _, key = await self._accounts.create_user("", "", "enterprise", "benchmark")
            self._keys[user.user_id] = key

    async def measure(self) -> None:
        """One round of each, after one another."""
        users = list(itertools.islice(itertools.cycle(self._keys), REQUESTS))
        ids = [random_id("req_") for _ in users]
        ends = [_end(id_, user) for id_, user in zip(ids, users, strict=True)]
        batches = [ends[first : first + SETTLED] for first in range(0, REQUESTS, SETTLED)]
        ours = [
            await _timed([self._reserve(*pair) for pair in zip(ids, users, strict=True)], CALLERS),
            await _timed([self._settle(batch) for batch in batches], 1),
        ]
        bare = [
            await _timed([self._insert_one(*pair) for pair in zip(ids, users, strict=True)], CALLERS),
            await _timed([self._insert_charges(batch) for batch in batches], 1),
        ]
        for rates, took, least in zip((self.reserving, self.settling), ours, bare, strict=True):
            rates.ours.append(REQUESTS / took)
            rates.bare.append(REQUESTS / least)
        self.both.ours.append(REQUESTS / sum(ours))
        self.both.bare.append(REQUESTS / sum(bare))

    def _reserve(self, id_: str, user: str) -> Work:
        return lambda: self._places.reserve(Caller(api_key=self._keys[user]), id_, "")

    def _settle(self, ends: Sequence[Settlement]) -> Work:
        return lambda: self._ledger.settle(ends)

    def _insert_one(self, id_: str, user: str) -> Work:
        now_ms = time.time_ns() // 1_000_000
        values = asdict(reservations.first(id_, user, utc_day(now_ms), now_ms))

        def run(connection: Connection) -> None:
            connection.execute(INSERT_RESERVATION, values)

        return lambda: self._other.write(run, fold=user)

    def _insert_charges(self, ends: Sequence[Settlement]) -> Work:
        values = [asdict(charge) for end in ends for charge in end.charges]

        def run(connection: Connection) -> None:
            connection.execute(INSERT_CHARGES, values)

        return lambda: self._other.write(run)


INSERT_RESERVATION, INSERT_CHARGES = insert(reservation_rows), insert(charges)


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
        urls = {"SQLite": [f"sqlite:///{folder}/{name}.db" for name in "ab"]}
        urls["PostgreSQL"] = [postgres.url(postgres.create()) for _ in "ab"]
        for store, pair in urls.items():
            for url in pair:
                sql.migrate(url, MIGRATIONS, version_table=VERSION_TABLE)
            databases = [sql.connect(url) for url in pair]
            side = Side(*databases)
            await side.begin()
            for _ in range(ROUNDS):
                await side.measure()
            for what, rates in (("Reserve", side.reserving), ("Settle", side.settling), ("both", side.both)):
                rows.append([store, what, *rates.cells()])
            for database in databases:
                await database.close()
    title = f"{CALLERS} callers, {SETTLED} requests in a Settle, median of {ROUNDS} rounds of {REQUESTS:,}"
    report.publish(write, "quota-ledger", title, HEADS, rows)


def main() -> None:
    """Measures and prints."""
    asyncio.run(measure(report.parser(__doc__).parse_args().write))


if __name__ == "__main__":
    main()
