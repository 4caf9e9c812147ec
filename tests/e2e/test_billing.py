"""Who pays gets the tier, from Stripe's event at the front door to the next call; and it is in the audit."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request

import stripe

from tests.e2e.stack import Stack, Stacks

SECRET = "whsec_of_a_whole_stack"


def told(stack: Stack, body: str, secret: str = SECRET) -> tuple[int, dict[str, object]]:
    signature = stripe.WebhookSignature.generate_signature_header(body, secret, int(time.time()))
    url = f"{stack.url}/api/billing/stripe/webhook"
    call = urllib.request.Request(url, body.encode(), {"Stripe-Signature": signature}, method="POST")
    try:
        with urllib.request.urlopen(call, timeout=20) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_an_event_of_stripe_moves_its_user(stacks: Stacks) -> None:
    portal = "https://billing.example/portal"
    stack = stacks.start(HEADGATE_STRIPE_WEBHOOK_SECRET=SECRET, HEADGATE_BILLING_PORTAL_URL=portal)
    _, made = stack.request("POST", "/api/admin/users", {"tier": "free"}, admin=True)
    price = {"object": "price", "lookup_key": "pro"}
    sold = {
        "id": "sub_1", "object": "subscription", "customer": "cus_1", "status": "active",
        "metadata": {"user_id": made["userId"]}, "items": {"object": "list", "data": [{"price": price}]},
    }  # fmt: skip
    kind = "customer.subscription.created"
    values = {"id": "evt_1", "object": "event", "type": kind, "created": 1, "data": {"object": sold}}
    body = str(stripe.Event.construct_from(values, None))
    status, refused = told(stack, body, "whsec_of_somebody_else")
    assert (status, refused["code"]) == (400, "INVALID_SIGNATURE")
    assert told(stack, body) == (200, {"received": True, "applied": True})
    assert told(stack, body) == (200, {"received": True, "applied": False, "reason": "received before"})
    _, me = stack.request("GET", "/api/me", key=made["apiKey"])
    assert (me["tier"], me["limit"], me["billingPortalUrl"]) == ("pro", 500, portal)
    _, audit = stack.request("GET", f"/api/admin/audit?subject={made['userId']}&limit=2", admin=True)
    assert [(entry["actor"], entry["action"]) for entry in audit["items"]] == [
        ("stripe", "billing.event"),
        ("stripe", "user.tier"),
    ]
