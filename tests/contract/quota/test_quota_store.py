"""What only the database itself can show."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from grpc import StatusCode
from sqlalchemy import Connection, Select

from services import sql
from services.quota import charge_statements, statements
from services.quota.__main__ import MIGRATIONS, VERSION_TABLE
from services.quota.store import RowChanged, SqlStore
from services.quota.tables import metadata
from tests.servers.quota import Quota, migrate, refused


def test_the_migrations_make_the_tables_the_code_knows(database_url: str) -> None:
    engine = sql.connect_for_migration(database_url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, metadata) == []
    engine.dispose()
    assert all(table.name.startswith("quota_") for table in metadata.sorted_tables)


async def test_migrating_again_keeps_everything(quota: Quota, database_url: str) -> None:
    await quota.user()
    before = await quota.dump()
    await asyncio.to_thread(migrate, database_url)
    await asyncio.to_thread(sql.require_schema, database_url, MIGRATIONS, version_table=VERSION_TABLE)
    assert await quota.dump() == before


UNRESOLVED = (statements.LIST_UNRESOLVED, {"before_ms": 1, "after_ms": 0, "after_id": "", "most": 500})
PENDING = (statements.HAS_PENDING, {"first": "2026-01-01", "last": "2026-01-31"})
UNSUMMED = (charge_statements.LOCK_UNSUMMED, {"most": 500})


@pytest.mark.parametrize(
    ("searched", "index"),
    [(UNRESOLVED, "quota_reservations_unresolved"), (PENDING, "quota_reservations_live"),
     (PENDING, "quota_reservations_by_settle_time"), (UNSUMMED, "quota_charges_unsummed")],
)  # fmt: skip
async def test_a_search_for_a_few_rows_reads_its_index(
    quota: Quota, searched: tuple[Select[Any], dict[str, Any]], index: str
) -> None:
    statement, values = searched

    def plan(connection: Connection) -> str:
        written = statement.compile(connection.engine)
        bound = written.construct_params(values)
        parameters = tuple(bound[name] for name in written.positiontup) if written.positional else bound
        sqlite = connection.dialect.name == "sqlite"
        if not sqlite:
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        prefix = "EXPLAIN QUERY PLAN " if sqlite else "EXPLAIN "
        return "\n".join(str(row) for row in connection.exec_driver_sql(f"{prefix}{written}", parameters))

    assert index in await quota.database.write(plan)


async def test_a_row_that_is_not_as_it_was_read_is_not_overwritten(quota: Quota, new_id: Callable[[], str]) -> None:
    _, key = await quota.user()
    id_ = (await quota.reserve(key, new_id())).request_id
    store = SqlStore(quota.database)
    read = await store.read(lambda tx: tx.find_reservation(id_))
    assert read is not None
    await quota.reserve(key, id_)
    before = await quota.dump()
    with pytest.raises(RowChanged):
        await store.write(lambda tx: tx.update_reservations([(read, read)]))
    assert await quota.dump() == before


async def test_a_database_that_fails_is_unavailable_and_says_nothing_of_its_own(
    quota: Quota, new_id: Callable[[], str]
) -> None:
    _, key = await quota.user()
    await quota.database.write(lambda c: c.exec_driver_sql("ALTER TABLE quota_days RENAME TO elsewhere").rowcount)
    refusal = await refused(quota.reserve(key, new_id()))
    assert (refusal.code, refusal.reason, refusal.retry_after_ms) == (StatusCode.UNAVAILABLE, "UNAVAILABLE", 1000)
    assert "quota_days" not in refusal.message
    assert await quota.rows("SELECT * FROM quota_reservations") == [], "no half of a Reserve is kept"
