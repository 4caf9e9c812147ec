"""Users, keys, reservations, days, charges, the outbox and the audit."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False)


def _integer(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False)


def _number() -> sa.Column[int]:
    return sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True)


def upgrade() -> None:
    _create_people()
    _create_places()
    _create_charges()
    _create_logs()


def _create_people() -> None:
    op.create_table(
        "quota_users",
        sa.Column("user_id", sa.Text, primary_key=True),
        *map(_text, ("email", "tier")),
        _integer("tier_version"),
        _text("status"),
        _integer("create_time_ms"),
    )
    op.create_table(
        "quota_keys",
        sa.Column("key_id", sa.Text, primary_key=True),
        sa.Column("user_id", sa.Text, sa.ForeignKey("quota_users.user_id"), nullable=False),
        sa.Column("secret_hash", sa.LargeBinary, nullable=False),
        _integer("create_time_ms"),
        sa.Column("revoke_time_ms", sa.BigInteger),
    )
    op.create_index("quota_keys_by_user", "quota_keys", ["user_id", "create_time_ms"])


def _create_places() -> None:
    op.create_table(
        "quota_reservations",
        sa.Column("request_id", sa.Text, primary_key=True),
        *map(_text, ("user_id", "day")),
        _integer("generation"),
        _text("state"),
        sa.Column("live", sa.Boolean, nullable=False),
        _integer("reserve_time_ms"),
        sa.Column("settle_time_ms", sa.BigInteger),
    )
    op.create_index(
        "quota_reservations_unresolved",
        "quota_reservations",
        ["reserve_time_ms", "request_id"],
        postgresql_where=sa.text("state = 'pending' AND NOT live"),
        sqlite_where=sa.text("state = 'pending' AND live = 0"),
    )
    op.create_index("quota_reservations_by_settle_time", "quota_reservations", ["settle_time_ms"])
    op.create_table(
        "quota_days",
        *map(_text, ("user_id", "day")),
        _integer("used"),
        sa.PrimaryKeyConstraint("user_id", "day"),
    )


def _create_charges() -> None:
    op.create_table(
        "quota_charges",
        _text("request_id"),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("turn", sa.Integer, nullable=False),
        *map(_text, ("user_id", "model", "kind")),
        *map(_integer, ("input_tokens", "output_tokens", "cache_read_input_tokens")),
        *map(_integer, ("cache_write_5m_input_tokens", "cache_write_1h_input_tokens", "cost_nano_usd")),
        sa.Column("estimated", sa.Boolean, nullable=False),
        _text("day"),
        _integer("end_time_ms"),
        sa.PrimaryKeyConstraint("request_id", "attempt", "turn"),
    )
    op.create_index("quota_charges_by_day", "quota_charges", ["day", "user_id"])


def _create_logs() -> None:
    op.create_table(
        "quota_outbox",
        _number(),
        *map(_text, ("user_id", "tier")),
        *map(_integer, ("tier_version", "create_time_ms")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "quota_audit",
        _number(),
        _integer("time_ms"),
        *map(_text, ("actor", "action", "subject", "old", "new")),
        sqlite_autoincrement=True,
    )
    op.create_index("quota_audit_by_time", "quota_audit", ["time_ms"])
