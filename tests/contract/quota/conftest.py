"""Every test here runs on both databases."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from headgate.quota.v1 import quota_pb2 as pb

from services.ids import random_id
from tests.servers.postgres import PostgresServer
from tests.servers.quota import NOON_MS, Quota, migrate, running_quota


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A migrated, empty database."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/quota.db"
        migrate(url)
        yield url
        return
    # Asked for only here, so that nobody who runs the SQLite half needs a PostgreSQL.
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = server.cloned("quota_template", migrate)
    yield server.url(name)
    server.drop(name)


@pytest.fixture
async def quota(database_url: str) -> AsyncIterator[Quota]:
    """A running service."""
    async with running_quota(database_url) as service:
        yield service


@pytest.fixture
def new_id() -> Callable[[], str]:
    """Makes request ids, the same in every run."""
    numbers = itertools.count(1)
    return lambda: random_id("req_", lambda size: next(numbers).to_bytes(size, "big"))


@pytest.fixture
def charge() -> Callable[..., pb.Charge]:
    """Makes charges; fields that are not given are those of a reported turn."""

    def make(**fields: object) -> pb.Charge:
        usual = {"attempt": 1, "turn": 1, "model": "claude-haiku-4-5", "input_tokens": 100, "output_tokens": 50}
        made = pb.Charge(**{**usual, "cost_nano_usd": 350_000, "kind": "flowchart", **fields})
        if "end_time" not in fields:
            made.end_time.FromMilliseconds(NOON_MS)
        return made

    return make
