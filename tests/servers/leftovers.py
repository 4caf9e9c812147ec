"""What is still held once every request has ended: looked up in the stores, without asking the product."""

from __future__ import annotations

import math

import redis
from sqlalchemy import text

from services.sql import connect_for_migration
from tests.servers.valkey import ValkeyServer

OPEN = {
    "not ended": "SELECT count(*) FROM scheduler_requests WHERE state IN ('queued', 'running')",
    "not told": "SELECT count(*) FROM scheduler_requests WHERE NOT told",
    "not settled": "SELECT count(*) FROM scheduler_outbox",
}
EMPTY = ("leases", "backoff", "line:", "own:", "users:", "behind:", "flights")
"""Keys that hold something of a request only as long as it lives."""


def leftovers(database_url: str, valkey: ValkeyServer) -> list[str]:
    """One line for each thing that is left."""
    return [*_rows(database_url), *_keys(valkey.client())]


def _rows(database_url: str) -> list[str]:
    engine = connect_for_migration(database_url)
    try:
        with engine.connect() as connection:
            counts = {what: connection.execute(text(query)).scalar_one() for what, query in OPEN.items()}
    finally:
        engine.dispose()
    return [f"{count} {what}" for what, count in counts.items() if count]


def _keys(client: redis.Redis) -> list[str]:
    found = []
    for key in client.scan_iter("hg:*", count=1000):
        name = key.split("}:", 1)[1]
        if name.startswith(EMPTY):
            # It has something in it, or it would not be there.
            found.append(f"{key} of {client.type(key)}")
        elif name.startswith("req:") and not client.hget(key, "closed"):
            found.append(f"{key} is open")
        elif name.startswith("user:"):
            account = client.hgetall(key)
            if abs(float(account.get("waiting", 0))) > 1e-6 or int(account.get("ready", 0)):
                found.append(f"{key} is {account}")
        elif name == "meta":
            sums = {n: float(v) for n, v in client.hgetall(key).items() if n.startswith("sum:")}
            found += [f"{key} {n} is {v}" for n, v in sums.items() if abs(v) > 1e-6]
    return found


def odd_levels(valkey: ValkeyServer) -> list[str]:
    """Levels of buckets that are no numbers."""
    client = valkey.client()
    buckets = {key: client.hgetall(key) for key in client.scan_iter("hg:*:bucket")}
    fields = [(key, name, value) for key, bucket in buckets.items() for name, value in bucket.items()]
    levels = [(key, name, float(value)) for key, name, value in fields if name.startswith("level:")]
    assert levels
    return [f"{key} {name} is {level}" for key, name, level in levels if not math.isfinite(level)]


def numbers_fall(messages: list[str]) -> list[str]:
    """Events, as published, whose number is not above the one before; a final event may be sent again."""
    last: dict[str, tuple[int, str]] = {}
    found = []
    for message in messages:
        number, request_id, payload = message.split(" ", 2)
        before, was = last.get(request_id, (0, ""))
        if int(number) <= before and (int(number), payload) != (before, was):
            found.append(f"{message} after {before}")
        last[request_id] = (int(number), payload)
    return found
