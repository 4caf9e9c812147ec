"""Charges of the release before, which keeps no sums: written before the migration and beside this one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from headgate.quota.v1 import quota_pb2 as pb
from sqlalchemy import Connection, text

from services import sql
from services.quota import ledger as ledger_module
from services.quota.__main__ import MIGRATIONS, VERSION_TABLE
from services.quota.audit import Audit
from services.quota.audit_books import SqlBooks
from services.quota.ledger import Ledger
from services.quota.model import Use
from services.quota.store import SqlStore
from services.quota.tables import SUMS
from tests.servers.postgres import PostgresServer
from tests.servers.quota import NOON_MS, Quota, migrate, running_quota

DAY = "2026-01-01"
NOON_HOUR = NOON_MS // 3_600_000
SUM = ", ".join(f"sum({name})" for name in SUMS)
ONE = Use(
    input_tokens=100, output_tokens=50, cache_read_input_tokens=1000, cost_nano_usd=450_000,
    saved_by_prompt_cache_nano_usd=900_000,
)  # fmt: skip
INSERT = text(
    "INSERT INTO quota_charges (request_id, attempt, turn, user_id, model, kind, input_tokens, output_tokens,"
    " cache_read_input_tokens, cache_write_5m_input_tokens, cache_write_1h_input_tokens, cost_nano_usd, estimated, day,"
    " end_time_ms) VALUES (:id, 1, 1, :user, 'claude-haiku-4-5', 'pie', 100, 50, :cached, 0, 0, :cost, :estimated,"
    f" '{DAY}', {NOON_MS})"
)


def write_old(connection: Connection, *ids: str, user: str = "ann", estimated: bool = False) -> None:
    """What the release before writes: columns it knows, and no sums."""
    told = {"cached": 0, "cost": 999_999} if estimated else {"cached": 1000, "cost": 450_000}
    connection.execute(INSERT, [{"id": id_, "user": user, "estimated": estimated, **told} for id_ in ids])


def upgrade(connection: Connection, revision: str) -> None:
    config = sql._alembic(MIGRATIONS, VERSION_TABLE)
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database of the release before with a charge of ann, who is pro, and one of nobody; then migrated."""
    url, server = f"sqlite:///{tmp_path}/quota.db", None
    if request.param == "postgresql":
        server = request.getfixturevalue("postgres_server")
        assert isinstance(server, PostgresServer)
        name = server.create()
        url = server.url(name)
    engine = sql.connect_for_migration(url)
    with engine.begin() as connection:
        upgrade(connection, "0001")
        connection.execute(text(f"INSERT INTO quota_users VALUES ('ann', '', 'pro', 1, 'active', {NOON_MS})"))
        write_old(connection, "req_1")
        write_old(connection, "req_2", user="nobody")
    engine.dispose()
    migrate(url)
    yield url
    if server:
        server.drop(name)


@pytest.fixture
async def quota(database_url: str) -> AsyncIterator[Quota]:
    async with running_quota(database_url) as service:
        yield service


def audited(quota: Quota, url: str) -> tuple[list[str], str]:
    with sql.snapshot(url) as connection:
        audit = Audit(SqlBooks(connection), quota.prices)
        return list(map(str, audit.differences())), audit.summary()


async def total(quota: Quota, table: str) -> Use:
    ((*sums,),) = await quota.rows(f"SELECT {SUM} FROM quota_{table}")
    return Use(*(int(each or 0) for each in sums))


def times(count: int) -> Use:
    return sum([ONE] * count, Use())


def truth(request_id: str) -> pb.Settlement:
    charge = pb.Charge(attempt=1, turn=1, model="claude-haiku-4-5", kind="pie", input_tokens=100, output_tokens=50)
    charge.cache_read_input_tokens, charge.cost_nano_usd = 1000, 450_000
    charge.end_time.FromMilliseconds(NOON_MS)
    return pb.Settlement(request_id=request_id, user_id="ann", charges=[charge], day=DAY, tier="pro")


