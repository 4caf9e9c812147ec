"""Calls of the billing service to the domain's words and back; decides nothing."""

from __future__ import annotations

from typing import Any

from headgate.quota.v1 import billing_pb2 as pb
from headgate.quota.v1 import billing_pb2_grpc

from services.quota.billing_events import BillingEvents

NAME = pb.DESCRIPTOR.services_by_name["BillingService"].full_name


class BillingServicer(billing_pb2_grpc.BillingServiceServicer):
    """Serves headgate.quota.v1.BillingService."""

    def __init__(self, events: BillingEvents) -> None:
        self._events = events

    async def ReceiveStripeEvent(
        self, request: pb.ReceiveStripeEventRequest, context: Any
    ) -> pb.ReceiveStripeEventResponse:
        reason = await self._events.receive(request.payload, request.signature)
        return pb.ReceiveStripeEventResponse(applied=not reason, reason=reason)
