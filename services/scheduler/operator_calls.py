"""What operators ask and change, over gRPC: capacity, the provider plan, pools, alerts. Translates; decides nothing."""

from __future__ import annotations

from typing import Any

from headgate.scheduler.v1 import scheduler_pb2 as pb
from headgate.scheduler.v1.scheduler_pb2_grpc import SchedulerServiceServicer

from services.scheduler.alerts import Alerts
from services.scheduler.capacity import Capacity, PoolUse
from services.scheduler.line import ValkeyLine
from services.scheduler.messages import timestamp
from services.scheduler.provider_plan import Change, InForce, ProviderPlan


class OperatorCalls(SchedulerServiceServicer):
    """A part of the scheduler's servicer."""

    def __init__(self, line: ValkeyLine, plan: ProviderPlan, capacity: Capacity, alerts: Alerts) -> None:
        self._operated_line = line
        self._plan = plan
        self._capacity = capacity
        self._alerts = alerts

    async def GetCapacity(self, request: pb.GetCapacityRequest, context: Any) -> pb.GetCapacityResponse:
        return pb.GetCapacityResponse(pools=[_pool(one) for one in await self._capacity.tell()])

    async def GetProviderPlan(self, request: pb.GetProviderPlanRequest, context: Any) -> pb.GetProviderPlanResponse:
        now, _ = await self._plan.read()
        return pb.GetProviderPlanResponse(plan=_plan(now), names=list(self._plan.provider.plans))

    async def SetProviderPlan(self, request: pb.SetProviderPlanRequest, context: Any) -> pb.SetProviderPlanResponse:
        overrides = [(one.pool, one.dimension, one.limit) for one in request.overrides]
        change = Change(request.name, overrides, request.keep_overrides)
        now, before = await self._plan.switch(self._operated_line, change, request.actor)
        return pb.SetProviderPlanResponse(plan=_plan(now), previous=_plan(before))

    async def PausePool(self, request: pb.PausePoolRequest, context: Any) -> pb.PausePoolResponse:
        await self._plan.stop(self._operated_line, request.pool, request.actor)
        return pb.PausePoolResponse()

    async def ResumePool(self, request: pb.ResumePoolRequest, context: Any) -> pb.ResumePoolResponse:
        await self._plan.stop(self._operated_line, request.pool, request.actor, resume=True)
        return pb.ResumePoolResponse()

    async def ListAlerts(self, request: pb.ListAlertsRequest, context: Any) -> pb.ListAlertsResponse:
        raised = await self._alerts.active()
        return pb.ListAlertsResponse(
            alerts=[
                pb.Alert(subject=one.subject, message=one.message, raise_time=timestamp(one.raised_ms))
                for one in raised
            ]
        )


def _plan(now: InForce) -> pb.ProviderPlan:
    overrides = [
        pb.LimitOverride(pool=pool, dimension=name, limit=limit)
        for (pool, name), limit in sorted(now.overrides.items())
    ]
    return pb.ProviderPlan(
        name=now.plan, version=now.version, overrides=overrides, actor=now.actor, change_time=timestamp(now.changed_ms)
    )


def _pool(told: PoolUse) -> pb.PoolCapacity:
    limits = [
        pb.LimitUse(
            dimension=use.dimension, limit=use.limit, source=use.source, used=use.used, peak=use.peak,
            refusals=use.refusals, exhaustion_time=timestamp(use.exhausted_ms),
        )
        for use in told.limits
    ]  # fmt: skip
    return pb.PoolCapacity(pool=told.pool, limits=limits, advice=told.advice)
