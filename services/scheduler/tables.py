"""The scheduler's tables. The migrations make them; a test compares both."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, MetaData, String, Table, Text, false, text

metadata = MetaData()

# SQLite numbers rows by itself only if the key's type is exactly INTEGER.
ROW_NUMBER = BigInteger().with_variant(Integer(), "sqlite")

requests = Table(
    "scheduler_requests",
    metadata,
    Column("acceptance", ROW_NUMBER, primary_key=True, autoincrement=True),
    Column("request_id", String(64), nullable=False, unique=True),
    Column("user_id", String(128), nullable=False),
    Column("tier", String(64), nullable=False),
    Column("share", Integer, nullable=False),
    Column("pool", String(64), nullable=False),
    Column("model", String(128), nullable=False),
    Column("diagram_type", String(32), nullable=False),
    Column("prompt", Text, nullable=False),
    Column("work_hash", String(64), nullable=False),
    Column("max_tokens", Integer, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("day", String(10), nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("failures", Integer, nullable=False, server_default="0"),
    Column("losses", Integer, nullable=False, server_default="0"),
    Column("charged_attempt", Integer, nullable=False, server_default="0"),
    Column("delivered", Boolean, nullable=False, server_default=false()),
    Column("counted", Boolean, nullable=False, server_default=false()),
    Column("told", Boolean, nullable=False, server_default=false()),
    Column("final_seq", BigInteger),
    Column("accepted_ms", BigInteger, nullable=False),
    Column("deadline_ms", BigInteger, nullable=False),
    Column("not_before_ms", BigInteger, nullable=False, server_default="0"),
    Column("started_ms", BigInteger),
    Column("ended_ms", BigInteger),
    Column("result", Text, nullable=False, server_default=""),
    Column("svg", Text, nullable=False, server_default=""),
    Column("has_svg", Boolean, nullable=False, server_default=false()),
    Column("truncated", Boolean, nullable=False, server_default=false()),
    Column("cached", Boolean, nullable=False, server_default=false()),
    Column("error", Text, nullable=False, server_default=""),
    Column("code", String(32)),
    Column("input_tokens", BigInteger, nullable=False, server_default="0"),
    Column("output_tokens", BigInteger, nullable=False, server_default="0"),
    Column("cache_read_tokens", BigInteger, nullable=False, server_default="0"),
    Column("cache_write_5m_tokens", BigInteger, nullable=False, server_default="0"),
    Column("cache_write_1h_tokens", BigInteger, nullable=False, server_default="0"),
    Column("cost_nano_usd", BigInteger, nullable=False, server_default="0"),
    Column("cost_estimated", Boolean, nullable=False, server_default=false()),
    Column("estimated_input_tokens", Integer, nullable=False),
    Column("estimated_output_tokens", Integer, nullable=False),
    Column("traceparent", String(64), nullable=False, server_default=""),
    Column("cache_key", String(64)),
    # A number is never used again: SQLite else gives a deleted row's to the next one, and whoever still held the old
    # one would delete a settlement that nobody had delivered (seen with two replicas).
    sqlite_autoincrement=True,
)

# Partial indexes: they hold what is alive, so they stay small whatever the history.
_queued, _running = text("state = 'queued'"), text("state = 'running'")
_alive = text("state IN ('queued', 'running')")
_untold = text("state NOT IN ('queued', 'running') AND NOT told")
Index("scheduler_requests_user", requests.c.user_id, requests.c.acceptance)
Index("scheduler_requests_alive", requests.c.user_id, postgresql_where=_alive, sqlite_where=_alive)
Index("scheduler_requests_deadline", requests.c.deadline_ms, postgresql_where=_queued, sqlite_where=_queued)
Index("scheduler_requests_queued", requests.c.acceptance, postgresql_where=_queued, sqlite_where=_queued)
Index("scheduler_requests_running", requests.c.acceptance, postgresql_where=_running, sqlite_where=_running)
_has_equals = text("cache_key IS NOT NULL")
Index(
    "scheduler_requests_same",
    requests.c.cache_key, requests.c.state, requests.c.ended_ms,
    postgresql_where=_has_equals, sqlite_where=_has_equals,
)  # fmt: skip
Index("scheduler_requests_untold", requests.c.acceptance, postgresql_where=_untold, sqlite_where=_untold)

users = Table(
    "scheduler_users",
    metadata,
    Column("user_id", String(128), primary_key=True),
    Column("tier", String(64), nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("share", Integer, nullable=False),
    Column("outstanding", Integer, nullable=False),
)

tombstones = Table(
    "scheduler_tombstones",
    metadata,
    Column("request_id", String(64), primary_key=True),
    Column("generation", BigInteger, nullable=False),
    Column("made_ms", BigInteger, nullable=False),
)

outbox = Table(
    "scheduler_outbox",
    metadata,
    Column("outbox_id", ROW_NUMBER, primary_key=True, autoincrement=True),
    Column("request_id", String(64), nullable=False),
    Column("user_id", String(128), nullable=False),
    Column("final", Boolean, nullable=False),
    Column("counted", Boolean, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("turns", Text, nullable=False),
    Column("pool", String(64), nullable=False),
    Column("traceparent", String(64), nullable=False),
    Column("refused", Boolean, nullable=False, server_default=false()),
    sqlite_autoincrement=True,
)

identity = Table(
    "scheduler_identity",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, nullable=False),
    Column("run_id", String(64), nullable=False),
    Column("rebuilding_until_ms", BigInteger, nullable=False),
)
