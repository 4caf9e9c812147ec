"""Stripe's webhook at the front door: bytes and header go on as they came."""

from __future__ import annotations

import grpc
import pytest
from headgate.quota.v1 import billing_pb2 as pb

from services.gateway.settings import GatewaySettings
from services.settings import SettingsError, load
from tests.servers.gateway import KEY, Running, quota_refusal, running_gateway

WEBHOOK = "/api/billing/stripe/webhook"
BODY = b'{"id":  "evt_1",\r\n "x": "\xc3\xa9\x00"}'


async def test_an_event_goes_on_as_it_came(gateway: Running) -> None:
    answer = await gateway.http.post(WEBHOOK, content=BODY, headers={"Stripe-Signature": "t=1,v1=2"})
    assert (answer.status_code, answer.json()) == (200, {"received": True, "applied": True})
    assert gateway.billing.named("ReceiveStripeEvent") == [
        pb.ReceiveStripeEventRequest(payload=BODY, signature="t=1,v1=2")
    ]
    assert gateway.quota.calls == []


async def test_why_an_event_was_not_applied_is_told(gateway: Running) -> None:
    gateway.billing.answer = pb.ReceiveStripeEventResponse(reason="unknown user")
    answer = await gateway.http.post(WEBHOOK, content=BODY)
    assert answer.json() == {"received": True, "applied": False, "reason": "unknown user"}


@pytest.mark.parametrize(
    ("reason", "code", "status", "shown"),
    [
        ("INVALID_SIGNATURE", grpc.StatusCode.INVALID_ARGUMENT, 400, "INVALID_SIGNATURE"),
        ("NOT_FOUND", grpc.StatusCode.NOT_FOUND, 404, "NOT_FOUND"),
        ("UNAVAILABLE", grpc.StatusCode.UNAVAILABLE, 503, "UNAVAILABLE"),
    ],
)
async def test_refusals(gateway: Running, reason: str, code: grpc.StatusCode, status: int, shown: str) -> None:
    gateway.billing.refusals["ReceiveStripeEvent"] = quota_refusal(reason, code)
    answer = await gateway.http.post(WEBHOOK, content=BODY)
    assert (answer.status_code, answer.json()["error"]) == (status, shown)


async def test_a_body_over_the_cap_and_other_methods(gateway: Running) -> None:
    assert (await gateway.http.post(WEBHOOK, content=b"x" * 1_000_001)).status_code == 413
    assert (await gateway.http.get(WEBHOOK)).status_code == 405
    assert gateway.billing.calls == []


async def test_where_users_manage_what_they_pay() -> None:
    async with running_gateway(billing_portal_url="https://pay.example/portal") as gateway:
        me = (await gateway.http.get("/api/me", headers={"X-API-Key": KEY})).json()
        assert me["billingPortalUrl"] == "https://pay.example/portal"
    async with running_gateway() as gateway:
        assert "billingPortalUrl" not in (await gateway.http.get("/api/me", headers={"X-API-Key": KEY})).json()


@pytest.mark.parametrize("url", ["http://pay.example", "https://", "pay.example", "javascript:alert(1)", "https://a b"])
def test_a_portal_must_be_an_https_address(url: str) -> None:
    variables = {"HEADGATE_QUOTA_ADDRESS": "q", "HEADGATE_SCHEDULER_ADDRESS": "s"}
    with pytest.raises(SettingsError, match="HEADGATE_BILLING_PORTAL_URL is wrong"):
        load(GatewaySettings, {**variables, "HEADGATE_BILLING_PORTAL_URL": url})
