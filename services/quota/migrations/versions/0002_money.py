"""Limits and terms of users, sums of what is used, revenue, subscriptions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_SUMS = (
    "requests",
    "completed",
    "cached",
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_write_input_tokens",
    "cost_nano_usd",
    "saved_by_equals_nano_usd",
    "saved_by_prompt_cache_nano_usd",
)


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False)


def _integer(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False)


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default="0")


def upgrade() -> None:
    """Every new column has a default: the release before this one goes on beside it."""
    _add_columns()
    _index_live()
    _create_sums()
    _create_revenue()
    _create_billing()
    _fill()


def _add_columns() -> None:
    for term in (
        "requests_per_day",
        "outstanding",
        "price_nano_usd_per_month",
        "requests_per_minute",
        "tokens_per_day",
        "spend_nano_usd_per_month",
        "spend_nano_usd_per_day",
    ):
        op.add_column("quota_users", sa.Column(f"own_{term}", sa.BigInteger))
    for name in ("minute", "minute_used", *_SUMS):
        op.add_column("quota_days", _count(name))
    op.create_index("quota_days_by_day", "quota_days", ["day", "user_id"])
    op.add_column("quota_charges", sa.Column("tier", sa.Text, nullable=False, server_default=""))
    op.add_column("quota_charges", sa.Column("summed", sa.Boolean, nullable=False, server_default=sa.false()))
    op.create_index(
        "quota_charges_unsummed",
        "quota_charges",
        ["end_time_ms"],
        postgresql_where=sa.text("NOT summed"),
        sqlite_where=sa.text("summed = 0"),
    )
    with op.batch_alter_table("quota_audit") as audit:
        audit.add_column(sa.Column("audit_id", sa.Text))
        audit.create_unique_constraint("quota_audit_id", ["audit_id"])
        audit.create_index("quota_audit_by_subject", ["subject", "number"])


def _index_live() -> None:
    # The release before this one left that on what it had settled.
    op.execute("UPDATE quota_reservations SET live = false WHERE live AND state <> 'pending'")
    op.create_index(
        "quota_reservations_live",
        "quota_reservations",
        ["day"],
        postgresql_where=sa.text("live"),
        sqlite_where=sa.text("live = 1"),
    )


def _create_sums() -> None:
    op.create_table(
        "quota_hours",
        _integer("hour"),
        *map(_text, ("tier", "model", "kind")),
        *map(_count, _SUMS),
        sa.PrimaryKeyConstraint("hour", "tier", "model", "kind"),
    )


def _create_revenue() -> None:
    op.create_table(
        "quota_terms",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        _text("user_id"),
        _integer("from_ms"),
        _text("tier"),
        sa.Column("own_price_nano_usd_per_month", sa.BigInteger),
        sqlite_autoincrement=True,
    )
    op.create_index("quota_terms_by_user", "quota_terms", ["user_id", "from_ms"])
    op.create_table(
        "quota_revenue",
        *map(_text, ("day", "user_id", "tier")),
        _integer("revenue_nano_usd"),
        sa.PrimaryKeyConstraint("user_id", "day"),
    )
    op.create_index("quota_revenue_by_day", "quota_revenue", ["day"])
    op.create_table(
        "quota_tier_days",
        *map(_text, ("day", "tier")),
        *map(_integer, ("users", "revenue_nano_usd")),
        sa.PrimaryKeyConstraint("day", "tier"),
    )


def _create_billing() -> None:
    op.create_table(
        "quota_billing_events",
        sa.Column("event_id", sa.Text, primary_key=True),
        _text("type"),
        *map(_integer, ("created_s", "receive_time_ms")),
        *map(_text, ("subscription_id", "user_id")),
        sa.Column("applied", sa.Boolean, nullable=False),
        _text("reason"),
    )
    op.create_table(
        "quota_subscriptions",
        sa.Column("subscription_id", sa.Text, primary_key=True),
        *map(_text, ("customer_id", "user_id", "status", "tier")),
        _integer("event_created_s"),
        sa.Column("deleted", sa.Boolean, nullable=False),
    )
    op.create_index("quota_subscriptions_by_user", "quota_subscriptions", ["user_id"])
    op.create_index("quota_subscriptions_by_customer", "quota_subscriptions", ["customer_id"])
    op.create_table("quota_customers", sa.Column("customer_id", sa.Text, primary_key=True), _text("user_id"))


def _fill() -> None:
    """What users there are have had their tier since they came, as far as anybody knows.

    Charges are added to the sums by the service, a few at a time: a statement for all of them would hold up the release
    before for as long as it takes, and miss what that release writes afterwards.
    """
    op.execute(
        "INSERT INTO quota_terms (user_id, from_ms, tier) SELECT user_id, create_time_ms, tier FROM quota_users"
        " ORDER BY create_time_ms, user_id"
    )
