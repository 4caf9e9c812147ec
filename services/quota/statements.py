"""Every SQL statement of quota, by name, for PostgreSQL and SQLite alike.

`insert` is PostgreSQL's: SQLite took over its ON CONFLICT and RETURNING, and SQLAlchemy
writes this one construct for both.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Text, and_, bindparam, delete, func, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert

from services.quota.tables import audit, charges, days, keys, outbox, reservations, unresolved, users

FIND_USER = select(users).where(users.c.user_id == bindparam("id"))
LOCK_USER = FIND_USER.with_for_update()
INSERT_USER = insert(users).on_conflict_do_nothing().returning(users.c.user_id)
UPDATE_TIER = (
    update(users)
    .where(users.c.user_id == bindparam("id"))
    .values(tier=bindparam("new_tier"), tier_version=bindparam("new_version"))
)
UPDATE_STATUS = update(users).where(users.c.user_id == bindparam("id")).values(status=bindparam("new_status"))
HELD_TIERS = select(users.c.tier).distinct()

FIND_KEY = (
    select(keys.c.key_id, keys.c.secret_hash, keys.c.revoke_time_ms, users)
    .join_from(keys, users)
    .where(keys.c.key_id == bindparam("id"))
)
_KEY = select(keys.c.key_id, keys.c.user_id, keys.c.create_time_ms, keys.c.revoke_time_ms)
LOCK_KEY = _KEY.where(keys.c.key_id == bindparam("id")).with_for_update()
LIST_KEYS = (
    _KEY.where(keys.c.user_id == bindparam("id"))
    .order_by(keys.c.create_time_ms.desc(), keys.c.key_id)
    .limit(bindparam("most"))
)
INSERT_KEY = insert(keys)
REVOKE_KEY = update(keys).where(keys.c.key_id == bindparam("id")).values(revoke_time_ms=bindparam("now_ms"))

INSERT_RESERVATION = insert(reservations).on_conflict_do_nothing().returning(reservations.c.request_id)
FIND_RESERVATION = select(reservations).where(reservations.c.request_id == bindparam("id"))
LOCK_RESERVATIONS = (
    select(reservations)
    .where(reservations.c.request_id.in_(bindparam("ids", expanding=True)))
    # One order everywhere, so that two batches cannot wait for each other.
    .order_by(reservations.c.request_id)
    .with_for_update()
)
UPDATE_RESERVATION = update(reservations).where(
    and_(
        reservations.c.request_id == bindparam("id"),
        reservations.c.state == bindparam("old_state"),
        reservations.c.generation == bindparam("old_generation"),
    )
)
LIST_UNRESOLVED = (
    select(reservations)
    .where(
        unresolved,
        reservations.c.reserve_time_ms < bindparam("before_ms"),
        tuple_(reservations.c.reserve_time_ms, reservations.c.request_id)
        > tuple_(bindparam("after_ms", type_=BigInteger), bindparam("after_id", type_=Text)),
    )
    .order_by(reservations.c.reserve_time_ms, reservations.c.request_id)
    .limit(bindparam("most"))
)

# The limit is in the statement itself: whoever else takes a place at this moment is seen by it.
TAKE_PLACE = (
    insert(days)
    .values(user_id=bindparam("user_id"), day=bindparam("day"), used=1)
    .on_conflict_do_update(
        index_elements=[days.c.user_id, days.c.day],
        set_={"used": days.c.used + 1},
        where=days.c.used < bindparam("most"),
    )
    .returning(days.c.used)
)
_DAY = and_(days.c.user_id == bindparam("of_user"), days.c.day == bindparam("of_day"))
GIVE_BACK = update(days).where(_DAY).values(used=days.c.used - bindparam("places"))
COUNT_USED = select(func.coalesce(func.max(days.c.used), 0)).where(_DAY)

_new_charge = insert(charges)
RECORD_CHARGE = _new_charge.on_conflict_do_update(
    index_elements=[charges.c.request_id, charges.c.attempt, charges.c.turn],
    set_={column.name: _new_charge.excluded[column.name] for column in charges.c if not column.primary_key},
    where=and_(charges.c.estimated, ~_new_charge.excluded.estimated),
)

INSERT_TIER_CHANGE = insert(outbox)
LIST_TIER_CHANGES = (
    select(outbox.c.number, outbox.c.user_id, outbox.c.tier, outbox.c.tier_version)
    .order_by(outbox.c.number)
    .limit(bindparam("most"))
)
DELETE_TIER_CHANGES = delete(outbox).where(outbox.c.number.in_(bindparam("numbers", expanding=True)))
INSERT_AUDIT = insert(audit).on_conflict_do_nothing()
LIST_AUDIT = (
    select(*(audit.c[name] for name in ("number", "time_ms", "actor", "action", "subject", "old", "new")))
    .where(audit.c.number < bindparam("below", type_=BigInteger))
    .order_by(audit.c.number.desc())
    .limit(bindparam("most"))
)
LIST_AUDIT_OF = LIST_AUDIT.where(audit.c.subject == bindparam("of"))
