"""Requests, users, tombstones, outbox, the order's identity."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

ROW_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Makes everything."""
    _create_identity()
    _create_outbox()
    _create_requests()
    _index_requests()
    _create_tombstones()
    _create_users()
    op.execute("INSERT INTO scheduler_identity (id, epoch, run_id, rebuilding_until_ms) VALUES (1, 0, '', 0)")


def _create_identity() -> None:
    op.create_table(
        "scheduler_identity",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("run_id", sa.String(64), nullable=False),
        sa.Column("rebuilding_until_ms", sa.BigInteger(), nullable=False),
    )


def _create_outbox() -> None:
    op.create_table(
        "scheduler_outbox",
        sa.Column("outbox_id", ROW_NUMBER, primary_key=True, autoincrement=True),
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("user_id", sa.String(128), nullable=False),
        sa.Column("final", sa.Boolean(), nullable=False),
        sa.Column("counted", sa.Boolean(), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("turns", sa.Text(), nullable=False),
        sa.Column("pool", sa.String(64), nullable=False),
        sa.Column("traceparent", sa.String(64), nullable=False),
        sa.Column("refused", sa.Boolean(), nullable=False, server_default=sa.false()),
        sqlite_autoincrement=True,
    )


def _create_requests() -> None:
    op.create_table(
        "scheduler_requests",
        sa.Column("acceptance", ROW_NUMBER, primary_key=True, autoincrement=True),
        sa.Column("request_id", sa.String(64), nullable=False, unique=True),
        sa.Column("user_id", sa.String(128), nullable=False),
        sa.Column("tier", sa.String(64), nullable=False),
        sa.Column("share", sa.Integer(), nullable=False),
        sa.Column("pool", sa.String(64), nullable=False),
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("diagram_type", sa.String(32), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("work_hash", sa.String(64), nullable=False),
        sa.Column("max_tokens", sa.Integer(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("day", sa.String(10), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("failures", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("losses", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("charged_attempt", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("delivered", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("counted", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("told", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("final_seq", sa.BigInteger()),
        sa.Column("accepted_ms", sa.BigInteger(), nullable=False),
        sa.Column("deadline_ms", sa.BigInteger(), nullable=False),
        sa.Column("not_before_ms", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("started_ms", sa.BigInteger()),
        sa.Column("ended_ms", sa.BigInteger()),
        sa.Column("result", sa.Text(), nullable=False, server_default=""),
        sa.Column("svg", sa.Text(), nullable=False, server_default=""),
        sa.Column("has_svg", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("truncated", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("cached", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("error", sa.Text(), nullable=False, server_default=""),
        sa.Column("code", sa.String(32)),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("cache_read_tokens", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("cache_write_5m_tokens", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("cache_write_1h_tokens", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("cost_nano_usd", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("cost_estimated", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("estimated_input_tokens", sa.Integer(), nullable=False),
        sa.Column("estimated_output_tokens", sa.Integer(), nullable=False),
        sa.Column("traceparent", sa.String(64), nullable=False, server_default=""),
        sqlite_autoincrement=True,
    )


def _index_requests() -> None:
    op.create_index(
        "scheduler_requests_alive",
        "scheduler_requests",
        ["user_id"],
        postgresql_where=sa.text("state IN ('queued', 'running')"),
        sqlite_where=sa.text("state IN ('queued', 'running')"),
    )
    op.create_index(
        "scheduler_requests_deadline",
        "scheduler_requests",
        ["deadline_ms"],
        postgresql_where=sa.text("state = 'queued'"),
        sqlite_where=sa.text("state = 'queued'"),
    )
    op.create_index(
        "scheduler_requests_queued",
        "scheduler_requests",
        ["acceptance"],
        postgresql_where=sa.text("state = 'queued'"),
        sqlite_where=sa.text("state = 'queued'"),
    )
    op.create_index(
        "scheduler_requests_running",
        "scheduler_requests",
        ["acceptance"],
        postgresql_where=sa.text("state = 'running'"),
        sqlite_where=sa.text("state = 'running'"),
    )
    op.create_index(
        "scheduler_requests_untold",
        "scheduler_requests",
        ["acceptance"],
        postgresql_where=sa.text("state NOT IN ('queued', 'running') AND NOT told"),
        sqlite_where=sa.text("state NOT IN ('queued', 'running') AND NOT told"),
    )
    op.create_index("scheduler_requests_user", "scheduler_requests", ["user_id", "acceptance"])


def _create_tombstones() -> None:
    op.create_table(
        "scheduler_tombstones",
        sa.Column("request_id", sa.String(64), primary_key=True),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("made_ms", sa.BigInteger(), nullable=False),
    )


def _create_users() -> None:
    op.create_table(
        "scheduler_users",
        sa.Column("user_id", sa.String(128), primary_key=True),
        sa.Column("tier", sa.String(64), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("share", sa.Integer(), nullable=False),
        sa.Column("outstanding", sa.Integer(), nullable=False),
    )
