"""The scheduler over gRPC."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
from headgate.scheduler.v1 import scheduler_pb2 as pb
from headgate.scheduler.v1 import scheduler_pb2_grpc

from services.quota.model import TierChange
from services.quota.plans import Plans
from services.quota.ports import SchedulerUnreachable
from services.quota.reservations import Answer, Standing
from services.quota.terms import effective
from services.rpc.status import refusal_of

REPEATABLE = tuple(f"headgate.scheduler.v1.SchedulerService/{method}" for method in ("Account", "ApplyTiers"))
_STANDINGS = {
    pb.STANDING_LIVE: Standing.LIVE,
    pb.STANDING_ENDED: Standing.ENDED,
    pb.STANDING_ABSENT: Standing.ABSENT,
}


class GrpcScheduler:
    """Implements the `Scheduler` port on a channel, which stays the caller's to close."""

    def __init__(self, channel: grpc.aio.Channel, plans: Plans) -> None:
        self._stub = scheduler_pb2_grpc.SchedulerServiceStub(channel)
        self._plans = plans

    async def account(self, asked: Sequence[tuple[str, int]]) -> dict[str, Answer]:
        """See `Scheduler.account`."""
        items = [pb.AccountItem(request_id=request_id, generation=generation) for request_id, generation in asked]
        try:
            response = await self._stub.Account(pb.AccountRequest(items=items))
        except grpc.aio.AioRpcError as error:
            raise SchedulerUnreachable(_described(error)) from None
        generations = dict(asked)
        return {
            answer.request_id: Answer(
                generations[answer.request_id], _STANDINGS.get(answer.standing, Standing.UNKNOWN), answer.counted
            )
            for answer in response.answers
            if answer.request_id in generations
        }

    async def apply_tiers(self, changes: Sequence[TierChange]) -> None:
        """See `Scheduler.apply_tiers`. A tier that is no longer in the plans has no terms to tell."""
        told = [
            pb.TierChange(user_id=change.user_id, tier=self._terms(change))
            for change in changes
            if change.tier in self._plans
        ]
        try:
            await self._stub.ApplyTiers(pb.ApplyTiersRequest(changes=told))
        except grpc.aio.AioRpcError as error:
            raise SchedulerUnreachable(_described(error)) from None

    def _terms(self, change: TierChange) -> pb.TierTerms:
        tier = effective(self._plans.tier(change.tier), change.own)
        return pb.TierTerms(
            name=tier.name,
            version=change.tier_version,
            share=tier.share,
            outstanding=tier.outstanding,
            user_spend_nano_usd_per_day=change.own.spend_nano_usd_per_day,
            tier_spend_nano_usd_per_day=tier.spend_nano_usd_per_day,
        )


def _described(error: grpc.aio.AioRpcError) -> str:
    return f"the scheduler did not answer ({refusal_of(error).reason})"
