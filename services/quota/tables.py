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


users = _table(
    "users",
    _text("user_id", primary_key=True),
    _text("email"),
    _text("tier"),
    _integer("tier_version"),
    _text("status"),
    _integer("create_time_ms"),
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
# What retention will delete by.
Index("quota_reservations_by_settle_time", reservations.c.settle_time_ms)

days = _table("days", _text("user_id"), _text("day"), _integer("used"), PrimaryKeyConstraint("user_id", "day"))

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
    PrimaryKeyConstraint("request_id", "attempt", "turn"),
    Index("quota_charges_by_day", "day", "user_id"),
)

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
    Index("quota_audit_by_time", "time_ms"),
    numbered=True,
)
