"""Users and the gateway they come through: what was promised to them is what the checker holds the stores to."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from headgate.quota.v1 import quota_pb2
from headgate.quota.v1.quota_pb2_grpc import QuotaServiceStub
from headgate.scheduler.v1 import scheduler_pb2 as pb
from headgate.scheduler.v1.scheduler_pb2_grpc import SchedulerServiceStub

from services.gateway.errors import refusal_from, was_refused
from services.gateway.messages import Links, Message
from services.gateway.watches import Hub
from services.ids import base62
from tests.simulation.faults import Faults
from tests.simulation.loop import Process, ProcessClock
from tests.simulation.network import SimChannel
from tests.simulation.scenario import Arrival

PATIENCE = 4
"""How often a user sends again what nobody would say was accepted."""


@dataclass
class Sent:
    """One thing a user sent, and what came of it as they saw it."""

    arrival: Arrival
    begun_s: float
    request_id: str = ""
    accepted_s: float | None = None
    """When they were told that it was accepted."""
    refused: str = ""
    unknown: bool = False
    """The newest word was that nobody knows."""
    cancelled_s: float | None = None
    """When a cancel of theirs was answered."""
    seen: list[tuple[int, str, int, str]] = field(default_factory=list)
    """(number, kind, attempt, text) of every event they were shown."""
    ends: int = 0
    closed: bool = False

    def event(self, message: Message, seq: int) -> None:
        event = message.event
        if message.kind == "ended":
            self.ends += 1
            self.seen.append((seq, "ended", event.ended.attempts, pb.State.Name(event.ended.state)))
        elif message.kind != "status":
            body = getattr(event, message.kind)
            self.seen.append((seq, message.kind, body.attempt, getattr(body, "text", "")))


class _Reader:
    """One connection that watches one request; a page that is loaded again makes another."""

    def __init__(self, sent: Sent) -> None:
        self.sent = sent
        self.user_id = sent.arrival.user

    def opened(self, request_id: str) -> None: ...

    def event(self, message: Message, seq: int) -> None:
        self.sent.event(message, seq)

    def closed(self, request_id: str, *, known: bool) -> None:
        self.sent.closed = known


class Gateway:
    """What `services.gateway` does with the calls of users, and its own hub of events."""

    def __init__(self, owner: Process, faults: Faults, dice: random.Random) -> None:
        self.process = owner
        self.sent: list[Sent] = []
        self._faults = faults
        self._dice = dice
        to_quota: Any = SimChannel("quota")
        to_scheduler: Any = SimChannel("scheduler")
        self._quota: Any = QuotaServiceStub(to_quota)
        self._scheduler: Any = SchedulerServiceStub(to_scheduler)
        replay = self._scheduler.Replay
        self._hub = Hub(self._scheduler.Watch, replay, Links("http://sim"), ProcessClock(faults.loop, owner))

    async def run(self) -> None:
        """Follows events for ever."""
        await self._hub.run()

    async def play(self, arrival: Arrival) -> None:
        """One user's doing, from the first send to the last look."""
        await asyncio.sleep(arrival.at_s - self._faults.loop.time())
        tries = [self._send_until_known(arrival)]
        if arrival.also_twice and arrival.key:
            tries.append(self._send_until_known(arrival))
        await asyncio.gather(*tries)

    async def set_tier(self, user: str, tier: str) -> None:
        """What the shop does when a user pays."""
        change = quota_pb2.SetUserTierRequest(user_id=user, tier=tier, actor="shop")
        for _ in range(PATIENCE):
            try:
                await self._quota.SetUserTier(change)
                return
            except grpc.aio.AioRpcError:
                await asyncio.sleep(1.0)

    async def create_user(self, user: str, tier: str) -> None:
        await self._quota.CreateUser(quota_pb2.CreateUserRequest(user_id=user, tier=tier, actor="shop"))

    async def _send_until_known(self, arrival: Arrival) -> None:
        sent = Sent(arrival, self._faults.loop.time())
        self.sent.append(sent)
        # Without a key a repeat is another request: nobody sends it again.
        for _ in range(PATIENCE if arrival.key else 1):
            await self._send(sent)
            if sent.accepted_s is not None or sent.refused:
                break
            await asyncio.sleep(self._dice.uniform(0.5, 4.0))
        if sent.accepted_s is None:
            return
        self._faults.note(f"accepted: {sent.request_id} of {arrival.user}")
        self._hub.subscribe(sent.request_id, _Reader(sent))
        if arrival.cancel_after_s is not None:
            await asyncio.sleep(arrival.cancel_after_s)
            await self._cancel(sent)

    async def _send(self, sent: Sent) -> None:
        caller = quota_pb2.Caller(user_id=sent.arrival.user)
        reserve = quota_pb2.ReserveRequest(caller=caller, idempotency_key=sent.arrival.key)
        if not sent.arrival.key:
            reserve.request_id = sent.request_id = "req_" + base62(self._dice.randbytes(16))
        try:
            reserved = await self._quota.Reserve(reserve)
        except grpc.aio.AioRpcError as error:
            refusal = refusal_from(error)
            sent.refused = refusal.reason if refusal.domain else ""
            return
        sent.request_id = reserved.request_id
        try:
            await self._scheduler.Submit(_submission(reserved, sent.arrival))
            sent.accepted_s, sent.unknown = self._faults.loop.time(), False
        except grpc.aio.AioRpcError as error:
            await self._not_submitted(sent, reserved, error)

    async def _not_submitted(self, sent: Sent, reserved: Any, error: grpc.aio.AioRpcError) -> None:
        refusal = refusal_from(error)
        sent.unknown = not was_refused(refusal)
        if sent.unknown:
            return
        # A reservation that was given back meanwhile is no word about the request: the user sends it again.
        sent.refused = "" if refusal.reason == "RESERVATION_STALE" else refusal.reason
        question = quota_pb2.ResolveRequest(request_id=reserved.request_id, generation=reserved.reservation.generation)
        try:
            await self._quota.Resolve(question, timeout=2.0)
        except grpc.aio.AioRpcError:
            self._faults.note(f"resolved later: {sent.request_id}")

    async def _cancel(self, sent: Sent) -> None:
        try:
            await self._scheduler.Cancel(pb.CancelRequest(request_id=sent.request_id, user_id=sent.arrival.user))
            sent.cancelled_s = self._faults.loop.time()
        except grpc.aio.AioRpcError:
            self._faults.note(f"cancel unanswered: {sent.request_id}")


def _submission(reserved: Any, arrival: Arrival) -> pb.SubmitRequest:
    user, tier, reservation = reserved.user, reserved.tier, reserved.reservation
    settled = reservation.state in (quota_pb2.RESERVATION_STATE_COUNTED, quota_pb2.RESERVATION_STATE_GIVEN_BACK)
    return pb.SubmitRequest(
        request_id=reserved.request_id, user_id=user.user_id, generation=reservation.generation, day=reservation.day,
        tier=pb.TierTerms(
            name=tier.name, version=user.tier_version, share=tier.share, outstanding=tier.outstanding,
            models=tier.models, all_models=tier.all_models,
        ),
        work=pb.Work(prompt=arrival.prompt, diagram_type="flowchart"), priority=arrival.priority,
        max_wait=Duration(seconds=arrival.max_wait_s), idempotent=bool(arrival.key), settled=settled,
    )  # fmt: skip
