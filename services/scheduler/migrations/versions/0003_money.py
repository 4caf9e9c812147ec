"""What quota is told of each end, the provider plan in force, use of the limits, alerts."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Every new column has a default: the release before this one goes on beside it."""
    op.add_column("scheduler_users", sa.Column("spend_nano_usd_per_day", sa.BigInteger))
    for column in (
        sa.Column("day", sa.String(10), nullable=False, server_default=""),
        sa.Column("tier", sa.String(64), nullable=False, server_default=""),
        sa.Column("model", sa.String(128), nullable=False, server_default=""),
        sa.Column("completed", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("cached", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("saved_nano_usd", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("cost_nano_usd", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("spent_day", sa.Integer, nullable=False, server_default="0"),
    ):
        op.add_column("scheduler_outbox", column)
    # The release before marks no attempt that cost nothing; it would be taken for unpaid once its request is cancelled.
    op.execute(
        "UPDATE scheduler_requests SET charged_attempt = attempt WHERE state = 'queued' AND charged_attempt < attempt"
    )
    unpaid = sa.text("state = 'cancelled' AND charged_attempt < attempt")
    op.create_index(
        "scheduler_requests_unpaid",
        "scheduler_requests",
        ["ended_ms"],
        postgresql_where=unpaid,
        sqlite_where=unpaid,
    )
    _operating()
    _watching()
    _spending()


def _operating() -> None:
    op.create_table(
        "scheduler_provider",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("plan", sa.String(64), nullable=False),
        sa.Column("overrides", sa.Text, nullable=False),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("changed_ms", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "scheduler_stopped",
        sa.Column("pool", sa.String(64), primary_key=True),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("changed_ms", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "scheduler_audit_outbox",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("audit_id", sa.String(64), nullable=False),
        sa.Column("time_ms", sa.BigInteger, nullable=False),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("subject", sa.String(200), nullable=False),
        sa.Column("old", sa.Text, nullable=False),
        sa.Column("new", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )


def _watching() -> None:
    op.create_table(
        "scheduler_capacity",
        sa.Column("pool", sa.String(64), primary_key=True),
        sa.Column("dimension", sa.String(32), primary_key=True),
        sa.Column("hour", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("peak", sa.BigInteger, nullable=False),
        sa.Column("limit_then", sa.BigInteger, nullable=False),
        sa.Column("refusals", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "scheduler_alerts",
        sa.Column("subject", sa.String(200), primary_key=True),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("raised_ms", sa.BigInteger, nullable=False),
        sa.Column("ended_ms", sa.BigInteger),
        sa.Column("send_ms", sa.BigInteger),
        sa.Column("tries", sa.Integer, nullable=False, server_default="0"),
    )


def _spending() -> None:
    capped = sa.text("spend_nano_usd_per_day IS NOT NULL")
    op.create_index(
        "scheduler_users_capped", "scheduler_users", ["user_id"], postgresql_where=capped, sqlite_where=capped
    )
    op.create_table(
        "scheduler_spent",
        sa.Column("kind", sa.String(8), primary_key=True),
        sa.Column("name", sa.String(128), primary_key=True),
        sa.Column("day", sa.Integer, nullable=False),
        sa.Column("nano_usd", sa.BigInteger, nullable=False),
        sa.Column("cap_nano_usd", sa.BigInteger),
    )
