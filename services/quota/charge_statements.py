"""The statements of charges."""

from __future__ import annotations

from sqlalchemy import bindparam, select, update
from sqlalchemy.dialects.postgresql import insert

from services.quota.tables import charges, unsummed

INSERT_CHARGE = insert(charges).on_conflict_do_nothing().returning(*charges.primary_key)
LOCK_ESTIMATES = (
    select(charges)
    .where(charges.c.request_id.in_(bindparam("ids", expanding=True)), charges.c.estimated)
    .order_by(*charges.primary_key)
    .with_for_update()
)
REPLACE_CHARGE = (
    update(charges)
    .where(*(column == bindparam(f"new_{column.name}") for column in charges.primary_key))
    .values({column.name: bindparam(f"new_{column.name}") for column in charges.c if not column.primary_key})
)
# Of several at once, each takes others; none waits here, so the order of the locks does not matter.
LOCK_UNSUMMED = (
    select(charges)
    .where(unsummed)
    .order_by(charges.c.end_time_ms)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
)
