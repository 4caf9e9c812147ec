"""Money from outside: what Stripe tells is handed on as it came."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headgate.quota.v1 import billing_pb2
from starlette.requests import Request
from starlette.responses import Response

from services.gateway.edge import json_response, read_body

if TYPE_CHECKING:
    from headgate.quota.v1.billing_pb2_grpc import BillingServiceAsyncStub


class Billing:
    """No key is asked for: whoever holds the secret checks the signature."""

    def __init__(self, billing: BillingServiceAsyncStub) -> None:
        self._billing = billing

    async def stripe(self, request: Request) -> Response:
        """One event; answered once it is durable."""
        signature = request.headers.get("stripe-signature", "")
        received = await self._billing.ReceiveStripeEvent(
            billing_pb2.ReceiveStripeEventRequest(payload=await read_body(request), signature=signature)
        )
        body: dict[str, Any] = {"received": True, "applied": received.applied}
        if received.reason:
            body["reason"] = received.reason
        return json_response(body)
