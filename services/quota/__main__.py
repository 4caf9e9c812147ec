"""The quota process: `python -m services.quota` serves, `… migrate` brings the schema up and exits, `… audit` checks
that all that is kept agrees."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import grpc
from headgate.quota.v1 import billing_pb2_grpc, ledger_pb2_grpc, quota_pb2_grpc
from sqlalchemy.exc import SQLAlchemyError

from services import process, sql
from services.clock import Clock, SystemClock
from services.config import ConfigError
from services.ids import derived_key
from services.pricing import PriceList, read_prices
from services.process import StartError
from services.quota import billing_servicer, ledger_servicer
from services.quota.accounts import Accounts
from services.quota.audit import Audit
from services.quota.audit_books import SqlBooks
from services.quota.audit_log import AuditLog
from services.quota.billing_events import BillingEvents
from services.quota.closing import Closing
from services.quota.economics import Economics
from services.quota.ledger import Ledger
from services.quota.places import Places
from services.quota.plans import Plans, read_plans
from services.quota.ports import Store
from services.quota.refusals import refusal_for
from services.quota.reports import Reports
from services.quota.resolver import Resolver
from services.quota.scheduler_client import REPEATABLE, GrpcScheduler
from services.quota.servicer import NAME, QuotaServicer
from services.quota.settings import MigrateSettings, Settings
from services.quota.store import SqlStore
from services.quota.tier_changes import TierChangeDelivery
from services.rpc.channel import open_channel
from services.rpc.server import Server
from services.settings import config_dir

MIGRATIONS = Path(__file__).parent / "migrations"
VERSION_TABLE = "quota_version"
SCHEDULER_DEADLINE_S = 5.0
MOST_SHOWN = 100
"""Rows that an audit prints."""
log = logging.getLogger(__name__)


def main() -> None:
    """The command `headgate-quota`."""
    if sys.argv[1:] == ["migrate"]:
        process.run("quota", MigrateSettings, _migrate)
    elif sys.argv[1:] == ["audit"]:
        process.run("quota", MigrateSettings, _audit)
    elif sys.argv[1:]:
        print("headgate-quota: the subcommands are migrate and audit.", file=sys.stderr)  # noqa: T201
        sys.exit(process.USAGE_ERROR)
    else:
        process.run("quota", Settings, serve)


@dataclass(frozen=True)
class Service:
    """The parts of the process that run."""

    server: Server
    resolver: Resolver
    tier_changes: TierChangeDelivery
    closing: Closing


def build(
    settings: Settings,
    plans: Plans,
    prices: PriceList,
    store: Store,
    scheduler_channel: grpc.aio.Channel,
    clock: Clock,
) -> Service:
    """Wires the parts together; starts none."""
    scheduler = GrpcScheduler(scheduler_channel, plans)
    accounts = Accounts(store, plans, clock, secrets.token_bytes)
    places = Places(store, plans, accounts, scheduler, clock, derived_key(settings.secret, "request-id"))
    names = [NAME, ledger_servicer.NAME, billing_servicer.NAME]
    server = Server(names, refusal_for, tls=settings.tls)
    ledger = Ledger(store, prices, clock)
    servicer = QuotaServicer(accounts, places, ledger, plans)
    quota_pb2_grpc.add_QuotaServiceServicer_to_server(servicer, server.grpc)
    answers = ledger_servicer.LedgerServicer(AuditLog(store), Economics(store, plans, clock), Reports(store, clock))
    ledger_pb2_grpc.add_LedgerServiceServicer_to_server(answers, server.grpc)
    billing = billing_servicer.BillingServicer(BillingEvents(store, plans, accounts, clock, settings.stripe_secrets))
    billing_pb2_grpc.add_BillingServiceServicer_to_server(billing, server.grpc)
    closing = Closing(store, plans, clock, ledger)
    return Service(server, Resolver(store, places, clock), TierChangeDelivery(store, scheduler, clock), closing)


async def serve(settings: Settings, stopping: asyncio.Event) -> None:
    """Serves until `stopping` is set, then drains: calls finish, loops end, the database closes."""
    plans, prices = _read_plans(settings.plans_file), _read_prices()
    await _prepare_schema(settings.database_url, migrate=settings.migrate_at_start)
    async with contextlib.AsyncExitStack() as stack:
        database = sql.connect(settings.database_url)
        stack.push_async_callback(database.close)
        store = SqlStore(database)
        await _check_tiers(store, plans, settings.plans_file)
        channel = await stack.enter_async_context(
            open_channel(
                settings.scheduler_address, tls=settings.tls, deadline_s=SCHEDULER_DEADLINE_S, safe_to_repeat=REPEATABLE
            )
        )
        service = build(settings, plans, prices, store, channel, SystemClock())
        for loop in (service.resolver.run(), service.tier_changes.run(), service.closing.run()):
            stack.push_async_callback(_stop, asyncio.create_task(loop))
        try:
            await service.server.start(settings.listen)
        except OSError as error:
            raise StartError(f"HEADGATE_LISTEN is wrong: {error}.") from error
        log.info("serving on %s", settings.listen)
        await stopping.wait()
        await service.server.drain()


async def _migrate(settings: MigrateSettings, _stopping: asyncio.Event) -> None:
    await _prepare_schema(settings.database_url, migrate=True)
    log.info("the schema is up to date")


async def _audit(settings: MigrateSettings, _stopping: asyncio.Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        # It only reads: whoever wants it to stop may end it anywhere.
        asyncio.get_running_loop().remove_signal_handler(number)
    prices = _read_prices()
    await _prepare_schema(settings.database_url, migrate=False)
    with sql.snapshot(settings.database_url) as connection:
        audit, found = Audit(SqlBooks(connection), prices), 0
        for difference in audit.differences():
            found += 1
            if found <= MOST_SHOWN:
                print(difference)  # noqa: T201
    more = f", of which {MOST_SHOWN} are shown" if found > MOST_SHOWN else ""
    verdict = f"{found:,} rows do not agree{more}" if found else "All rows agree"
    print(f"{verdict}. {audit.summary()}.")  # noqa: T201
    if found:
        sys.exit(1)


async def _prepare_schema(url: str, *, migrate: bool) -> None:
    try:
        if migrate:
            await asyncio.to_thread(sql.migrate, url, MIGRATIONS, version_table=VERSION_TABLE)
        await asyncio.to_thread(sql.require_schema, url, MIGRATIONS, version_table=VERSION_TABLE)
    except sql.SchemaOutdated as error:
        raise StartError(f"HEADGATE_DATABASE_URL: {error}.") from error
    except SQLAlchemyError as error:
        # The driver's own words may hold the password.
        raise StartError(f"HEADGATE_DATABASE_URL: the database cannot be used ({type(error).__name__}).") from error


def _read_plans(file: str) -> Plans:
    try:
        return read_plans(Path(file).read_text(), file)
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(f"HEADGATE_PLANS_FILE: {file} cannot be read ({error}).") from error
    except ConfigError as error:
        raise StartError(f"{error}.") from error


def _read_prices() -> PriceList:
    try:
        return read_prices(config_dir() / "prices.yaml")
    except ConfigError as error:
        raise StartError(f"{error}.") from error


async def _check_tiers(store: Store, plans: Plans, file: str) -> None:
    held = await store.read(lambda tx: tx.list_held_tiers())
    for name in held:
        if name not in plans:
            raise StartError(f"{file}: tier {name} is missing, but there are users who have it.")


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


if __name__ == "__main__":
    main()
