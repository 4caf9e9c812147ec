"""The SQL statements of billing, by name; as in `statements`, each serves both databases."""

from __future__ import annotations

from sqlalchemy import bindparam, select, update
from sqlalchemy.dialects.postgresql import insert

from services.quota.tables import billing_events, customers, subscriptions

KEEP_BILLING_EVENT = insert(billing_events).on_conflict_do_nothing().returning(billing_events.c.event_id)
_EVENT = billing_events.c.event_id == bindparam("id")
LOCK_BILLING_EVENT = select(billing_events.c.applied).where(_EVENT).with_for_update()
UPDATE_BILLING_EVENT = (
    update(billing_events)
    .where(_EVENT)
    .values(user_id=bindparam("owner"), applied=bindparam("is_applied"), reason=bindparam("why"))
)
KEEP_CUSTOMER = insert(customers).on_conflict_do_nothing()
_CUSTOMER = customers.c.customer_id == bindparam("id")
LOCK_CUSTOMER = select(customers.c.user_id).where(_CUSTOMER).with_for_update()
SET_CUSTOMER = update(customers).where(_CUSTOMER).values(user_id=bindparam("owner"))
FIND_SUBSCRIPTION = select(subscriptions).where(subscriptions.c.subscription_id == bindparam("id"))
_new_subscription = insert(subscriptions)
KEEP_SUBSCRIPTION = _new_subscription.on_conflict_do_update(
    index_elements=[subscriptions.c.subscription_id],
    set_={c.name: _new_subscription.excluded[c.name] for c in subscriptions.c if not c.primary_key},
)
GIVE_SUBSCRIPTIONS = (
    update(subscriptions)
    .where(subscriptions.c.customer_id == bindparam("customer"), subscriptions.c.user_id == "")
    .values(user_id=bindparam("owner"))
)
LIST_SUBSCRIPTIONS = select(subscriptions).where(
    subscriptions.c.user_id == bindparam("owner"), ~subscriptions.c.deleted
)
