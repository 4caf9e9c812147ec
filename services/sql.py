"""SQL behind asyncio: one writer with group commit on SQLite, a few connections on PostgreSQL.

Transactions are plain functions of a SQLAlchemy connection that run in a thread of their
own. On SQLite calls that wait together share one commit (each in a savepoint, so that one
refusal undoes only itself): a flush costs 2 ms, so a commit a call would cap a service at
a few hundred a second. PostgreSQL folds commits itself, so each call there is a transaction.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

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
POSTGRES_THREADS = 8
"""Connections a process opens: two cores are saturated by fewer (measured with 4, 8, 16)."""
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
        self.is_sqlite = engine.dialect.name == "sqlite"
        self._writes: queue.Queue[_Call | None] = queue.Queue(WAITING)
        self._reads: queue.Queue[_Call | None] = queue.Queue(WAITING)
        writers = [self._write_batches] if self.is_sqlite else [self._run_singly(self._writes)] * POSTGRES_THREADS
        readers = [self._run_singly(self._reads)] if self.is_sqlite else []
        if not self.is_sqlite:
            self._reads = self._writes
        self._threads = [threading.Thread(target=run, daemon=True, name="sql-write") for run in writers]
        self._threads += [threading.Thread(target=run, daemon=True, name=READER) for run in readers]
        self._thread_count = (len(writers), len(readers))
        for thread in self._threads:
            thread.start()

    async def write(self, transaction: Transaction[T]) -> T:
        """Runs it and returns its value once it is committed. Its exceptions undo it and are raised here."""
        return await self._enqueue(self._writes, transaction)

    async def read(self, transaction: Transaction[T]) -> T:
        """Runs it on a snapshot; it must not write."""
        return await self._enqueue(self._reads, transaction)

    async def close(self) -> None:
        """Finishes what waits and closes all connections."""
        for _ in range(self._thread_count[0]):
            self._writes.put(None)
        for _ in range(self._thread_count[1]):
            self._reads.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join, 10)
        self.engine.dispose()

    async def _enqueue(self, calls: queue.Queue[_Call | None], transaction: Transaction[T]) -> T:
        call = _Call(transaction)
        try:
            calls.put_nowait(call)
        except queue.Full:
            raise StoreUnavailable("too many calls wait for the database") from None
        result: T = await asyncio.wrap_future(call.future)
        return result

    def _run_singly(self, calls: queue.Queue[_Call | None]) -> Callable[[], None]:
        def run() -> None:
            while call := calls.get():
                if call.future.set_running_or_notify_cancel():
                    _resolve(call, partial(self._one, call))

        return run

    def _one(self, call: _Call) -> Any:
        for tries_left in range(RETRIES, -1, -1):
            try:
                with self.engine.begin() as connection:
                    return call.transaction(connection)
            except DBAPIError as error:
                if not (_may_run_again(error) and tries_left):
                    raise
        raise AssertionError("unreachable")

    def _write_batches(self) -> None:
        closing = False
        while not closing:
            first = self._writes.get()
            batch = [first] if first else []
            closing = first is None
            while not closing and len(batch) < BATCH:
                try:
                    call = self._writes.get_nowait()
                except queue.Empty:
                    break
                closing = call is None
                batch += [call] if call else []
            self._commit([c for c in batch if c.future.set_running_or_notify_cancel()])

    def _commit(self, batch: list[_Call]) -> None:
        outcomes: list[tuple[_Call, Any, BaseException | None]] = []
        if len(batch) == 1:
            _resolve(batch[0], partial(self._one, batch[0]))
            return
        try:
            with self.engine.begin() as connection:
                for call in batch:
                    try:
                        with connection.begin_nested():
                            outcomes.append((call, call.transaction(connection), None))
                    except Exception as error:
                        outcomes.append((call, None, error))
        except Exception as error:
            outcomes = [(call, None, error) for call in batch]
        for call, value, failure in outcomes:
            _resolve(call, partial(_raise_or, value, failure))


class _Call:
    __slots__ = ("future", "transaction")

    def __init__(self, transaction: Transaction[Any]) -> None:
        self.transaction = transaction
        self.future: Future[Any] = Future()


def _may_run_again(error: DBAPIError) -> bool:
    # 40001 serialization failure, 40P01 deadlock: PostgreSQL undid it. A connection that broke while it was idle is
    # noticed here; asking each one before each use would cost every call a round trip.
    return error.connection_invalidated or getattr(error.orig, "sqlstate", None) in ("40001", "40P01")


def _raise_or(value: Any, failure: BaseException | None) -> Any:
    if failure is not None:
        raise failure
    return value


def _resolve(call: _Call, outcome: Callable[[], Any]) -> None:
    try:
        call.future.set_result(outcome())
    except DBAPIError as error:
        # The statement and its values stay out of the text: they may hold a prompt.
        failure = StoreUnavailable(f"the database failed: {type(error.orig).__name__}")
        failure.__cause__ = error.orig
        call.future.set_exception(failure)
    except Exception as error:
        call.future.set_exception(error)


def connect(url: str) -> Database:
    """Opens a database by URL (`sqlite:///path` or `postgresql+psycopg://…`)."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
        return Database(
            create_engine(
                parsed, pool_size=POSTGRES_THREADS, max_overflow=0, hide_parameters=True,
                connect_args={"connect_timeout": 5, "options": "-c statement_timeout=10000"},
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
