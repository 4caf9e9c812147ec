"""What users may know of themselves and of the tiers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from headgate.quota.v1 import quota_pb2
from starlette.requests import Request
from starlette.responses import Response

from services.gateway.callers import Callers
from services.gateway.edge import json_response
from services.gateway.messages import rfc3339, tier_fields

if TYPE_CHECKING:
    from headgate.quota.v1.quota_pb2_grpc import QuotaServiceAsyncStub


class Account:
    """The caller's own figures."""

    def __init__(
        self,
        quota: QuotaServiceAsyncStub,
        callers: Callers,
        outstanding: Callable[[quota_pb2.User, quota_pb2.Tier], Awaitable[int]],
        billing_portal_url: str = "",
    ) -> None:
        self._quota = quota
        self._callers = callers
        self._outstanding = outstanding
        self._links = {"billingPortalUrl": billing_portal_url} if billing_portal_url else {}

    async def me(self, request: Request) -> Response:
        """Tier, day, and what is under way."""
        answer = await self._callers.usage(request)
        usage = answer.usage
        return json_response(
            {
                "userId": answer.user.user_id,
                "tier": answer.tier.name,
                "used": usage.used,
                "limit": usage.limit,
                "resetTime": rfc3339(usage.reset_time),
                "outstanding": await self._outstanding(answer.user, answer.tier),
                "outstandingLimit": answer.tier.outstanding,
                **self._links,
            }
        )

    async def tiers(self, request: Request) -> Response:
        """The tiers, lowest first; no key is needed, but one that is shown must be good."""
        await self._callers.viewer(request)
        tiers = (await self._quota.ListTiers(quota_pb2.ListTiersRequest())).tiers
        return json_response({"items": [tier_fields(tier) for tier in tiers]})
