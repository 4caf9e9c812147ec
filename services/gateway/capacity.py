"""The provider's limits and their use, the plan in force, what waits, pools and alerts, for administrators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headgate.scheduler.v1 import scheduler_pb2 as pb
from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from services.gateway import shapes
from services.gateway.callers import Callers
from services.gateway.edge import json_response, read_body
from services.gateway.errors import invalid
from services.gateway.messages import pause_fields, rfc3339

if TYPE_CHECKING:
    from headgate.scheduler.v1.scheduler_pb2_grpc import SchedulerServiceAsyncStub

LIMITS = {
    "requests": "requestsPerMinute",
    "tokens": "tokensPerMinute",
    "input_tokens": "inputTokensPerMinute",
    "output_tokens": "outputTokensPerMinute",
    "requests_day": "requestsPerDay",
    "concurrency": "concurrency",
}
"""The scheduler's names of the limits, and the contract's."""


class Capacity:
    """Each call authenticates before it looks at anything else."""

    def __init__(self, scheduler: SchedulerServiceAsyncStub, callers: Callers) -> None:
        self._scheduler = scheduler
        self._callers = callers

    async def capacity(self, request: Request) -> Response:
        """Each limit of each pool with its use, and what to do."""
        self._callers.administrator(request)
        told = await self._scheduler.GetCapacity(pb.GetCapacityRequest())
        pools = [
            {"pool": pool.pool, "limits": list(map(_limit, pool.limits)), "advice": pool.advice or None}
            for pool in told.pools
        ]
        return json_response({"pools": pools, "advice": next((p["advice"] for p in pools if p["advice"]), None)})

    async def provider_plan(self, request: Request) -> Response:
        """The provider plan in force, and those there are."""
        self._callers.administrator(request)
        told = await self._scheduler.GetProviderPlan(pb.GetProviderPlanRequest())
        return json_response(_plan(told.plan) | {"plans": list(told.names)})

    async def set_provider_plan(self, request: Request) -> Response:
        """Switches the plan or single limits; those that are not named stay."""
        actor = self._callers.administrator(request)
        wanted = shapes.read(await read_body(request), shapes.ProviderPlanChange)
        named = {
            "requests": wanted.requests_per_minute,
            "tokens": wanted.tokens_per_minute,
            "input_tokens": wanted.input_tokens_per_minute,
            "output_tokens": wanted.output_tokens_per_minute,
            "requests_day": wanted.requests_per_day,
            "concurrency": wanted.concurrency,
        }
        overrides = [
            pb.LimitOverride(pool=wanted.pool, dimension=name, limit=limit or 0)
            for name, limit in named.items()
            if limit is not UNSET
        ]
        if not (overrides or wanted.plan):
            raise invalid(("plan", f"Name a plan or a limit ({', '.join(LIMITS.values())})."))
        if wanted.pool and not overrides:
            raise invalid(("pool", "A pool goes with limits; a plan is that of all pools."))
        changed = await self._scheduler.SetProviderPlan(
            pb.SetProviderPlanRequest(name=wanted.plan, overrides=overrides, keep_overrides=True, actor=actor)
        )
        return json_response(_plan(changed.plan) | {"previousPlan": changed.previous.name})

    async def queue(self, request: Request) -> Response:
        """What waits and runs, by pool and tier."""
        self._callers.administrator(request)
        told = await self._scheduler.GetQueue(pb.GetQueueRequest())
        return json_response({"pools": list(map(_queue, told.pools))})

    async def pause(self, request: Request) -> Response:
        """Stops a pool until it is resumed."""
        actor, pool = self._callers.administrator(request), request.path_params["pool"]
        await self._scheduler.PausePool(pb.PausePoolRequest(pool=pool, actor=actor))
        return json_response({"pool": pool, "paused": "operator"})

    async def resume(self, request: Request) -> Response:
        """Lets a pool go on that was stopped by hand."""
        actor, pool = self._callers.administrator(request), request.path_params["pool"]
        await self._scheduler.ResumePool(pb.ResumePoolRequest(pool=pool, actor=actor))
        return json_response({"pool": pool})

    async def alerts(self, request: Request) -> Response:
        """Alerts that are raised now, newest first."""
        self._callers.administrator(request)
        told = await self._scheduler.ListAlerts(pb.ListAlertsRequest())
        items = [{"subject": a.subject, "message": a.message, "raisedAt": rfc3339(a.raise_time)} for a in told.alerts]
        return json_response({"items": items})


def _limit(use: pb.LimitUse) -> dict[str, Any]:
    return {
        "dimension": LIMITS[use.dimension],
        "limit": use.limit,
        "source": use.source,
        "used": use.used,
        "peak": use.peak,
        "refusals": use.refusals,
        "exhaustedAt": rfc3339(use.exhaustion_time) if use.HasField("exhaustion_time") else None,
    }


def _plan(plan: pb.ProviderPlan) -> dict[str, Any]:
    overrides: list[dict[str, Any]] = [
        ({"pool": one.pool} if one.pool else {}) | {LIMITS[one.dimension]: one.limit} for one in plan.overrides
    ]
    fields: dict[str, Any] = {"plan": plan.name, "version": plan.version, "overrides": overrides}
    if plan.HasField("change_time"):
        fields |= {"changedBy": plan.actor, "changedAt": rfc3339(plan.change_time)}
    return fields


def _queue(pool: pb.PoolQueue) -> dict[str, Any]:
    fields = {"pool": pool.pool, "running": pool.running, "tiers": list(map(_tier, pool.tiers))}
    return fields | pause_fields(pool)


def _tier(tier: pb.TierQueue) -> dict[str, Any]:
    fields: dict[str, Any] = {"tier": tier.tier, "queued": tier.queued}
    if tier.HasField("oldest_accept_time"):
        fields["oldestAcceptedAt"] = rfc3339(tier.oldest_accept_time)
    return fields
