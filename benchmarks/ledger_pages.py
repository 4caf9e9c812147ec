"""How long each page of the administrator takes on PostgreSQL with millions of charges, all within 30 days, by 10,000
users; with --audit also how long it takes to audit them all.

The rows are made in the run. `python -m benchmarks.ledger_pages [--rows N] [--audit] [--write FILE]`.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import psutil
from sqlalchemy import Connection, text

from benchmarks.report import parser, publish
from services import sql
from services.clock import DAY_MS, Clock, SystemClock, utc_day
from services.pricing import PriceList, read_prices
from services.quota.audit import Audit
from services.quota.audit_books import SqlBooks
from services.quota.economics import Economics
from services.quota.model import UsageQuery, UsersQuery
from services.quota.plans import read_plans
from services.quota.reports import Reports
from services.quota.store import SqlStore
from services.settings import config_dir
from tests.servers.postgres import PostgresServer, start_server
from tests.servers.quota import migrate

USERS = 10_000
DAYS = 30
TIERS = "ARRAY['free', 'basic', 'pro', 'enterprise']"
MODELS = ("claude-sonnet-5-5", "claude-opus-5-5", "claude-haiku-4-5")
KINDS = 17
TRIES = 9
NOON_MS = 1_796_040_000_000
"""2026-11-30T12:00:00Z, so that a month is looked at."""
AIM_MS = 200


class Noon:
    """A clock that stands."""

    def now_ms(self) -> int:
        return NOON_MS

    async def sleep(self, delay_ms: float) -> None:
        await SystemClock().sleep(delay_ms)


def main() -> None:
    """Measures and prints."""
    arguments = parser(__doc__)
    arguments.add_argument("--rows", type=int, default=10_000_000)
    arguments.add_argument("--audit", action="store_true", help="also time an audit, some minutes")
    options = arguments.parse_args()
    server = start_server(shared_buffers="256MB")
    try:
        rows = asyncio.run(_measure(server, options.rows, audit=options.audit))
    finally:
        server.stop()
    title = f"{options.rows:,} charges of {USERS:,} users in {DAYS} days; {TRIES} times each"
    heads = ["page", "median", "slowest", "CPU", f"median under {AIM_MS} ms"]
    publish(options.write, "ledger-pages", title, heads, rows)


async def _measure(server: PostgresServer, rows: int, *, audit: bool) -> list[list[str]]:
    url = server.url(server.create())
    await asyncio.to_thread(migrate, url)
    prices = replace(read_prices(config_dir() / "prices.yaml"), in_force_from="2026-01-01")
    begun = time.perf_counter()
    await asyncio.to_thread(_fill, url, rows, prices)
    print(f"filled in {time.perf_counter() - begun:.0f} s")
    database = sql.connect(url)
    try:
        pages = await _pages(SqlStore(database), Noon())
        lines = [await _timed(name, page, server) for name, page in pages.items()]
    finally:
        await database.close()
    return [*lines, await asyncio.to_thread(_audited, url, prices)] if audit else lines


async def _pages(store: SqlStore, clock: Clock) -> dict[str, Callable[[], Awaitable[Any]]]:
    reports = Reports(store, clock)
    plans = read_plans((config_dir() / "plans.yaml").read_text(), "plans.yaml")
    economics = Economics(store, plans, clock)
    tokens, token = [""], (await reports.users(UsersQuery("cost", DAYS, 1000), ""))[1]
    while token:
        tokens.append(token)
        token = (await reports.users(UsersQuery("cost", DAYS, 1000), token))[1]
    assert len(tokens) == USERS // 1000

    def users(query: UsersQuery, after: str = "") -> Callable[[], Awaitable[Any]]:
        return lambda: reports.users(query, after)

    def usage(query: UsageQuery) -> Callable[[], Awaitable[Any]]:
        return lambda: reports.usage(query)

    return {
        "users by cost, first 100": users(UsersQuery("cost", DAYS, 100)),
        "users by requests, first 1,000": users(UsersQuery("requests", DAYS, 1000)),
        "users by tokens, first 1,000": users(UsersQuery("tokens", DAYS, 1000)),
        "users by cost, last 1,000": users(UsersQuery("cost", DAYS, 1000), tokens[-1]),
        "users by cost today, first 1,000": users(UsersQuery("cost", 1, 1000)),
        "users of a tier by cost": users(UsersQuery("cost", DAYS, 100, tier="pro")),
        "users by the beginning of their id": users(UsersQuery("cost", DAYS, 100, prefix="user0123")),
        "use by day": usage(UsageQuery(DAYS, False, "")),
        "use by day and model": usage(UsageQuery(DAYS, False, "model")),
        "use by hour and tier": usage(UsageQuery(DAYS, True, "tier")),
        "use by hour and kind": usage(UsageQuery(DAYS, True, "kind")),
        "economics": lambda: economics.report(DAYS, 10),
        "statement, first 1,000 users": lambda: economics.statement("2026-11", 1000, ""),
    }


async def _timed(name: str, page: Callable[[], Awaitable[Any]], server: PostgresServer) -> list[str]:
    await page()
    taken_ms = []
    cpu_begun_s = _cpu_s(server)
    for _ in range(TRIES):
        begun = time.perf_counter()
        await page()
        taken_ms.append((time.perf_counter() - begun) * 1000)
    median, slowest = statistics.median(taken_ms), max(taken_ms)
    cpu_ms = (_cpu_s(server) - cpu_begun_s) / TRIES * 1000
    return [name, f"{median:.0f} ms", f"{slowest:.0f} ms", f"{cpu_ms:.0f} ms", "yes" if median < AIM_MS else "no"]


def _cpu_s(server: PostgresServer) -> float:
    """What PostgreSQL and this process have used; of workers that ended their parent knows."""
    parent = psutil.Process(server.process.pid)
    processes = [psutil.Process(), parent, *parent.children(recursive=True)]
    return sum(sum(process.cpu_times()[:4]) for process in processes)


def _audited(url: str, prices: PriceList) -> list[str]:
    begun = time.perf_counter()
    with sql.snapshot(url) as connection:
        found = list(Audit(SqlBooks(connection), prices).differences())
    assert not found, found[:5]
    taken_s = f"{time.perf_counter() - begun:.0f} s"
    return ["the whole audit, once", taken_s, taken_s, "", ""]


def _fill(url: str, rows: int, prices: PriceList) -> None:
    engine = sql.connect_for_migration(url)
    with engine.begin() as connection:
        _fill_users(connection)
        _fill_charges(connection, rows, prices)
        _fill_sums(connection, prices)
        _fill_revenue(connection)
    with engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("VACUUM (ANALYZE)"))
    engine.dispose()


def _fill_users(connection: Connection) -> None:
    connection.execute(
        text(
            "INSERT INTO quota_users (user_id, email, tier, tier_version, status, create_time_ms)"
            f" SELECT 'user' || lpad(u::text, 5, '0'), u || '@example.org', ({TIERS})[u % 4 + 1], 1, 'active', 0"
            f" FROM generate_series(0, {USERS - 1}) u"
        )
    )
    connection.execute(
        text(
            "INSERT INTO quota_terms (user_id, from_ms, tier) SELECT user_id, 0, tier FROM quota_users ORDER BY user_id"
        )
    )


def _fill_charges(connection: Connection, rows: int, prices: PriceList) -> None:
    first_ms, span_ms = (NOON_MS // DAY_MS - DAYS + 1) * DAY_MS, DAYS * DAY_MS - DAY_MS // 2
    models = f"(ARRAY{list(MODELS)})[i % {len(MODELS)} + 1]"
    cost = "input * {0.input} + output * {0.output} + 1000 * {0.cache_read}"
    priced = " ".join(f"WHEN {n} THEN {cost.format(prices.by_model[m].usual)}" for n, m in enumerate(MODELS))
    connection.execute(
        text(
            f"INSERT INTO quota_charges SELECT 'req_' || lpad(i::text, 22, '0'), 1, 1,"
            f" 'user' || lpad((i % {USERS})::text, 5, '0'), {models}, 'kind' || i / 7 % {KINDS}, input, output, 1000,"
            f" 0, 0, CASE i % {len(MODELS)} {priced} END, false,"
            f" to_char(to_timestamp(ms / 1000) AT TIME ZONE 'UTC', 'YYYY-MM-DD'), ms,"
            f" ({TIERS})[i % {USERS} % 4 + 1], true"
            f" FROM (SELECT i, 200 + i % 800 AS input, 300 + i % 1500 AS output,"
            f" {first_ms} + i * {span_ms} / {rows} AS ms FROM generate_series(0::bigint, {rows - 1}) i) each"
        )
    )


def _fill_sums(connection: Connection, prices: PriceList) -> None:
    names = "requests, completed, input_tokens, output_tokens, cache_read_input_tokens, cost_nano_usd"
    saved = {m: prices.by_model[m].usual.input - prices.by_model[m].usual.cache_read for m in MODELS}
    cases = " ".join(f"WHEN '{m}' THEN cache_read_input_tokens * {each}" for m, each in saved.items())
    sums = (
        "count(*), count(*), sum(input_tokens), sum(output_tokens), sum(cache_read_input_tokens), sum(cost_nano_usd),"
        f" sum(CASE model {cases} END)"
    )
    names += ", saved_by_prompt_cache_nano_usd"
    for table, keys, of_keys in (
        ("days", "used, user_id, day", "0, user_id, day"),
        ("hours", "hour, tier, model, kind", "end_time_ms / 3600000, tier, model, kind"),
    ):
        chosen = f"SELECT {of_keys}, {sums} FROM quota_charges GROUP BY {of_keys.removeprefix('0, ')}"
        connection.execute(text(f"INSERT INTO quota_{table} ({keys}, {names}) {chosen}"))


def _fill_revenue(connection: Connection) -> None:
    today = utc_day(NOON_MS)
    connection.execute(
        text(
            "INSERT INTO quota_revenue SELECT day, user_id, tier, 500000000 FROM quota_users,"
            f" (SELECT DISTINCT day FROM quota_days WHERE day < '{today}') days WHERE tier <> 'free'"
        )
    )
    connection.execute(
        text(
            f"INSERT INTO quota_tier_days SELECT day, tier, {USERS // 4}, CASE tier WHEN 'free' THEN 0 ELSE"
            f" {USERS // 4} * 500000000::bigint END FROM unnest({TIERS}) tier,"
            f" (SELECT DISTINCT day FROM quota_days WHERE day < '{today}') days"
        )
    )


if __name__ == "__main__":
    main()
