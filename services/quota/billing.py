"""What Stripe's events mean for a user's tier. No I/O."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.quota.plans import Plans

TOLERANCE_S = 300
"""How far a signature's time may be from ours; Stripe's own libraries allow as much into the past."""
COUNTING = frozenset({"active", "trialing", "past_due"})
CHECKOUT = "checkout.session.completed"
DELETED = "customer.subscription.deleted"
READ = frozenset({CHECKOUT, DELETED, "customer.subscription.created", "customer.subscription.updated"})
MOST_CHARACTERS = 255
"""Of Stripe's ids and words; its own limit is 255 for ids."""
_TIME = re.compile(r"[0-9]{1,12}")

RECEIVED = "received before"
DELETED_BEFORE = "its subscription was deleted"
OLDER = "older than what is known of its subscription"
UNKNOWN_TYPE = "events of this type are not read"
UNKNOWN_USER = "unknown user"
UNKNOWN_TIER = "unknown tier"
MALFORMED = "not an event as it should be"


@dataclass(frozen=True)
class Event:
    """An event, as far as it is read; what it lacks is empty."""

    event_id: str
    type: str
    created_s: int
    subscription_id: str = ""
    customer_id: str = ""
    user_id: str = ""
    status: str = ""
    tier: str = ""

    @property
    def whole(self) -> bool:
        """Whether it has what its type must have."""
        if self.type == CHECKOUT:
            return bool(self.customer_id and self.user_id)
        return bool(self.subscription_id and self.customer_id and self.created_s >= 0)


@dataclass(frozen=True)
class Subscription:
    """A subscription as the newest event told it; `user_id` is empty while nobody knows whose it is."""

    subscription_id: str
    customer_id: str
    user_id: str
    status: str
    tier: str
    event_created_s: int
    deleted: bool

    @property
    def counts(self) -> bool:
        """Whether it gives its user the tier."""
        return not self.deleted and self.status in COUNTING


def is_signed(payload: bytes, header: str, secrets: Sequence[bytes], now_ms: int) -> bool:
    """Whether one of the signatures in the header is ours, of these bytes and of now."""
    fields = [field.strip().partition("=") for field in header.split(",")]
    times = [value for name, _, value in fields if name == "t"]
    if len(times) != 1 or not _TIME.fullmatch(times[0]) or abs(now_ms / 1000 - int(times[0])) > TOLERANCE_S:
        return False
    signed = times[0].encode() + b"." + payload
    wanted = [hmac.new(secret, signed, hashlib.sha256).hexdigest().encode() for secret in secrets]
    given = [value.encode() for name, _, value in fields if name == "v1"]
    # Each is compared with each, in constant time.
    return sum(hmac.compare_digest(ours, theirs) for ours in wanted for theirs in given) > 0


def read_event(payload: bytes) -> Event:
    """The event in a body that is Stripe's; one that is no event keeps its digest as its id."""
    try:
        body = json.loads(payload)
    except (ValueError, RecursionError):
        body = None
    event_id = _text(body, "id") or f"sha256:{hashlib.sha256(payload).hexdigest()}"
    kind, created_s = _text(body, "type"), _field(body, "created")
    if type(created_s) is not int or not 0 <= created_s < 2**53:
        created_s = -1
    thing = _field(body, "data", "object")
    customer_id = _text(thing, "customer")
    if kind == CHECKOUT:
        return Event(event_id, kind, created_s, customer_id=customer_id, user_id=_text(thing, "client_reference_id"))
    if kind not in READ:
        return Event(event_id, kind, created_s)
    items = _field(thing, "items", "data")
    price = _field(items[0], "price") if isinstance(items, list) and items else None
    tier = _text(price, "lookup_key") or _text(price, "metadata", "tier") or _text(thing, "metadata", "tier")
    user_id, status = _text(thing, "metadata", "user_id"), _text(thing, "status")
    return Event(event_id, kind, created_s, _text(thing, "id"), customer_id, user_id, status, tier)


def after(known: Subscription | None, event: Event, customers_user: str, plans: Plans) -> Subscription | str:
    """The subscription once the event was read, or why it stays as it is."""
    deleted = event.type == DELETED
    if known and known.deleted:
        return DELETED_BEFORE
    # That it was deleted is its last word whatever the clocks say: so the order in which events come does not matter.
    if known and event.created_s < known.event_created_s and not deleted:
        return OLDER
    # Whose it is stays so until an event names another.
    user_id = event.user_id or (known.user_id if known else "") or customers_user
    made = Subscription(
        event.subscription_id, event.customer_id, user_id, event.status, event.tier, event.created_s, deleted
    )
    # Only one that counts needs a tier: an end must be understood whatever was sold.
    if made.counts and event.tier not in plans:
        return UNKNOWN_TIER
    return made


def tier_of(subscriptions: Iterable[Subscription], plans: Plans) -> str:
    """The highest tier of those that count, else the default one."""
    held = {subscription.tier for subscription in subscriptions if subscription.counts}
    return next((tier.name for tier in reversed(plans.tiers) if tier.name in held), plans.default)


def _field(value: Any, *path: str) -> Any:
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _text(value: Any, *path: str) -> str:
    found = _field(value, *path)
    usable = isinstance(found, str) and len(found) <= MOST_CHARACTERS and found.isprintable()
    return found if usable else ""
