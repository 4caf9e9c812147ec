"""What the SQL module promises every service, on both databases."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

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


async def held(database: sql.Database, *calls: Callable[[], Awaitable[Any]]) -> list[Any]:
    """What the calls answer that came while the one thread that folds was busy."""
    door = threading.Event()
    first = asyncio.ensure_future(database.write(lambda _: door.wait(20), fold="a"))
    await asyncio.sleep(0)
    waiting = [asyncio.ensure_future(call()) for call in calls]
    await asyncio.sleep(0)
    door.set()
    assert await first
    return await asyncio.gather(*waiting, return_exceptions=True)


@pytest.fixture
def one_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a test knows which calls wait together."""
    monkeypatch.setattr(sql, "POSTGRES_FOLDERS", 1)


@pytest.mark.usefixtures("one_folder")
async def test_waiting_calls_share_a_commit(database: sql.Database) -> None:
    commits: list[object] = []
    event.listen(database.engine, "commit", commits.append)
    inserts = [partial(database.write, partial(insert, number=n), fold=f"{n}") for n in range(60)]
    assert await held(database, *inserts) == [1] * 60
    assert len(commits) <= 3
    assert await database.read(numbers) == list(range(60))


@pytest.mark.usefixtures("one_folder")
async def test_a_folded_refusal_undoes_only_itself(database: sql.Database) -> None:
    def refused(connection: Connection, number: int) -> None:
        insert(connection, number)
        raise ValueError("no")

    # Twice: after a refusal the next batch is run with more care, and the one after that with less again.
    for base in (0, 100, 200):
        calls = [
            partial(database.write, partial(refused if n % 5 == 3 else insert, number=base + n), fold=f"{n}")
            for n in range(20)
        ]
        answers = await held(database, *calls)
        assert [isinstance(answer, ValueError) for answer in answers] == [n % 5 == 3 for n in range(20)]
        assert await held(database, partial(database.write, partial(insert, number=base + 50), fold="x")) == [1]
    kept = [base + n for base in (0, 100, 200) for n in [*range(20), 50] if n == 50 or n % 5 != 3]
    assert await database.read(numbers) == kept


@pytest.mark.usefixtures("one_folder")
async def test_what_breaks_a_rule_fails_alone_though_it_was_folded(database: sql.Database) -> None:
    calls = [partial(database.write, partial(insert, number=n // 2), fold=f"{n:02}") for n in range(20)]
    answers = await held(database, *calls)
    assert [answer == 1 for answer in answers] == [True, False] * 10
    assert all(isinstance(answer, StoreUnavailable) for answer in answers[1::2])
    assert await database.read(numbers) == list(range(10))


async def deadlocks(database: sql.Database) -> int:
    query = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    return await database.read(lambda c: c.execute(text(query)).scalar_one())


def raised(connection: Connection, row: int, meeting: threading.Barrier | None = None) -> None:
    connection.execute(text("UPDATE t SET hits = hits + 1 WHERE n = :n"), {"n": row})
    if meeting is not None:
        # Both hold a row now; the other may be unable to come because it waits for ours.
        with suppress(threading.BrokenBarrierError):
            meeting.wait(0.3)


@pytest.fixture
async def replicas(postgres_url: str, one_folder: None) -> AsyncIterator[list[sql.Database]]:
    """Two on one database with ten rows."""
    both = [sql.connect(postgres_url) for _ in range(2)]
    await both[0].write(lambda c: c.execute(text("CREATE TABLE t (n INTEGER, hits INTEGER)")).close())
    await both[0].write(lambda c: c.execute(text("INSERT INTO t SELECT n, 0 FROM generate_series(0, 9) n")).close())
    yield both
    for database in both:
        await database.close()


async def hits(database: sql.Database) -> set[int]:
    return await database.read(lambda c: set(c.execute(text("SELECT hits FROM t")).scalars()))


async def test_replicas_that_fold_the_same_rows_do_not_wait_for_each_other(replicas: list[sql.Database]) -> None:
    rows = [range(10), range(9, -1, -1)]
    meeting = threading.Barrier(2)
    answers = await asyncio.gather(
        *(
            held(d, *(partial(d.write, partial(raised, row=n, meeting=meeting), fold=f"{n}") for n in order))
            for d, order in zip(replicas, rows, strict=True)
        )
    )
    assert answers == [[None] * 10] * 2
    assert await hits(replicas[0]) == {2}
    assert await deadlocks(replicas[0]) == 0


async def test_a_deadlock_between_batches_costs_time_and_nothing_else(replicas: list[sql.Database]) -> None:
    # They say the opposite of what they lock, as no caller should.
    meeting = threading.Barrier(2)
    answers = await asyncio.gather(
        *(
            held(
                d,
                *(
                    partial(d.write, partial(raised, row=abs(n - turn), meeting=meeting), fold=f"{n}")
                    for n in range(10)
                ),
            )
            for d, turn in zip(replicas, (0, 9), strict=True)
        )
    )
    assert answers == [[None] * 10] * 2
    assert await hits(replicas[0]) == {2}


async def test_replicas_on_one_sqlite_file_take_turns(tmp_path: Path) -> None:
    both = [sql.connect(f"sqlite:///{tmp_path}/some.db") for _ in range(2)]
    await both[0].write(lambda c: c.execute(text("CREATE TABLE t (n INTEGER, hits INTEGER)")).close())
    await both[0].write(lambda c: c.execute(text("INSERT INTO t VALUES (0, 0)")).close())

    def once_more(connection: Connection) -> None:
        hits = connection.execute(text("SELECT hits FROM t")).scalar_one()
        connection.execute(text("UPDATE t SET hits = :hits"), {"hits": hits + 1})

    # Two rounds and more of batches each, so that each finds the other's lock.
    await asyncio.gather(*(database.write(once_more) for _ in range(3 * sql.BATCH) for database in both))
    assert await hits(both[1]) == {6 * sql.BATCH}
    for database in both:
        await database.close()


async def test_a_closed_database_refuses(database: sql.Database) -> None:
    await database.close()
    for call in (database.write(numbers), database.write(numbers, fold="a"), database.read(numbers)):
        with pytest.raises(StoreUnavailable):
            await asyncio.wait_for(call, 20)


async def test_what_waits_when_it_is_closed_is_finished(database: sql.Database) -> None:
    calls = [asyncio.ensure_future(database.write(partial(insert, number=n), fold=f"{n % 7}")) for n in range(200)]
    await asyncio.sleep(0)
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("sql-")]
    await database.close()
    assert await asyncio.wait_for(asyncio.gather(*calls), 20) == [1] * 200
    assert threads
    assert not any(thread.is_alive() for thread in threads)


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
