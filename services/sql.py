"""SQL behind asyncio: calls that wait together share one transaction, so that a flush to disk serves many.

Transactions are plain functions of a SQLAlchemy connection that run in a thread of their own. SQLite has one writer
and folds every write; PostgreSQL has two writers for the calls that say by what they may be folded, and a few threads
that run everything else by itself.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeVar

from alembic import command, context
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, event, text
from sqlalchemy.engine import Engine, make_url
from sqlalchemy.exc import DBAPIError

T = TypeVar("T")
Transaction = Callable[[Connection], T]

BATCH = 64
"""Calls that share one commit at most: bounds how long the first of them waits for the last."""
WAITING = 4096
"""Calls that may wait for a thread; beyond it the store answers `StoreUnavailable`."""
POSTGRES_FOLDERS = 2
"""Threads that fold: while one waits for its flush the other fills the next transaction."""
POSTGRES_THREADS = 4
"""Threads, each with a connection, for what is not folded."""
POSTGRES_OPTIONS = "-c statement_timeout=10000 -c jit=off -c work_mem=16MB -c max_parallel_workers_per_gather=0"
"""Compiling a page of users took PostgreSQL 2 s, running it 0.1 s; use by hour was sorted on disk in 4 MB.

No page takes more than one core from those who dispatch and settle; workers besides cost it a fifth more."""
RETRIES = 3
"""Of a transaction that the database undid or whose connection was gone; all transactions here may be repeated."""
READER = "sql-read"
"""Name of the thread whose transactions never take SQLite's write lock."""


class StoreUnavailable(Exception):
    """The database cannot be reached or cannot take more work now."""


class SchemaOutdated(Exception):
    """The database's schema is older than this program needs."""


class Database:
    """Runs transactions in threads; made by `connect`, stopped by `close`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._closed = False
        self._folds: _Calls = SimpleQueue()
        self._reads: _Calls = SimpleQueue()
        if engine.dialect.name == "sqlite":
            self._writes = self._folds
            threads = [(self._folds, BATCH, "sql-write"), (self._reads, 1, READER)]
        else:
            self._writes = self._reads
            threads = [(self._folds, BATCH, "sql-fold")] * POSTGRES_FOLDERS
            threads += [(self._reads, 1, "sql-each")] * POSTGRES_THREADS
        self._threads = [
            (threading.Thread(target=self._serve, args=(calls, most), daemon=True, name=name), calls)
            for calls, most, name in threads
        ]
        for thread, _ in self._threads:
            thread.start()

    async def write(self, transaction: Transaction[T], *, fold: str = "") -> T:
        """Runs it and returns its value once it is committed. Its exceptions undo it and are raised here.

        `fold` names the one row that it locks for long, the same in every call that locks that row: PostgreSQL may
        then run it in one transaction with others, which take their locks in the order of these names everywhere.
        Without it the transaction may lock whatever it likes, and shares its commit on SQLite only.
        """
        return await self._enqueue(self._folds if fold else self._writes, transaction, fold)

    async def read(self, transaction: Transaction[T]) -> T:
        """Runs it on a snapshot; it must not write."""
        return await self._enqueue(self._reads, transaction, "")

    async def close(self) -> None:
        """Finishes what waits and closes all connections; every later call raises `StoreUnavailable`."""
        self._closed = True
        for _, calls in self._threads:
            calls.put(None)
        for thread, _ in self._threads:
            await asyncio.to_thread(thread.join, 10)
        self.engine.dispose()

    async def _enqueue(self, calls: _Calls, transaction: Transaction[T], fold: str) -> T:
        if self._closed:
            raise StoreUnavailable("the database was closed")
        if calls.qsize() >= WAITING:
            raise StoreUnavailable("too many calls wait for the database")
        loop = asyncio.get_running_loop()
        call = _Call(transaction, fold, loop, loop.create_future())
        calls.put(call)
        result: T = await call.future
        return result

    def _serve(self, calls: _Calls, most: int) -> None:
        careful = False
        while batch := _take(calls, most):
            wanted = sorted((call for call in batch if not call.future.cancelled()), key=lambda call: call.fold)
            outcomes, careful = self._run(wanted, careful)
            _deliver(outcomes)

    def _run(self, batch: Sequence[_Call], careful: bool) -> tuple[list[_Outcome], bool]:
        """What became of the calls, and whether one of them failed: the next batch then begins with savepoints."""
        if len(batch) <= 1:
            return [self._alone(call) for call in batch], careful
        try:
            if not careful:
                # A savepoint costs more than most transactions, so the first try does without.
                with suppress(_Undone), self.engine.begin() as connection:
                    return [_Outcome(call, _or_undo(call, connection)) for call in batch], False
            with self.engine.begin() as connection:
                outcomes = [_nested(call, connection) for call in batch]
            return outcomes, any(outcome.error for outcome in outcomes)
        except Exception as error:
            if isinstance(error, DBAPIError) and _may_run_again(error):
                return [self._alone(call) for call in batch], careful
            return [_Outcome(call, None, error) for call in batch], careful

    def _alone(self, call: _Call) -> _Outcome:
        for tries_left in range(RETRIES, -1, -1):
            try:
                with self.engine.begin() as connection:
                    value = call.transaction(connection)
                return _Outcome(call, value)
            except Exception as error:
                if not (isinstance(error, DBAPIError) and _may_run_again(error) and tries_left):
                    return _Outcome(call, None, error)
        raise AssertionError("unreachable")


class _Call(NamedTuple):
    transaction: Transaction[Any]
    fold: str
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]


class _Outcome(NamedTuple):
    call: _Call
    value: Any
    error: Exception | None = None


_Calls = SimpleQueue[_Call | None]


class _Undone(Exception):
    """A call of a batch failed, so nothing of the batch may stay."""


def _take(calls: _Calls, most: int) -> list[_Call]:
    """What waits, at least one and at most that many; nothing once the queue is closed."""
    call = calls.get()
    batch: list[_Call] = []
    while call is not None:
        batch.append(call)
        if len(batch) == most:
            return batch
        try:
            call = calls.get_nowait()
        except Empty:
            return batch
    if batch:
        calls.put(None)
    return batch


def _or_undo(call: _Call, connection: Connection) -> Any:
    try:
        return call.transaction(connection)
    except Exception as error:
        if isinstance(error, DBAPIError) and _may_run_again(error):
            raise
        raise _Undone from error


def _nested(call: _Call, connection: Connection) -> _Outcome:
    try:
        with connection.begin_nested():
            return _Outcome(call, call.transaction(connection))
    except Exception as error:
        if isinstance(error, DBAPIError) and _may_run_again(error):
            raise
        return _Outcome(call, None, error)


def _may_run_again(error: DBAPIError) -> bool:
    # 40001 serialization failure, 40P01 deadlock: PostgreSQL undid it. A connection that broke while it was idle is
    # noticed here; asking each one before each use would cost every call a round trip.
    return error.connection_invalidated or getattr(error.orig, "sqlstate", None) in ("40001", "40P01")


def _deliver(outcomes: Sequence[_Outcome]) -> None:
    """Tells each loop once, for waking it costs more than what it is told."""
    for loop in {outcome.call.loop for outcome in outcomes}:
        # A loop that is closed has nobody who waits.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(_resolve, [o for o in outcomes if o.call.loop is loop])


def _resolve(outcomes: Sequence[_Outcome]) -> None:
    for call, value, error in outcomes:
        if call.future.done():
            continue
        if isinstance(error, DBAPIError):
            # The statement and its values stay out of the text: they may hold a prompt.
            failure = StoreUnavailable(f"the database failed: {type(error.orig).__name__}")
            failure.__cause__ = error.orig
            call.future.set_exception(failure)
        elif error is not None:
            call.future.set_exception(error)
        else:
            call.future.set_result(value)


def connect(url: str) -> Database:
    """Opens a database by URL (`sqlite:///path` or `postgresql+psycopg://…`)."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
        return Database(
            create_engine(
                parsed, pool_size=POSTGRES_FOLDERS + POSTGRES_THREADS, max_overflow=0, hide_parameters=True,
                connect_args={"connect_timeout": 5, "options": POSTGRES_OPTIONS},
            )
        )  # fmt: skip
    engine = create_engine(parsed, hide_parameters=True, connect_args={"timeout": 5})
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_immediate)
    return Database(engine)


