"""Stripe's events, made and signed by Stripe's own library, on both databases."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import stripe
from grpc import StatusCode
from headgate.quota.v1 import billing_pb2 as pb
from headgate.quota.v1 import ledger_pb2, quota_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from services.quota.billing import Subscription
from services.quota.settings import Settings
from services.quota.store import SqlTransaction
from services.settings import SettingsError, load
from tests.servers.quota import NOON_MS, STRIPE_SECRETS, Quota, refused, running_quota

NOON_S = NOON_MS // 1000
NUMBERS = itertools.count(1)
CREATED, UPDATED, DELETED = (f"customer.subscription.{what}" for what in ("created", "updated", "deleted"))


@dataclass(frozen=True)
class Sold:
    """A subscription and its customer."""

    number: int = field(default_factory=lambda: next(NUMBERS))
    customer: str = ""

    @property
    def customer_id(self) -> str:
        return self.customer or f"cus_{self.number}"

    def event(
        self, kind: str, created_s: int, tier: str = "pro", status: str = "active", user: str = "", **more: Any
    ) -> str:
        """An event of it; `more` replaces parts of the subscription."""
        price = {"id": "price_1", "object": "price", "lookup_key": tier, "metadata": {}}
        values = {
            "id": f"sub_{self.number}", "object": "subscription", "customer": self.customer_id, "status": status,
            "metadata": {"user_id": user} if user else {},
            "items": {"object": "list", "data": [{"id": "si_1", "object": "subscription_item", "price": price}]},
        }  # fmt: skip
        return event(kind, created_s, stripe.Subscription.construct_from({**values, **more}, None))


def event(kind: str, created_s: int, thing: Any) -> str:
    """The body of an event of Stripe."""
    told = {
        "id": f"evt_{next(NUMBERS)}", "object": "event", "type": kind, "created": created_s, "livemode": False,
        "api_version": "2026-10-28", "data": {"object": thing}, "pending_webhooks": 1,
        "request": {"id": None, "idempotency_key": None},
    }  # fmt: skip
    return str(stripe.Event.construct_from(told, None))


def checkout(customer: str | None, user: str | None, created_s: int = 1) -> str:
    """The body of the event that a checkout is done."""
    values = {"id": "cs_1", "object": "checkout.session", "customer": customer, "client_reference_id": user}
    return event("checkout.session.completed", created_s, stripe.checkout.Session.construct_from(values, None))


async def receive(
    quota: Quota, body: str | bytes, secret: str = STRIPE_SECRETS[0], age_s: int = 0, signature: str | None = None
) -> tuple[bool, str]:
    payload = body if isinstance(body, bytes) else body.encode()
    if signature is None:
        now_s = quota.clock.now_ms() // 1000
        signature = stripe.WebhookSignature.generate_signature_header(payload.decode(), secret, now_s - age_s)
        # What we take, Stripe's own library takes too.
        stripe.WebhookSignature.verify_header(payload, signature, secret)
    answer = await quota.billing.ReceiveStripeEvent(pb.ReceiveStripeEventRequest(payload=payload, signature=signature))
    return answer.applied, answer.reason


async def tier(quota: Quota, user_id: str) -> str:
    return (await quota.stub.GetUser(quota_pb2.GetUserRequest(user_id=user_id))).user.tier


async def audit(quota: Quota, subject: str) -> list[str]:
    page = await quota.ledger.ListAudit(ledger_pb2.ListAuditRequest(subject=subject))
    return [f"{e.actor} {e.action} {e.old}>{e.new}" for e in reversed(page.entries)]


async def test_a_subscription_is_the_tier_while_it_counts(quota: Quota) -> None:
    user, _ = await quota.user("free")
    sold = Sold()
    seen = []
    for kind, status in (
        (CREATED, "incomplete"), (UPDATED, "active"), (UPDATED, "past_due"), (UPDATED, "unpaid"),
        (UPDATED, "trialing"), (UPDATED, "paused"), (UPDATED, "active"), (DELETED, "canceled"),
    ):  # fmt: skip
        assert await receive(quota, sold.event(kind, 100 + len(seen), status=status, user=user)) == (True, "")
        seen.append(await tier(quota, user))
    assert seen == ["free", "pro", "pro", "free", "pro", "free", "pro", "free"]


async def test_a_tier_goes_the_way_of_one_that_an_administrator_sets(quota: Quota) -> None:
    user, _ = await quota.user("free")
    body = Sold().event(CREATED, 100, user=user)
    assert await receive(quota, body) == (True, "")
    await quota.service.tier_changes.deliver()
    assert (quota.scheduler.tiers[user].name, quota.scheduler.tiers[user].version) == ("pro", 2)
    assert (await audit(quota, user))[-2:] == [
        "stripe user.tier free>pro",
        f"stripe billing.event >{CREATED} {json.loads(body)['id']}: applied",
    ]


async def test_where_the_tier_is_read_from(quota: Quota) -> None:
    user, _ = await quota.user("free")
    price = {"lookup_key": None, "metadata": {"tier": "basic"}}
    of_price = Sold().event(CREATED, 100, user=user, items={"data": [{"price": price}]})
    assert await receive(quota, of_price) == (True, "")
    assert await tier(quota, user) == "basic"
    bare = {"items": {"data": [{"price": {"lookup_key": None, "metadata": {}}}]}}
    of_subscription = Sold().event(CREATED, 100, metadata={"tier": "pro", "user_id": user}, **bare)
    assert await receive(quota, of_subscription) == (True, "")
    assert await tier(quota, user) == "pro"
    # The first of these that is given counts, whatever the others say.
    gold = Sold().event(CREATED, 100, "gold", metadata={"tier": "pro", "user_id": user})
    assert await receive(quota, gold) == (False, "unknown tier")


async def test_the_highest_of_those_that_count(quota: Quota) -> None:
    user, _ = await quota.user("free")
    low, high = Sold(), Sold()
    await receive(quota, high.event(CREATED, 100, "pro", user=user))
    await receive(quota, low.event(CREATED, 200, "basic", user=user))
    assert await tier(quota, user) == "pro"
    await receive(quota, high.event(DELETED, 300, "pro", "canceled", user=user))
    assert await tier(quota, user) == "basic"


async def test_order_within_a_subscription(quota: Quota) -> None:
    user, _ = await quota.user("free")
    sold = Sold()
    newest = sold.event(UPDATED, 200, "pro", user=user)
    assert await receive(quota, newest) == (True, "")
    assert await receive(quota, sold.event(CREATED, 199, "basic", user=user)) == (
        False, "older than what is known of its subscription",
    )  # fmt: skip
    assert await receive(quota, newest) == (False, "received before")
    assert await tier(quota, user) == "pro"
    assert await receive(quota, sold.event(UPDATED, 200, "enterprise", user=user)) == (True, "")
    assert await receive(quota, newest) == (False, "received before")
    assert await tier(quota, user) == "enterprise"
    assert await receive(quota, sold.event(DELETED, 200, "pro", "canceled", user=user)) == (True, "")
    for later in (sold.event(UPDATED, 300, user=user), sold.event(DELETED, 300, user=user)):
        assert await receive(quota, later) == (False, "its subscription was deleted")
    assert await tier(quota, user) == "free"


async def test_a_tier_set_by_hand_stays_until_the_next_event_that_is_applied(quota: Quota) -> None:
    user, _ = await quota.user("free")
    sold = Sold()
    await receive(quota, sold.event(CREATED, 100, "basic", user=user))
    await quota.stub.SetUserTier(quota_pb2.SetUserTierRequest(user_id=user, tier="enterprise", actor="admin:1"))
    for body in (sold.event(UPDATED, 99, "pro", user=user), Sold().event(CREATED, 100, "gold", user=user),
                 checkout(sold.customer_id, user)):  # fmt: skip
        await receive(quota, body)
        assert await tier(quota, user) == "enterprise"
    await receive(quota, sold.event(UPDATED, 101, "basic", user=user))
    assert await tier(quota, user) == "basic"


@pytest.mark.parametrize("first", ["checkout", "subscription"])
async def test_a_checkout_tells_whose_a_customer_is(quota: Quota, first: str) -> None:
    user, _ = await quota.user("free")
    sold = Sold()
    told = {"checkout": checkout(sold.customer_id, user), "subscription": sold.event(CREATED, 100)}
    answers = [await receive(quota, told.pop(first)), await receive(quota, *told.values())]
    assert answers == [(True, "") if first == "checkout" else (False, "unknown user"), (True, "")]
    assert await tier(quota, user) == "pro"
    await receive(quota, sold.event(DELETED, 200, "pro", "canceled"))
    assert await tier(quota, user) == "free"


async def test_who_pays_before_they_first_call_has_the_tier_then(quota: Quota) -> None:
    named, customers, made = (f"user-{next(NUMBERS)}" for _ in range(3))
    bought = Sold()
    assert await receive(quota, Sold().event(CREATED, 100, user=named)) == (False, "unknown user")
    assert await receive(quota, bought.event(CREATED, 100)) == (False, "unknown user")
    assert await receive(quota, checkout(bought.customer_id, customers)) == (False, "unknown user")
    body = Sold().event(CREATED, 100, user=made)
    assert await receive(quota, body) == (False, "unknown user")
    for user in (named, customers):
        caller = quota_pb2.Caller(user_id=user, create_if_missing=True)
        assert (await quota.stub.Authenticate(quota_pb2.AuthenticateRequest(caller=caller))).user.tier == "pro"
    # What an administrator names is set by hand; sent again, the event is of use now.
    await quota.user("basic", made)
    assert await tier(quota, made) == "basic"
    assert await receive(quota, body) == (True, "")
    assert await tier(quota, made) == "pro"


async def test_a_subscription_that_goes_to_another_user_leaves_the_first(quota: Quota) -> None:
    (one, _), (other, _) = await quota.user("free"), await quota.user("free")
    sold = Sold()
    await receive(quota, sold.event(CREATED, 100, user=one))
    assert await receive(quota, sold.event(UPDATED, 200, user=other)) == (True, "")
    assert (await tier(quota, one), await tier(quota, other)) == ("free", "pro")


async def test_an_event_that_names_nobody_is_of_whom_it_was(quota: Quota) -> None:
    user, _ = await quota.user("free")
    sold = Sold()
    await receive(quota, sold.event(CREATED, 100, user=user))
    assert await receive(quota, sold.event(UPDATED, 200, "enterprise")) == (True, "")
    assert await tier(quota, user) == "enterprise"
    # Nor has its customer's user a claim on what another one was named for.
    other, _ = await quota.user("free")
    await receive(quota, checkout(sold.customer_id, other))
    assert await receive(quota, sold.event(UPDATED, 300)) == (True, "")
    assert (await tier(quota, user), await tier(quota, other)) == ("pro", "free")
    assert await receive(quota, sold.event(DELETED, 400, "pro", "canceled")) == (True, "")
    assert await tier(quota, user) == "free"


async def test_an_end_needs_no_tier(quota: Quota) -> None:
    user, _ = await quota.user("free")
    one, other = Sold(), Sold()
    for sold in (one, other):
        await receive(quota, sold.event(CREATED, 100, user=user))
    assert await receive(quota, one.event(UPDATED, 200, "gold", "unpaid", user=user)) == (True, "")
    assert await tier(quota, user) == "pro"
    assert await receive(quota, other.event(DELETED, 200, "gold", "canceled", user=user)) == (True, "")
    assert await tier(quota, user) == "free"


async def test_what_is_of_no_use_is_answered_kept_and_shown(quota: Quota) -> None:
    user, _ = await quota.user("free")
    before = await quota.rows("SELECT * FROM quota_users")
    sold = Sold()
    for body, reason in (
        (event("invoice.paid", 1, {"id": "in_1"}), "events of this type are not read"),
        (event("", 1, {"id": "in_1"}), "events of this type are not read"),
        (sold.event(CREATED, 1, user="nobody"), "unknown user"),
        (Sold().event(CREATED, 1, "gold", user=user), "unknown tier"),
        (Sold().event(CREATED, 1, "", user=user), "unknown tier"),
        (Sold().event(CREATED, 1, "pro\n", user=user), "unknown tier"),
        (Sold().event(CREATED, 1, user=user, items={"data": []}), "unknown tier"),
        (Sold().event(CREATED, 1, user=user, customer=None), "not an event as it should be"),
        (Sold().event(CREATED, 1, user=user, id="sub\0"), "not an event as it should be"),
        (Sold().event(CREATED, -1, user=user), "not an event as it should be"),
        (Sold().event(CREATED, True, user=user), "not an event as it should be"),
        (checkout(None, user), "not an event as it should be"),
        (checkout("cus_x", None), "not an event as it should be"),
        (checkout("cus_x", "nobody"), "unknown user"),
    ):
        assert await receive(quota, body) == (False, reason), body
        (row,) = await quota.rows("SELECT * FROM quota_billing_events WHERE event_id = :id", id=json.loads(body)["id"])
        assert (bool(row.applied), row.reason, row.receive_time_ms) == (False, reason, NOON_MS)
        (newest, *_) = (await quota.ledger.ListAudit(ledger_pb2.ListAuditRequest(page_size=1))).entries
        assert newest.new == f"{row.type or 'unknown'} {row.event_id}: {reason}"
    assert await quota.rows("SELECT * FROM quota_users") == before


@pytest.mark.parametrize(
    "body", [b"", b"no", b"[1]", b'"x"', b"[" * 200_000, b"{}", b'{"id": 5}', b'{"type": "\\u0000"}']
)
async def test_a_body_that_is_signed_and_no_event_is_kept_too(quota: Quota, body: bytes) -> None:
    assert await receive(quota, body) == (False, "events of this type are not read")
    (row,) = await quota.rows("SELECT event_id FROM quota_billing_events")
    assert row.event_id.startswith("sha256:")


async def test_only_what_is_signed_now_with_a_secret_of_ours(quota: Quota) -> None:
    user, _ = await quota.user("free")
    body = Sold().event(CREATED, 100, user=user)
    good = stripe.WebhookSignature.generate_signature_header(body, STRIPE_SECRETS[0], NOON_S)
    wrong = stripe.WebhookSignature.generate_signature_header(body, "whsec_of_somebody", NOON_S)
    time, mine = good.split(",")
    before = await quota.dump()
    for signature in (
        "", "x", time, mine, wrong, good.replace("v1", "v0"), good[:-1], good + "0", good.upper(), good + "," + time,
        mine + f",t={NOON_S + 1}", mine + ",t=", mine + ",t=x", mine + ",t=-1", mine + ",t=" + "9" * 400, "t=é,v1=é",
        f"t=0{NOON_S},{mine}",
    ):  # fmt: skip
        refusal = await refused(receive(quota, body, signature=signature))
        assert (refusal.code, refusal.reason) == (StatusCode.INVALID_ARGUMENT, "INVALID_SIGNATURE"), signature
    for other in (body + " ", body[:-1], body.replace("pro", "enterprise"), ""):
        assert (await refused(receive(quota, other, signature=good))).reason == "INVALID_SIGNATURE"
    for age_s in (301, -301, 10**6):
        old = stripe.WebhookSignature.generate_signature_header(body, STRIPE_SECRETS[0], NOON_S - age_s)
        assert (await refused(receive(quota, body, signature=old))).reason == "INVALID_SIGNATURE"
    assert await quota.dump() == before
    for accepted in (good, f" v0=1, {mine} , {time}", f"{wrong.split(',')[1]},{good}"):
        assert (await receive(quota, Sold().event(CREATED, 100, user=user)))[0]
        await receive(quota, body, signature=accepted)


@pytest.mark.parametrize("secret", STRIPE_SECRETS)
@pytest.mark.parametrize("age_s", [300, 0, -300])
async def test_both_secrets_and_five_minutes_are_good(quota: Quota, secret: str, age_s: int) -> None:
    user, _ = await quota.user("free")
    assert await receive(quota, Sold().event(CREATED, 100, user=user), secret, age_s) == (True, "")


async def test_without_a_secret_there_is_no_webhook(database_url: str) -> None:
    async with running_quota(database_url, stripe_secrets=()) as quota:
        before = await quota.dump()
        refusal = await refused(receive(quota, Sold().event(CREATED, 100)))
        assert (refusal.code, refusal.reason) == (StatusCode.NOT_FOUND, "NOT_FOUND")
        assert await quota.dump() == before


async def test_one_event_told_many_times_at_once_is_applied_once(quota: Quota) -> None:
    user, _ = await quota.user("free")
    body = Sold().event(CREATED, 100, user=user)
    answers = await asyncio.gather(*(receive(quota, body) for _ in range(20)))
    assert sorted(answers) == [(False, "received before")] * 19 + [(True, "")]
    assert len(await quota.rows("SELECT * FROM quota_outbox")) == 1
    assert [line for line in await audit(quota, user) if "user.tier" in line] == ["stripe user.tier free>pro"]


async def test_what_is_told_at_the_same_time_is_not_missed(quota: Quota) -> None:
    users = [(await quota.user("free"))[0] for _ in range(20)]
    sold = [(Sold(), Sold()) for _ in users]
    await asyncio.gather(
        *(receive(quota, one.event(CREATED, 100)) for one, _ in sold),
        *(receive(quota, checkout(one.customer_id, user)) for (one, _), user in zip(sold, users, strict=True)),
        *(receive(quota, two.event(CREATED, 1, "basic", user=u)) for (_, two), u in zip(sold, users, strict=True)),
    )
    assert {await tier(quota, user) for user in users} == {"pro"}
    await asyncio.gather(
        *(receive(quota, one.event(DELETED, 200)) for one, _ in sold),
        *(receive(quota, two.event(DELETED, 200, user=u)) for (_, two), u in zip(sold, users, strict=True)),
    )
    assert {await tier(quota, user) for user in users} == {"free"}


async def until_it_waits(quota: Quota, receiving: asyncio.Task[tuple[bool, str]]) -> None:
    """Until another transaction keeps it from going on (SQLite runs one after the other), or nothing does."""
    if quota.database.engine.dialect.name != "postgresql":
        return
    waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    async with asyncio.timeout(20):
        while not (receiving.done() or await quota.rows(waiting)):
            await asyncio.sleep(0)


async def test_a_customer_may_become_somebodys_while_a_subscription_is_read(
    quota: Quota, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, _ = await quota.user("free")
    sold, reading, go_on = Sold(), asyncio.Event(), threading.Event()
    await receive(quota, sold.event(CREATED, 100, "basic"))
    loop, keep = asyncio.get_running_loop(), SqlTransaction.keep_subscription

    def slowly(tx: SqlTransaction, subscription: Subscription) -> None:
        loop.call_soon_threadsafe(reading.set)
        assert go_on.wait(20)
        keep(tx, replace(subscription, subscription_id=f"{subscription.subscription_id}-2"))

    monkeypatch.setattr(SqlTransaction, "keep_subscription", slowly)
    subscription = asyncio.create_task(receive(quota, sold.event(UPDATED, 200)))
    await reading.wait()
    owner = asyncio.create_task(receive(quota, checkout(sold.customer_id, user)))
    await until_it_waits(quota, owner)
    go_on.set()
    assert [await subscription, await owner] == [(False, "unknown user"), (True, "")]
    assert await tier(quota, user) == "pro"


async def test_a_user_may_get_another_subscription_meanwhile(quota: Quota) -> None:
    user, _ = await quota.user("free")
    body = Sold().event(CREATED, 100, "basic", user=user)
    values = f"('sub_other', 'cus_other', '{user}', 'active', 'pro', 100, false)"
    with quota.database.engine.begin() as other:
        other.execute(text(f"UPDATE quota_users SET tier = 'pro', tier_version = 2 WHERE user_id = '{user}'"))
        other.execute(text(f"INSERT INTO quota_subscriptions VALUES {values}"))
        receiving = asyncio.create_task(receive(quota, body))
        await until_it_waits(quota, receiving)
    assert await receiving == (True, "")
    assert await tier(quota, user) == "pro"


@pytest.mark.parametrize("told", ["subscription", "checkout"])
@pytest.mark.parametrize("way", ["first call", "administrator"])
async def test_a_user_may_be_made_while_they_pay(
    quota: Quota, monkeypatch: pytest.MonkeyPatch, way: str, told: str
) -> None:
    user, sold = f"user-{next(NUMBERS)}", Sold()
    if told == "checkout":
        await receive(quota, sold.event(CREATED, 100))
    loop, looked, go_on = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
    find = SqlTransaction.list_subscriptions

    def slowly(tx: SqlTransaction, user_id: str) -> list[Subscription]:
        found = find(tx, user_id)
        loop.call_soon_threadsafe(looked.set)
        assert go_on.wait(20)
        return found

    monkeypatch.setattr(SqlTransaction, "list_subscriptions", slowly)
    caller = quota_pb2.Caller(user_id=user, create_if_missing=True)
    first_call = way == "first call"
    making = asyncio.ensure_future(
        quota.stub.Authenticate(quota_pb2.AuthenticateRequest(caller=caller)) if first_call else quota.user("", user)
    )
    await looked.wait()
    body = sold.event(CREATED, 100, user=user) if told == "subscription" else checkout(sold.customer_id, user)
    receiving = asyncio.create_task(receive(quota, body))
    await until_it_waits(quota, receiving)
    go_on.set()
    await making
    assert await receiving == (True, "")
    assert await tier(quota, user) == "pro"


async def test_effect_and_record_are_one(quota: Quota, monkeypatch: pytest.MonkeyPatch) -> None:
    user, _ = await quota.user("free")
    body = Sold().event(CREATED, 100, user=user)
    before = await quota.dump()

    def fails(*_: object) -> None:
        raise OSError("the disk is full")

    for last in ("record_audit", "enqueue_tier_change", "update_billing_event"):
        with monkeypatch.context() as patched:
            patched.setattr(SqlTransaction, last, fails)
            await refused(receive(quota, body))
        assert await quota.dump() == before
    assert await receive(quota, body) == (True, "")


@pytest.mark.parametrize(
    "given_text", ["whsec_", "sk_live_1", "whsec_a,whsec_b,whsec_c", "whsec_a,x", "whsec_a b", ","]
)
def test_a_wrong_secret_is_refused_at_start_and_not_shown(given_text: str, tmp_path: Path) -> None:
    variables = {"HEADGATE_DATABASE_URL": "sqlite://", "HEADGATE_SECRET": "s" * 32, "HEADGATE_SCHEDULER_ADDRESS": "x"}
    with pytest.raises(SettingsError, match="HEADGATE_STRIPE_WEBHOOK_SECRET is wrong") as error:
        load(Settings, {**variables, "HEADGATE_STRIPE_WEBHOOK_SECRET": given_text})
    assert given_text == "," or given_text not in str(error.value).replace("whsec_…", "")
    good = load(Settings, {**variables, "HEADGATE_STRIPE_WEBHOOK_SECRET": "whsec_a, whsec_b"})
    assert good.stripe_secrets == ("whsec_a", "whsec_b")


TIERS = ("free", "basic", "pro", "enterprise")
STATUSES = ("incomplete", "trialing", "active", "past_due", "unpaid", "paused")


@dataclass(frozen=True)
class Told:
    """What one event says."""

    created_s: int
    tier: str
    status: str
    deleted: bool = False


def expected(subscriptions: Sequence[Sequence[Told]]) -> str:
    """The contract's rule, of a set of events."""
    held = ["free"]
    for events in subscriptions:
        read = [e for e in events if e.tier in TIERS or e.status not in ("active", "trialing", "past_due")]
        if any(e.deleted for e in events) or not read:
            continue
        newest = max(read, key=lambda e: e.created_s)
        if newest.status in ("active", "trialing", "past_due"):
            held.append(newest.tier)
    return max(held, key=TIERS.index)


told = st.builds(Told, st.integers(0, 50), st.sampled_from([*TIERS[1:], "gold"]), st.sampled_from(STATUSES))
ended = st.builds(Told, st.integers(0, 50), st.just("pro"), st.just("canceled"), st.just(True))
histories = st.lists(told | told | told | ended, max_size=4, unique_by=lambda e: e.created_s)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
async def test_any_order_and_repetition_gives_the_tier_of_the_rule(quota: Quota, data: st.DataObject) -> None:
    user, _ = await quota.user("free")
    subscriptions = data.draw(st.lists(histories, max_size=3))
    bodies = []
    for history in subscriptions:
        sold, by_customer = Sold(), data.draw(st.booleans())
        named = "" if by_customer else user
        for e in history:
            kind = DELETED if e.deleted else data.draw(st.sampled_from([CREATED, UPDATED]))
            bodies.append(sold.event(kind, e.created_s, e.tier, e.status, named))
        bodies += [checkout(sold.customer_id, user)] if by_customer else []
    again = data.draw(st.lists(st.sampled_from(bodies), max_size=4)) if bodies else []
    for body in data.draw(st.permutations([*bodies, *again])):
        await receive(quota, body)
    assert await tier(quota, user) == expected(subscriptions)
