"""The scheduler process: everything is made here and passed on."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from headgate.quota.v1.ledger_pb2_grpc import LedgerServiceStub
from headgate.quota.v1.quota_pb2_grpc import QuotaServiceStub
from headgate.scheduler.v1.scheduler_pb2_grpc import add_SchedulerServiceServicer_to_server

from services import process, sql, webhooks
from services.clock import Clock, SystemClock
from services.config import ConfigError
from services.ids import random_id
from services.pricing import read_prices
from services.rpc.channel import Tls, open_channel
from services.rpc.server import Server
from services.scheduler import line as line_module
from services.scheduler.account import Account
from services.scheduler.alert_webhook import AlertWebhook
from services.scheduler.alerts import Alerts
from services.scheduler.attempts import Attempts
from services.scheduler.audit import AuditOutbox
from services.scheduler.capacity import Capacity
from services.scheduler.dispatcher import Dispatcher
from services.scheduler.feed import Feed
from services.scheduler.generators import Generators
from services.scheduler.intake import Intake, Rules
from services.scheduler.keeper import Keeper
from services.scheduler.line import Identity, ValkeyLine
from services.scheduler.outbox import Outbox
from services.scheduler.places import Places
from services.scheduler.provider_plan import ProviderPlan
from services.scheduler.providers import PlanError, read_provider
from services.scheduler.rebuild import Rebuilder, SqlIdentity
from services.scheduler.sameness import Sameness
from services.scheduler.servicer import SERVICE, AuditOverGrpc, QuotaOverGrpc, SchedulerServicer, refusal_for
from services.scheduler.settings import MigrateSettings, Settings
from services.scheduler.spend import Spend
from services.scheduler.store import SqlRequests
from services.scheduler.sweeps import Sweeps
from services.scheduler.tally import SqlTally
from services.scheduler.watches import Watches
from services.settings import config_dir

MIGRATIONS = Path(__file__).parent / "migrations"
VERSION_TABLE = "scheduler_version"
SETTLE = "headgate.quota.v1.QuotaService/Settle"
RECORD_AUDIT = "headgate.quota.v1.LedgerService/RecordAudit"
LOOPS_END_S = 0.5
"""What a loop may take to notice that it is over; what they all do may be repeated, so a cancel then loses nothing."""


Loop = Callable[[asyncio.Event], Coroutine[Any, Any, None]]
"""Runs until the event is set."""


def main() -> None:
    """`headgate-scheduler` serves; `headgate-scheduler migrate` brings the schema up and exits."""
    if sys.argv[1:] == ["migrate"]:
        process.run("scheduler", MigrateSettings, migrate)
    else:
        process.run("scheduler", Settings, serve)


async def migrate(settings: MigrateSettings, _stopping: asyncio.Event) -> None:
    """Brings the schema up. StartError if the database cannot be used."""
    try:
        await asyncio.to_thread(sql.migrate, settings.database_url, MIGRATIONS, version_table=VERSION_TABLE)
    except Exception as error:
        raise process.StartError(f"HEADGATE_DATABASE_URL cannot be used: {type(error).__name__}.") from error


def read_rules(settings: Settings) -> Rules:
    """What config/ says, checked. StartError if it is wrong."""
    try:
        provider = read_provider(config_dir() / "providers.yaml", settings.provider_plan)
        prices = read_prices(config_dir() / "prices.yaml")
    except (PlanError, ConfigError) as error:
        raise process.StartError(f"HEADGATE_PROVIDER_PLAN or config/ is wrong: {error}.") from error
    for pool, models in provider.pools.items():
        for model in models:
            if model not in prices.models:
                raise process.StartError(f"prices.yaml has no price for {model}, which is in pool {pool}.")
    model = settings.model or prices.default_model
    if provider.pool_of(model) is None or model not in prices.models:
        raise process.StartError(f"HEADGATE_MODEL is wrong: '{model}' has no pool or no price in config/.")
    return Rules(
        provider, prices, model, settings.queue_length, settings.longest_wait_ms, Sameness(settings.cache_scope)
    )


@dataclass
class Parts:
    """What runs, made and connected."""

    server: Server
    attempts: Attempts
    watches: Watches
    keeper: Keeper
    dispatching: list[Loop]
    keep_on: list[Loop]
    """What ends attempts and tells of them: goes on until the last is written."""
    close: list[Callable[[], Awaitable[None]]]


async def serve(
    settings: Settings, stopping: asyncio.Event, random_fraction: Callable[[], float] = random.random
) -> None:
    """Runs until `stopping` is set, then drains. `random_fraction` spreads the backoffs."""
    parts = build(settings, read_rules(settings), open_database(settings), SystemClock(), random_fraction)
    # Usable from the first call on where it can be; where it cannot, requests are accepted all the same.
    await parts.keeper.check()
    over = asyncio.Event()
    loops = [asyncio.create_task(loop(stopping)) for loop in parts.dispatching]
    loops += [asyncio.create_task(loop(over)) for loop in parts.keep_on]
    try:
        await parts.server.start(settings.listen)
    except OSError as error:
        raise process.StartError(f"HEADGATE_LISTEN cannot be used: {error}.") from error
    await _until_any_ends([*loops, asyncio.create_task(stopping.wait())])
    # Also when a loop died: nothing may be begun that nobody sees to its end.
    stopping.set()
    parts.watches.end()
    await parts.server.drain(grace_s=2.0)
    await parts.attempts.drain(settings.drain_ms)
    over.set()
    await _end(loops)
    for close in parts.close:
        await close()


def build(
    settings: Settings, rules: Rules, database: sql.Database, clock: Clock, random_fraction: Callable[[], float]
) -> Parts:
    """Makes everything and passes it on; nothing runs yet."""
    tls, pools = _tls(settings), list(rules.provider.pools)
    requests, identity = SqlRequests(database, cache_ttl_ms=settings.cache_ttl_ms), Identity()
    client = line_module.connect(settings.redis_url, identity)
    alerts, sending = _alerts(settings, database, clock)
    spend = Spend(SqlTally(database), pools, settings.max_spend_nano_usd_per_day, clock=clock, alerts=alerts)
    line = ValkeyLine(client, identity, on_spent=spend.count)
    dispatchers: dict[str, Dispatcher] = {}

    def wake(pool: str | None = None) -> None:
        for dispatcher in [dispatchers[pool]] if pool in dispatchers else dispatchers.values():
            dispatcher.wake()

    to_quota = open_channel(settings.quota_address, tls=tls, safe_to_repeat=[SETTLE, RECORD_AUDIT])
    outbox = Outbox(requests, QuotaOverGrpc(QuotaServiceStub(to_quota)), clock)
    audited = AuditOutbox(database, AuditOverGrpc(LedgerServiceStub(to_quota)))
    plan = ProviderPlan(
        rules.provider, settings.overrides, database, clock, lambda: random_id("audit_"), on_audit=audited.poke
    )
    generators = Generators(settings.generator_addresses, settings.generator_slots, tls, wake)
    account = Account(line, generators, alerts, probe_every_ms=settings.account_probe_ms)
    places = Places(line, slots=lambda: generators.slots, clock=clock)
    capacity = Capacity(places, plan, alerts, database, clock)
    attempts = Attempts(
        requests, line, generators, account, rules.prices, clock=clock, random_fraction=random_fraction,
        timeout_ms=settings.attempt_timeout_ms, on_settlement=outbox.poke, on_refusal=capacity.refused,
    )  # fmt: skip
    intake = Intake(requests, line, rules, places, generators.count_tokens, spend, clock=clock)
    watches = Watches(requests, line, intake.places, clock=clock, on_ended=attempts.abandon)
    in_force = partial(_put_in_force, plan, spend)
    stored = SqlIdentity(database)
    rebuilder = Rebuilder(settings.redis_url, pools, identity, stored, requests, clock=clock, set_limits=in_force)
    keeper = Keeper(line, rebuilder, pools, on_ready=wake)
    sweeps = Sweeps(
        requests, line, attempts, rules.prices, pools,
        clock=clock, retention_days=settings.retention_days, on_settlement=outbox.poke,
    )  # fmt: skip
    for pool in pools:
        dispatchers[pool] = Dispatcher(
            line, pool, slots=lambda: generators.slots, free_slots=lambda: generators.free - attempts.beginning,
            begin=attempts.begin, on_trouble=keeper.suspect,
        )  # fmt: skip
    servicer = SchedulerServicer(
        intake, requests, line, watches, plan, capacity, alerts, clock=clock, on_settlement=outbox.poke
    )
    server = Server([SERVICE], refusal_for, tls=tls)
    add_SchedulerServiceServicer_to_server(servicer, server.grpc)
    feed = Feed(line, pools, watches, wake)
    return Parts(
        server, attempts, watches, keeper,
        dispatching=[dispatcher.run for dispatcher in dispatchers.values()],
        keep_on=[
            generators.run, feed.run, watches.run, keeper.run, sweeps.run, outbox.run, account.run, audited.run,
            capacity.run, partial(plan.run, line), partial(spend.run, line), *sending,
        ],
        close=[client.aclose, to_quota.close, database.close],
    )  # fmt: skip


async def _put_in_force(plan: ProviderPlan, spend: Spend, line: ValkeyLine) -> None:
    """All that must hold before anything is dispatched."""
    await plan.put(line)
    await spend.restore(line)


def _alerts(settings: Settings, database: sql.Database, clock: Clock) -> tuple[Alerts, list[Loop]]:
    """Alerts, and what sends them if there is somewhere to send them to. StartError if only half of it is set."""
    url, secret = settings.alert_webhook_url, settings.alert_webhook_secret
    if not (url or secret):
        return Alerts(database, clock, None), []
    if not (url and secret):
        raise process.StartError("HEADGATE_ALERT_WEBHOOK_URL and HEADGATE_ALERT_WEBHOOK_SECRET go together.")
    some = asyncio.Event()
    alerts = Alerts(database, clock, some.set)
    return alerts, [AlertWebhook(alerts, url, webhooks.secret(secret), clock, some).run]


async def _until_any_ends(tasks: list[asyncio.Task[Any]]) -> None:
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)


async def _end(loops: list[asyncio.Task[None]]) -> None:
    """Waits for the loops, cancels what hangs, and raises what one of them died of."""
    await asyncio.wait(loops, timeout=LOOPS_END_S)
    for loop in loops:
        loop.cancel()
    for result in await asyncio.gather(*loops, return_exceptions=True):
        if isinstance(result, Exception):
            raise result


def open_database(settings: Settings) -> sql.Database:
    """The database, migrated or checked. StartError if it cannot be used."""
    try:
        if settings.migrate_at_start:
            sql.migrate(settings.database_url, MIGRATIONS, version_table=VERSION_TABLE)
        sql.require_schema(settings.database_url, MIGRATIONS, version_table=VERSION_TABLE)
        return sql.connect(settings.database_url)
    except sql.SchemaOutdated as error:
        raise process.StartError(f"HEADGATE_DATABASE_URL: {error}.") from error
    except Exception as error:
        raise process.StartError(f"HEADGATE_DATABASE_URL cannot be used: {type(error).__name__}.") from error


def _tls(settings: Settings) -> Tls | None:
    files = (settings.tls_cert, settings.tls_key, settings.tls_ca)
    if not any(files):
        return None
    if not all(files):
        raise process.StartError("HEADGATE_TLS_CERT, HEADGATE_TLS_KEY and HEADGATE_TLS_CA go together.")
    return Tls(*(Path(str(file)) for file in files))


if __name__ == "__main__":
    main()
