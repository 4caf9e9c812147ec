"""What the SQL module promises every service, on both databases."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, event, text

from services import sql
from services.sql import StoreUnavailable
from tests.servers.postgres import PostgresServer


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/some.db"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = server.create()
    yield server.url(name)
    server.drop(name)


@pytest.fixture
async def database(url: str) -> AsyncIterator[sql.Database]:
    database = sql.connect(url)
    await database.write(lambda c: c.execute(text("CREATE TABLE t (n INTEGER PRIMARY KEY)")).close())
    yield database
    await database.close()


def insert(connection: Connection, number: int) -> int:
    return connection.execute(text("INSERT INTO t (n) VALUES (:n)"), {"n": number}).rowcount


def numbers(connection: Connection) -> list[int]:
    return list(connection.execute(text("SELECT n FROM t ORDER BY n")).scalars())


async def test_a_refusal_undoes_only_itself(database: sql.Database) -> None:
    def refused(connection: Connection) -> None:
        insert(connection, 1_000)
        raise ValueError("no")

    calls = [database.write(lambda c, n=n: insert(c, n)) for n in range(50)]
    answers = await asyncio.gather(*calls, database.write(refused), return_exceptions=True)
    assert answers[:-1] == [1] * 50
    assert isinstance(answers[-1], ValueError)
    assert await database.read(numbers) == list(range(50))


async def test_what_breaks_a_rule_of_the_database_fails_alone(database: sql.Database) -> None:
    calls = [database.write(lambda c: insert(c, 7)) for _ in range(20)]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(answer == 1 for answer in answers) == 1
    failures = [a for a in answers if isinstance(a, BaseException)]
    assert all(isinstance(f, StoreUnavailable) for f in failures)
    assert "7" not in str(failures[0]), "values stay out of error texts"


async def test_waiting_calls_share_a_commit_on_sqlite(tmp_path: Path) -> None:
    database = sql.connect(f"sqlite:///{tmp_path}/some.db")
    await database.write(lambda c: c.execute(text("CREATE TABLE t (n INTEGER PRIMARY KEY)")).close())
    commits = []
    event.listen(database.engine, "commit", commits.append)
    open_door = threading.Event()
    first = asyncio.ensure_future(database.write(lambda _: open_door.wait(20)))
    await asyncio.sleep(0)
    others = [asyncio.ensure_future(database.write(lambda c, n=n: insert(c, n))) for n in range(60)]
    await asyncio.sleep(0)
    open_door.set()
    assert await first
    await asyncio.gather(*others)
    assert len(commits) <= 3
    await database.close()


async def test_a_call_that_nobody_waits_for_is_not_begun(database: sql.Database) -> None:
    doors = [threading.Event() for _ in range(sql.POSTGRES_THREADS)]
    blocked = [asyncio.ensure_future(database.write(lambda _, d=d: d.wait(20))) for d in doors]
    await asyncio.sleep(0)
    gone = asyncio.ensure_future(database.write(lambda c: insert(c, 1)))
    await asyncio.sleep(0)
    gone.cancel()
    # The cancel reaches the waiting call by way of the loop.
    with pytest.raises(asyncio.CancelledError):
        await gone
    await asyncio.sleep(0)
    for door in doors:
        door.set()
    await asyncio.gather(*blocked)
    assert await database.read(numbers) == []


async def test_a_queue_that_is_full_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql, "WAITING", 2)
    database = sql.connect(f"sqlite:///{tmp_path}/some.db")
    door = threading.Event()
    calls = [asyncio.ensure_future(database.write(lambda _: door.wait(20))) for _ in range(10)]
    done, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_EXCEPTION, timeout=20)
    assert any(isinstance(call.exception(), StoreUnavailable) for call in done)
    door.set()
    await asyncio.gather(*calls, return_exceptions=True)
    await database.close()


async def test_connections_that_the_server_closed_are_replaced(postgres_url: str) -> None:
    database = sql.connect(postgres_url)
    await asyncio.gather(*(database.read(lambda c: c.execute(text("SELECT 1")).scalar()) for _ in range(32)))
    kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
    engine = sql.connect_for_migration(postgres_url)
    with engine.connect() as connection:
        connection.execute(text(kill + " AND pid <> pg_backend_pid()"))
    engine.dispose()
    answers = await asyncio.gather(*(database.read(lambda c: c.execute(text("SELECT 1")).scalar()) for _ in range(32)))
    assert answers == [1] * 32
    await database.close()


async def test_a_database_that_is_away_says_so(tmp_path: Path) -> None:
    database = sql.connect(f"postgresql+psycopg://nobody@/none?host={tmp_path}")
    with pytest.raises(StoreUnavailable):
        await database.read(lambda c: c.execute(text("SELECT 1")).scalar())
    await database.close()
