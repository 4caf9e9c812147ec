"""The tables of quota; all are prefixed, for quota and scheduler may share a database."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    false,
    literal_column,
)
from sqlalchemy.schema import SchemaItem

metadata = MetaData()
# SQLite numbers rows by itself only under a key of type INTEGER.
_number = BigInteger().with_variant(Integer, "sqlite")


def _table(name: str, *items: SchemaItem, numbered: bool = False) -> Table:
    # A number is never used again: SQLite else gives a deleted row's to the next one, and whoever still held the old
    # one would delete a message that nobody had delivered.
    return Table(f"quota_{name}", metadata, *items, sqlite_autoincrement=numbered)


def _text(name: str, *, primary_key: bool = False) -> Column[str]:
    return Column(name, Text, nullable=False, primary_key=primary_key)


def _integer(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False)


def _count(name: str) -> Column[int]:
    # A default of the database: the release before this one writes rows without it.
    return Column(name, BigInteger, nullable=False, server_default="0")


def _maybe(name: str) -> Column[int]:
    return Column(name, BigInteger)


_TOKENS = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_write_input_tokens")
_SUMS = ("requests", "completed", "cached", *_TOKENS, "cost_nano_usd", "saved_by_equals_nano_usd")
SUMS = (*_SUMS, "saved_by_prompt_cache_nano_usd")
"""What is added up of everything that is used, by user and day and by hour, tier, model and kind."""


users = _table(
    "users",
    _text("user_id", primary_key=True),
    _text("email"),
    _text("tier"),
    _integer("tier_version"),
    _text("status"),
    _integer("create_time_ms"),
    # Terms of their own; NULL where the tier's hold.
    _maybe("own_requests_per_day"),
    _maybe("own_outstanding"),
    _maybe("own_price_nano_usd_per_month"),
    _maybe("own_requests_per_minute"),
    _maybe("own_tokens_per_day"),
    _maybe("own_spend_nano_usd_per_month"),
    _maybe("own_spend_nano_usd_per_day"),
)

keys = _table(
    "keys",
    _text("key_id", primary_key=True),
    Column("user_id", Text, ForeignKey("quota_users.user_id"), nullable=False),
    Column("secret_hash", LargeBinary, nullable=False),
    _integer("create_time_ms"),
    Column("revoke_time_ms", BigInteger),
    Index("quota_keys_by_user", "user_id", "create_time_ms"),
)

reservations = _table(
    "reservations",
    _text("request_id", primary_key=True),
    _text("user_id"),
    _text("day"),
    _integer("generation"),
    _text("state"),
    Column("live", Boolean, nullable=False),
    _integer("reserve_time_ms"),
    Column("settle_time_ms", BigInteger),
)
# Written out rather than bound: a planner can match a partial index only to a literal condition.
unresolved = (reservations.c.state == literal_column("'pending'")) & ~reservations.c.live
Index(
    "quota_reservations_unresolved",
    reservations.c.reserve_time_ms,
    reservations.c.request_id,
    postgresql_where=unresolved,
    sqlite_where=unresolved,
)
# Few at any time: what was asked about and is not settled.
Index(
    "quota_reservations_live",
    reservations.c.day,
    postgresql_where=reservations.c.live,
    sqlite_where=reservations.c.live,
)
# What retention will delete by.
Index("quota_reservations_by_settle_time", reservations.c.settle_time_ms)

days = _table(
    "days",
    _text("user_id"),
    _text("day"),
    # Places taken: counted and held.
    _integer("used"),
    # The minute since 1970 in which the latest place was taken, and how many were taken in it.
    _count("minute"),
    _count("minute_used"),
    *map(_count, SUMS),
    PrimaryKeyConstraint("user_id", "day"),
    Index("quota_days_by_day", "day", "user_id"),
)

hours = _table(
    "hours",
    # Since 1970; of what began on a day and ended later the last of that day.
    _integer("hour"),
    _text("tier"),
    _text("model"),
    _text("kind"),
    *map(_count, SUMS),
    PrimaryKeyConstraint("hour", "tier", "model", "kind"),
)

# What users had agreed to, from when on: revenue of a day is that of the terms held at its end.
terms = _table(
    "terms",
    Column("number", _number, primary_key=True),
    _text("user_id"),
    _integer("from_ms"),
    _text("tier"),
    # NULL: the tier's price.
    _maybe("own_price_nano_usd_per_month"),
    Index("quota_terms_by_user", "user_id", "from_ms"),
    numbered=True,
)

# Revenue of the days that are over, once for each user who pays, at the price of that day.
revenue = _table(
    "revenue",
    _text("day"),
    _text("user_id"),
    _text("tier"),
    _integer("revenue_nano_usd"),
    # As in `days`: a page reads what its users brought in, not what everybody did.
    PrimaryKeyConstraint("user_id", "day"),
    Index("quota_revenue_by_day", "day"),
)

# The same by tier; that a day is here says that it is closed.
tier_days = _table(
    "tier_days",
    _text("day"),
    _text("tier"),
    _integer("users"),
    _integer("revenue_nano_usd"),
    PrimaryKeyConstraint("day", "tier"),
)

billing_events = _table(
    "billing_events",
    _text("event_id", primary_key=True),
    _text("type"),
    # Seconds since 1970, as Stripe has them.
    _integer("created_s"),
    _integer("receive_time_ms"),
    _text("subscription_id"),
    _text("user_id"),
    Column("applied", Boolean, nullable=False),
    _text("reason"),
)

subscriptions = _table(
    "subscriptions",
    _text("subscription_id", primary_key=True),
    _text("customer_id"),
    _text("user_id"),
    _text("status"),
    _text("tier"),
    # Of the newest event that was read.
    _integer("event_created_s"),
    Column("deleted", Boolean, nullable=False),
    Index("quota_subscriptions_by_user", "user_id"),
    # Whose a customer is may be told after what the customer has.
    Index("quota_subscriptions_by_customer", "customer_id"),
)

customers = _table("customers", _text("customer_id", primary_key=True), _text("user_id"))

charges = _table(
    "charges",
    _text("request_id"),
    Column("attempt", Integer, nullable=False),
    Column("turn", Integer, nullable=False),
    _text("user_id"),
    _text("model"),
    _text("kind"),
    _integer("input_tokens"),
    _integer("output_tokens"),
    _integer("cache_read_input_tokens"),
    _integer("cache_write_5m_input_tokens"),
    _integer("cache_write_1h_input_tokens"),
    _integer("cost_nano_usd"),
    Column("estimated", Boolean, nullable=False),
    _text("day"),
    _integer("end_time_ms"),
    # Empty where the release before this one wrote it.
    Column("tier", Text, nullable=False, server_default=""),
    # Whether it is in the sums; what the release before this one wrote is not until Ledger.sum_old has added it.
    Column("summed", Boolean, nullable=False, server_default=false()),
    PrimaryKeyConstraint("request_id", "attempt", "turn"),
    Index("quota_charges_by_day", "day", "user_id"),
)
unsummed = ~charges.c.summed
Index("quota_charges_unsummed", charges.c.end_time_ms, postgresql_where=unsummed, sqlite_where=unsummed)

outbox = _table(
    "outbox",
    Column("number", _number, primary_key=True),
    _text("user_id"),
    _text("tier"),
    _integer("tier_version"),
    _integer("create_time_ms"),
    numbered=True,
)

audit = _table(
    "audit",
    Column("number", _number, primary_key=True),
    _integer("time_ms"),
    _text("actor"),
    _text("action"),
    _text("subject"),
    _text("old"),
    _text("new"),
    # Of what another service changed; NULL for our own.
    Column("audit_id", Text, unique=True),
    Index("quota_audit_by_time", "time_ms"),
    Index("quota_audit_by_subject", "subject", "number"),
    numbered=True,
)
