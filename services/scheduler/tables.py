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
_unpaid = text("state = 'cancelled' AND charged_attempt < attempt")
Index("scheduler_requests_unpaid", requests.c.ended_ms, postgresql_where=_unpaid, sqlite_where=_unpaid)
Index("scheduler_requests_untold", requests.c.acceptance, postgresql_where=_untold, sqlite_where=_untold)

users = Table(
    "scheduler_users",
    metadata,
    Column("user_id", String(128), primary_key=True),
    Column("tier", String(64), nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("share", Integer, nullable=False),
    Column("outstanding", Integer, nullable=False),
    # Cost at which a day's dispatch of the user's requests stops; NULL: no limit.
    Column("spend_nano_usd_per_day", BigInteger),
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
    # Defaults of the database: the release before this one writes rows without them.
    Column("day", String(10), nullable=False, server_default=""),
    Column("tier", String(64), nullable=False, server_default=""),
    Column("model", String(128), nullable=False, server_default=""),
    Column("completed", Boolean, nullable=False, server_default=false()),
    Column("cached", Boolean, nullable=False, server_default=false()),
    Column("saved_nano_usd", BigInteger, nullable=False, server_default="0"),
    sqlite_autoincrement=True,
)

# The provider plan that was switched to; no row: that of the environment.
provider = Table(
    "scheduler_provider",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("version", BigInteger, nullable=False),
    Column("plan", String(64), nullable=False),
    # JSON: a list of [pool ("" for all), dimension, limit].
    Column("overrides", Text, nullable=False),
    Column("actor", String(200), nullable=False),
    Column("changed_ms", BigInteger, nullable=False),
)

# What operators changed here, until quota's audit has it.
audit_outbox = Table(
    "scheduler_audit_outbox",
    metadata,
    Column("number", ROW_NUMBER, primary_key=True, autoincrement=True),
    Column("audit_id", String(64), nullable=False),
    Column("time_ms", BigInteger, nullable=False),
    Column("actor", String(200), nullable=False),
    Column("action", String(64), nullable=False),
    Column("subject", String(200), nullable=False),
    Column("old", Text, nullable=False),
    Column("new", Text, nullable=False),
    sqlite_autoincrement=True,
)

# How much of each limit was used at most, by hour: what capacity is told from.
capacity = Table(
    "scheduler_capacity",
    metadata,
    Column("pool", String(64), primary_key=True),
    Column("dimension", String(32), primary_key=True),
    # Since 1970.
    Column("hour", BigInteger, primary_key=True, autoincrement=False),
    Column("peak", BigInteger, nullable=False),
    Column("limit_then", BigInteger, nullable=False),
    Column("refusals", BigInteger, nullable=False),
)

# What the owner was or is to be told of.
alerts = Table(
    "scheduler_alerts",
    metadata,
    Column("subject", String(200), primary_key=True),
    Column("message", Text, nullable=False),
    Column("raised_ms", BigInteger, nullable=False),
    # NULL while it lasts.
    Column("ended_ms", BigInteger),
    # Of the webhook; NULL once it was taken or given up.
    Column("send_ms", BigInteger),
    Column("tries", Integer, nullable=False, server_default="0"),
)

identity = Table(
    "scheduler_identity",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, nullable=False),
    Column("run_id", String(64), nullable=False),
    Column("rebuilding_until_ms", BigInteger, nullable=False),
)
