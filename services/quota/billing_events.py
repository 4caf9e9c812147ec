"""Stripe's events: kept, applied in one transaction each, and shown in the audit."""

from __future__ import annotations

from collections.abc import Sequence

from services.clock import Clock
from services.quota import billing
from services.quota.accounts import Accounts
from services.quota.billing import Event, Subscription
from services.quota.model import AuditEntry, InvalidSignature, NotFound
from services.quota.plans import Plans
from services.quota.ports import Store, Transaction

ACTOR = "stripe"


class BillingEvents:
    """Receives what Stripe sends, signed with one of the secrets; nothing is received where there is none."""

    def __init__(self, store: Store, plans: Plans, accounts: Accounts, clock: Clock, secrets: Sequence[str]) -> None:
        self._store = store
        self._plans = plans
        self._accounts = accounts
        self._clock = clock
        self._secrets = [secret.encode() for secret in secrets]

    async def receive(self, payload: bytes, signature: str) -> str:
        """Empty if it was applied, else why not; committed either way. Raises `InvalidSignature`, `NotFound`."""
        if not self._secrets:
            raise NotFound("webhook")
        now_ms = self._clock.now_ms()
        if not billing.is_signed(payload, signature, self._secrets, now_ms):
            raise InvalidSignature
        event = billing.read_event(payload)
        return await self._store.write(lambda tx: self._receive(tx, event, now_ms))

    def _receive(self, tx: Transaction, event: Event, now_ms: int) -> str:
        owner = ""
        # One that was of no use may be sent again once the user or the tier is there.
        if tx.keep_billing_event(event, now_ms):
            reason = billing.RECEIVED
        else:
            owner, reason = self._apply(tx, event)
            tx.update_billing_event(event.event_id, owner, reason)
        told = f"{event.type or 'unknown'} {event.event_id}: {reason or 'applied'}"
        tx.record_audit(AuditEntry(now_ms, ACTOR, "billing.event", owner or event.event_id, "", told))
        return reason

    def _apply(self, tx: Transaction, event: Event) -> tuple[str, str]:
        """Whose event it is, and why it was not applied."""
        if event.type not in billing.READ:
            return "", billing.UNKNOWN_TYPE
        if not event.whole:
            return "", billing.MALFORMED
        # Locked first: whose a customer is and what a customer has may be told at the same time.
        customers_user = tx.lock_customer(event.customer_id)
        if event.type == billing.CHECKOUT:
            owner = event.user_id
            tx.set_customer(event.customer_id, owner)
            changed = {owner} if tx.give_subscriptions(event.customer_id, owner) else set()
        else:
            known = tx.find_subscription(event.subscription_id)
            made = billing.after(known, event, customers_user, self._plans)
            if not isinstance(made, Subscription):
                return known.user_id if known else "", made
            # Kept whoever it is of: the user may become known later.
            tx.keep_subscription(made)
            owner, changed = made.user_id, {made.user_id, known.user_id if known else ""}
        # In one order everywhere, so that two events cannot wait for each other.
        for user_id in sorted(changed - {""}):
            # Before looking: a user who is being made at this moment is found, or finds what was kept.
            tx.claim_user_id(user_id)
            if user := tx.find_user(user_id, lock=True):
                tier = billing.tier_of(tx.list_subscriptions(user_id), self._plans)
                self._accounts.move(tx, user, tier, ACTOR)
        return owner, "" if tx.find_user(owner) else billing.UNKNOWN_USER