async def settle(quota: Quota, *settlements: pb.Settlement) -> None:
    await quota.stub.Settle(pb.SettleRequest(settlements=settlements))


async def test_they_are_added_before_a_day_is_closed_as_if_they_had_been_settled(
    quota: Quota, database_url: str
) -> None:
    left = "2 charges, 0 of them estimates; 2 are not in the sums yet, which were compared without them"
    assert audited(quota, database_url) == ([], left)
    await quota.service.closing.close_all()
    hours = await quota.rows(f"SELECT hour, tier, model, kind, {SUM} FROM quota_hours GROUP BY 1, 2, 3, 4 ORDER BY 2")
    assert {(*key, Use(*map(int, sums))) for *key, sums in ((*row[:4], row[4:]) for row in hours)} == {
        (NOON_HOUR, tier, "claude-haiku-4-5", "pie", ONE) for tier in ("", "pro")
    }
    assert await total(quota, "days") == times(2)
    assert await quota.rows("SELECT tier FROM quota_charges WHERE summed ORDER BY tier") == [("",), ("pro",)]
    before = await quota.dump()
    await quota.service.closing.close_all()
    assert await quota.dump() == before, "and once"
    assert audited(quota, database_url) == ([], "2 charges, 0 of them estimates")


async def test_days_wait_for_them(quota: Quota, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError

    monkeypatch.setattr(Ledger, "_sum_some", fail)
    quota.clock.advance(2 * 86_400_000)
    with pytest.raises(RuntimeError):
        await quota.service.closing.close_all()
    assert await quota.rows("SELECT * FROM quota_tier_days") == []


async def test_the_truth_replaces_an_estimate_that_is_in_no_sum(
    quota: Quota, database_url: str, new_id: Callable[[], str]
) -> None:
    guessed, seen = new_id(), new_id()
    await quota.database.write(lambda connection: write_old(connection, guessed, estimated=True))
    await quota.database.write(lambda connection: write_old(connection, seen))
    for _ in range(2):
        await settle(quota, truth(guessed), truth(seen))
    assert await total(quota, "days") == await total(quota, "hours") == ONE
    assert audited(quota, database_url)[0] == []
    await quota.service.closing.close_all()
    assert await total(quota, "days") == await total(quota, "hours") == times(4)
    assert audited(quota, database_url) == ([], "4 charges, 0 of them estimates")


async def test_an_estimate_that_was_added_leaves_the_sums_when_the_truth_comes(
    quota: Quota, database_url: str, new_id: Callable[[], str]
) -> None:
    guessed = new_id()
    await quota.database.write(lambda connection: write_old(connection, guessed, estimated=True))
    await quota.service.closing.close_all()
    assert (await total(quota, "hours")).cost_nano_usd == 2 * 450_000 + 999_999
    await settle(quota, truth(guessed))
    assert await total(quota, "days") == await total(quota, "hours") == times(3)
    assert audited(quota, database_url) == ([], "3 charges, 0 of them estimates")


async def test_several_at_once_and_whoever_settles_meanwhile_add_each_once(
    quota: Quota, database_url: str, new_id: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "SUMMED_AT_ONCE", 7)
    guessed, seen = [new_id() for _ in range(60)], [new_id() for _ in range(60)]
    await quota.database.write(lambda connection: write_old(connection, *guessed, estimated=True))
    await quota.database.write(lambda connection: write_old(connection, *seen))
    other = sql.connect(database_url)
    try:
        ledgers = [Ledger(SqlStore(each), quota.prices, quota.clock) for each in (quota.database, other) * 2]
        told = [settle(quota, *map(truth, ids)) for ids in (guessed[at : at + 10] for at in range(0, 60, 10))]
        await asyncio.gather(*(each.sum_old() for each in ledgers), *told)
        await ledgers[0].sum_old()
    finally:
        await other.close()
    assert await total(quota, "days") == await total(quota, "hours") == times(122)
    assert audited(quota, database_url) == ([], "122 charges, 0 of them estimates")
