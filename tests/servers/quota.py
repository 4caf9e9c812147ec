"""A quota service inside the test: the real parts over real gRPC, with a clock that tests move and a scheduler
that behaves as the contract says and fails on demand."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
from google.rpc import error_details_pb2
from headgate.quota.v1 import billing_pb2_grpc, ledger_pb2_grpc, quota_pb2_grpc
from headgate.quota.v1 import quota_pb2 as pb
from headgate.scheduler.v1 import scheduler_pb2 as sched
from headgate.scheduler.v1 import scheduler_pb2_grpc
from sqlalchemy import text

from services import sql
from services.pricing import PriceList, read_prices
from services.quota.__main__ import MIGRATIONS, VERSION_TABLE, Service, build
from services.quota.plans import Plans, read_plans
from services.quota.settings import Settings
from services.quota.store import SqlStore
from services.rpc.channel import open_channel
from services.rpc.status import Refusal, refusal_of
from services.settings import config_dir

SECRET = b"a secret of tests, 32 characters or more"
STRIPE_SECRETS = ("whsec_of_tests", "whsec_of_tests_before")
NOON_MS = 1_767_268_800_000
"""2026-01-01T12:00:00Z."""
DEADLINE_S = 20.0


def migrate(url: str) -> None:
    """Brings a database to the newest schema of quota."""
    sql.migrate(url, MIGRATIONS, version_table=VERSION_TABLE)


class VirtualClock:
    """A clock that stands still until `advance`."""

    def __init__(self, now_ms: int = NOON_MS) -> None:
        self._now_ms = now_ms
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._changed = asyncio.Condition()
        self._count = 0

    def now_ms(self) -> int:
        return self._now_ms

    async def sleep(self, delay_ms: float) -> None:
        wake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._count += 1
        heapq.heappush(self._sleepers, (self._now_ms + delay_ms, self._count, wake))
        async with self._changed:
            self._changed.notify_all()
        await wake

    def advance(self, delay_ms: int) -> None:
        """Moves time on and wakes whoever slept until then."""
        self._now_ms += delay_ms
        while self._sleepers and self._sleepers[0][0] <= self._now_ms:
            wake = heapq.heappop(self._sleepers)[2]
            if not wake.done():
                wake.set_result(None)

    async def until_asleep(self) -> float:
        """Waits until somebody sleeps; for how long they will."""
        async with asyncio.timeout(DEADLINE_S), self._changed:
            await self._changed.wait_for(self._waiting)
        return self._sleepers[0][0] - self._now_ms

    def _waiting(self) -> bool:
        self._sleepers = [entry for entry in self._sleepers if not entry[2].done()]
        heapq.heapify(self._sleepers)
        return bool(self._sleepers)


@dataclass
class FakeScheduler(scheduler_pb2_grpc.SchedulerServiceServicer):
    """Keeps requests and tombstones as DESIGN's life of a request has it."""

    requests: dict[str, bool | None] = field(default_factory=dict)
    """None while live, then whether it counted."""
    tombstones: dict[str, int] = field(default_factory=dict)
    asked: list[list[tuple[str, int]]] = field(default_factory=list)
    tiers: dict[str, sched.TierTerms] = field(default_factory=dict)
    deliveries: list[list[str]] = field(default_factory=list)
    down: bool = False
    """Answers UNAVAILABLE and does nothing."""
    lose_answers: int = 0
    """That many answers are lost after their effect."""
    before_answer: Callable[[], Awaitable[None]] | None = None
    """Runs once, after the effect and before the answer of the next call."""

    def submit(self, request_id: str, generation: int) -> bool:
        """Whether a Submit that arrives now is accepted (or had been)."""
        if request_id in self.requests:
            return True
        if generation <= self.tombstones.get(request_id, 0):
            return False
        self.requests[request_id] = None
        return True

    async def Account(self, request: sched.AccountRequest, context: Any) -> sched.AccountResponse:
        if self.down:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "down")
        self.asked.append([(item.request_id, item.generation) for item in request.items])
        answers = [self._answer(item.request_id, item.generation) for item in request.items]
        await self._finish(context)
        return sched.AccountResponse(answers=answers)

    async def ApplyTiers(self, request: sched.ApplyTiersRequest, context: Any) -> sched.ApplyTiersResponse:
        if self.down:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "down")
        self.deliveries.append([change.user_id for change in request.changes])
        for change in request.changes:
            known = self.tiers.get(change.user_id)
            if known is None or known.version < change.tier.version:
                self.tiers[change.user_id] = change.tier
        await self._finish(context)
        return sched.ApplyTiersResponse()

    async def _finish(self, context: Any) -> None:
        if self.before_answer is not None:
            hook, self.before_answer = self.before_answer, None
            await hook()
        if self.lose_answers:
            self.lose_answers -= 1
            # INTERNAL and not UNAVAILABLE, which the channel would repeat by itself.
            await context.abort(grpc.StatusCode.INTERNAL, "the answer was lost")

    def _answer(self, request_id: str, generation: int) -> sched.AccountAnswer:
        if request_id not in self.requests:
            self.tombstones[request_id] = max(generation, self.tombstones.get(request_id, 0))
            return sched.AccountAnswer(request_id=request_id, standing=sched.STANDING_ABSENT)
        counted = self.requests[request_id]
        standing = sched.STANDING_LIVE if counted is None else sched.STANDING_ENDED
        return sched.AccountAnswer(request_id=request_id, standing=standing, counted=bool(counted))


