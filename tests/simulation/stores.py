"""The real transactions on a real SQLite in memory, run where they are called: `sql.Database` without threads."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, event
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import StaticPool

from services import sql
from services.sql import StoreUnavailable, Transaction
from tests.simulation.faults import Faults

WITNESSES = {
    "scheduler": """
CREATE TABLE seen_moves (number INTEGER PRIMARY KEY, request_id, old_state, new_state, old_attempt, new_attempt);
CREATE TRIGGER seen_move AFTER UPDATE ON scheduler_requests
WHEN OLD.state <> NEW.state OR OLD.attempt <> NEW.attempt BEGIN
  INSERT INTO seen_moves (request_id, old_state, new_state, old_attempt, new_attempt)
  VALUES (NEW.request_id, OLD.state, NEW.state, OLD.attempt, NEW.attempt);
END;""",
    "quota": """
CREATE TABLE seen_moves (number INTEGER PRIMARY KEY, request_id, old_state, new_state, old_generation, new_generation);
CREATE TRIGGER seen_move AFTER UPDATE ON quota_reservations
WHEN OLD.state <> NEW.state OR OLD.generation <> NEW.generation BEGIN
  INSERT INTO seen_moves (request_id, old_state, new_state, old_generation, new_generation)
  VALUES (NEW.request_id, OLD.state, NEW.state, OLD.generation, NEW.generation);
END;
CREATE TABLE seen_days (number INTEGER PRIMARY KEY, user_id, day, used);
CREATE TRIGGER seen_day AFTER UPDATE ON quota_days BEGIN
  INSERT INTO seen_days (user_id, day, used) VALUES (NEW.user_id, NEW.day, NEW.used);
END;""",
}
"""Triggers that write down every move of a row, so that the checker sees what no row shows at the end."""

_templates: dict[str, sqlite3.Connection] = {}


def migrated(name: str, migrations: Path, version_table: str, folder: Path) -> sqlite3.Connection:
    """An empty database of that service in memory; its migrations run once a process."""
    if name not in _templates:
        file = folder / f"{name}.db"
        sql.migrate(f"sqlite:///{file}", migrations, version_table=version_table)
        with sqlite3.connect(file) as source:
            _templates[name] = sqlite3.connect(":memory:")
            source.backup(_templates[name])
        source.close()
    fresh = sqlite3.connect(":memory:", check_same_thread=False)
    _templates[name].backup(fresh)
    fresh.executescript(WITNESSES[name])
    return fresh


def engine_on(connection: sqlite3.Connection) -> Engine:
    """SQLAlchemy on that very connection, with the same rules as production's."""
    engine = create_engine("sqlite://", creator=lambda: connection, poolclass=StaticPool, hide_parameters=True)
    event.listen(engine, "begin", lambda c: c.exec_driver_sql("BEGIN IMMEDIATE"))
    connection.isolation_level = None
    connection.execute("PRAGMA foreign_keys=ON")
    return engine


class SimDatabase:
    """One process's way to a database. Every transaction is an await point; it happens at one moment or not at all."""

    is_sqlite = True

    def __init__(self, name: str, engine: Engine, faults: Faults) -> None:
        self._name = name
        self.engine = engine
        self._faults = faults

    async def write(self, transaction: Transaction[Any], **_: Any) -> Any:
        return await self._run(transaction, twice=True)

    async def read(self, transaction: Transaction[Any]) -> Any:
        return await self._run(transaction, twice=False)

    async def close(self) -> None:
        """The database outlives its clients."""

    async def _run(self, transaction: Transaction[Any], *, twice: bool) -> Any:
        named = getattr(transaction, "func", transaction)
        what = named.__qualname__.replace(".<locals>.", ".").removeprefix("_")
        return await self._faults.through(
            self._name, what, lambda: self._at_once(transaction), StoreUnavailable, twice=twice
        )

    def _at_once(self, transaction: Transaction[Any]) -> Any:
        try:
            with self.engine.begin() as connection:
                return transaction(connection)
        except DBAPIError as error:
            raise StoreUnavailable(f"the database failed: {type(error.orig).__name__} {error.orig}") from error