def _configure_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # The driver's own transactions begin deferred: read-then-write admitted 29 of 10 (measured).
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")


def _begin_immediate(connection: Connection) -> None:
    reads_only = threading.current_thread().name == READER
    connection.exec_driver_sql("BEGIN" if reads_only else "BEGIN IMMEDIATE")


def migrate(url: str, migrations: Path, *, version_table: str) -> None:
    """Brings the schema up to the newest migration; safe to run beside another that does the same."""
    engine = connect_for_migration(url)
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            # One key for all services: two of them may share a database and create it at once.
            connection.execute(text("SELECT pg_advisory_xact_lock(4804651)"))
        config = _alembic(migrations, version_table)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    engine.dispose()


def require_schema(url: str, migrations: Path, *, version_table: str) -> None:
    """Raises `SchemaOutdated` unless every migration this program knows has run."""
    engine = connect_for_migration(url)
    try:
        with engine.connect() as connection:
            try:
                current = set(connection.exec_driver_sql(f"SELECT version_num FROM {version_table}").scalars())  # noqa: S608
            except DBAPIError:
                current = set()
        script = ScriptDirectory.from_config(_alembic(migrations, version_table))
        known = {revision.revision for revision in script.walk_revisions()}
        # A newer schema is fine (a new release beside the old one); an older one is not.
        if not current or (current & known and current != set(script.get_heads())):
            raise SchemaOutdated("the database's schema is older than this program needs: run its migrate command")
    finally:
        engine.dispose()


def connect_for_migration(url: str) -> Engine:
    """A plain engine with the same rules as `connect`, for one-off work at start."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "postgresql":
        return create_engine(parsed.set(drivername="postgresql+psycopg"), connect_args={"connect_timeout": 5})
    engine = create_engine(parsed, connect_args={"timeout": 30})
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_immediate)
    return engine


@contextmanager
def snapshot(url: str) -> Iterator[Connection]:
    """A connection that sees the database as it is now, however long it reads; writers do not wait for it."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
        engine = create_engine(
            parsed, isolation_level="REPEATABLE READ", hide_parameters=True, connect_args={"connect_timeout": 5}
        )
    else:
        engine = create_engine(parsed, hide_parameters=True, connect_args={"timeout": 5})
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def run_migrations() -> None:
    """What every service's `migrations/env.py` does, inside the transaction that `migrate` opened."""
    config = context.config
    context.configure(connection=config.attributes["connection"], version_table=config.attributes["version_table"])
    context.run_migrations()


def _alembic(migrations: Path, version_table: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations))
    config.attributes["version_table"] = version_table
    return config