@dataclass
class Quota:
    """A running quota service and all that a test needs to look at it."""

    stub: quota_pb2_grpc.QuotaServiceStub
    ledger: ledger_pb2_grpc.LedgerServiceStub
    billing: billing_pb2_grpc.BillingServiceStub
    channel: grpc.aio.Channel
    service: Service
    scheduler: FakeScheduler
    clock: VirtualClock
    database: sql.Database
    plans: Plans
    prices: PriceList
    address: str

    async def user(self, tier: str = "free", user_id: str = "") -> tuple[str, str]:
        """A new user's id and key."""
        made = await self.stub.CreateUser(pb.CreateUserRequest(user_id=user_id, tier=tier, actor="admin:test"))
        return made.user.user_id, made.api_key

    async def reserve(self, key: str, request_id: str = "", idempotency_key: str = "") -> pb.ReserveResponse:
        """Reserves with a user's key."""
        caller = pb.Caller(api_key=key)
        return await self.stub.Reserve(
            pb.ReserveRequest(caller=caller, request_id=request_id, idempotency_key=idempotency_key)
        )

    async def settle(self, request_id: str, user_id: str, counted: bool, *charges: pb.Charge) -> None:
        """Tells the end of one request."""
        one = pb.Settlement(request_id=request_id, user_id=user_id, final=True, counted=counted, charges=charges)
        await self.stub.Settle(pb.SettleRequest(settlements=[one]))

    async def used(self, key: str) -> int:
        """Places of today that are taken, as the service says."""
        answer = await self.stub.GetUsage(pb.GetUsageRequest(caller=pb.Caller(api_key=key)))
        return int(answer.usage.used)

    async def limit(self, user_id: str, **own: int | None) -> pb.User:
        """Gives a user terms of their own; None takes one back."""
        change = pb.SetUserLimitsRequest(user_id=user_id, actor="admin:test", fields=own)
        change.limits.CopyFrom(pb.UserLimits(**own))
        return (await self.stub.SetUserLimits(change)).user

    async def rows(self, query: str, **values: Any) -> list[Any]:
        """What a query of the database itself gives."""
        return await self.database.read(lambda connection: list(connection.execute(text(query), values)))

    async def dump(self) -> dict[str, list[Any]]:
        """Everything the service keeps."""
        tables = ("users", "keys", "reservations", "days", "hours", "charges", "outbox", "audit")
        tables += ("billing_events", "subscriptions", "customers")
        return {name: sorted(map(tuple, await self.rows(f"SELECT * FROM quota_{name}"))) for name in tables}


@contextlib.asynccontextmanager
async def running_quota(url: str, plans: Plans | None = None, **variables: Any) -> AsyncIterator[Quota]:
    """Serves on a migrated database at `url`, with the shipped plans if no others are given; the loops run only where
    a test runs them. `variables` are settings."""
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hg-")))
        scheduler, scheduler_server = FakeScheduler(), grpc.aio.server()
        scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server(scheduler, scheduler_server)
        scheduler_server.add_insecure_port(f"unix:{folder}/s")
        await scheduler_server.start()
        stack.push_async_callback(scheduler_server.stop, 0)
        database = sql.connect(url)
        stack.push_async_callback(database.close)
        plans = plans or read_plans((config_dir() / "plans.yaml").read_text(), "plans.yaml")
        values = {"stripe_secrets": STRIPE_SECRETS, **variables}
        settings = Settings(database_url=url, secret=SECRET, scheduler_address=f"unix:{folder}/s", **values)
        clock = VirtualClock()
        to_scheduler = await stack.enter_async_context(open_channel(settings.scheduler_address, deadline_s=DEADLINE_S))
        prices = replace(read_prices(config_dir() / "prices.yaml"), in_force_from="2026-01-01")
        service = build(settings, plans, prices, SqlStore(database), to_scheduler, clock)
        address = f"unix:{folder}/q"
        await service.server.start(address)
        stack.push_async_callback(service.server.drain, grace_s=0)
        channel = await stack.enter_async_context(open_channel(address, deadline_s=DEADLINE_S))
        stub = quota_pb2_grpc.QuotaServiceStub(channel)
        ledger = ledger_pb2_grpc.LedgerServiceStub(channel)
        billing = billing_pb2_grpc.BillingServiceStub(channel)
        yield Quota(stub, ledger, billing, channel, service, scheduler, clock, database, plans, prices, address)


async def refused(call: Awaitable[Any]) -> Refusal:
    """The refusal that a call must end with."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        return refusal_of(error, [pb.LimitExceeded, error_details_pb2.QuotaFailure])
    raise AssertionError(f"not refused: {answer}")
