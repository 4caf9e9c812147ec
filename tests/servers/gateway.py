"""A gateway inside the test: the real application on a real port, before scripted services over real gRPC."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx2
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health_pb2_grpc
from headgate.quota.v1 import billing_pb2 as billing
from headgate.quota.v1 import billing_pb2_grpc, ledger_pb2_grpc, quota_pb2_grpc
from headgate.quota.v1 import ledger_pb2 as ledger
from headgate.quota.v1 import quota_pb2 as quota
from headgate.scheduler.v1 import scheduler_pb2 as sched
from headgate.scheduler.v1 import scheduler_pb2_grpc

from services.clock import Clock, SystemClock
from services.gateway.__main__ import REPEATABLE, HttpServer, listen
from services.gateway.app import Backends, Gateway
from services.gateway.settings import GatewaySettings
from services.rpc.channel import open_channel
from services.rpc.server import Server
from services.rpc.status import Refusal

DEADLINE_S = 20.0
KEY, OTHER_KEY, ADMIN_KEY, READ_KEY = "hg_test_key", "hg_other_key", "an-admin-key", "a-reading-key"
NOW = Timestamp(seconds=1_767_268_800)
FREE = quota.Tier(
    name="free", title="Free", requests_per_day=10, outstanding=10, share=1, price_nano_usd_per_month=0, price="$0"
)
BASIC = quota.Tier(
    name="basic", title="Basic", requests_per_day=100, outstanding=25, share=2, price="$15/month", tokens_per_day=9
)


def quota_refusal(reason: str, code: grpc.StatusCode, message: str = "No.", **more: Any) -> Refusal:
    return Refusal(code, reason, message, "quota.headgate", **more)


def scheduler_refusal(reason: str, code: grpc.StatusCode, message: str = "No.", **more: Any) -> Refusal:
    return Refusal(code, reason, message, "scheduler.headgate", **more)


class VirtualClock:
    """A clock that stands still until `advance`."""

    def __init__(self) -> None:
        self._now_ms = 0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()

    def now_ms(self) -> int:
        return self._now_ms

    async def sleep(self, delay_ms: float) -> None:
        wake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now_ms + delay_ms, next(self._numbers), wake))
        await wake

    def advance(self, delay_ms: int) -> None:
        self._now_ms += delay_ms
        while self._sleepers and self._sleepers[0][0] <= self._now_ms:
            wake = heapq.heappop(self._sleepers)[2]
            if not wake.done():
                wake.set_result(None)


class Scripted:
    """Notes every call, and refuses those it is told to."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.refusals: dict[str, Exception] = {}

    def named(self, *names: str) -> list[Any]:
        """The requests of these calls, in order."""
        return [request for name, request in self.calls if name in names]

    def _note(self, name: str, request: Any) -> None:
        self.calls.append((name, request))
        refusal = self.refusals.get(name)
        if refusal is not None:
            raise refusal


class FakeQuota(Scripted, quota_pb2_grpc.QuotaServiceServicer):
    """One user a key."""

    def __init__(self) -> None:
        super().__init__()
        self.users = {KEY: quota.User(user_id="u1", tier="free", tier_version=3, status=quota.USER_STATUS_ACTIVE)}
        self.users[OTHER_KEY] = quota.User(user_id="u2", tier="free", tier_version=1, status=quota.USER_STATUS_ACTIVE)
        self.used = 3
        self.state = quota.RESERVATION_STATE_PENDING
        self.resolved = quota.RESERVATION_STATE_ABSENT

    def usage(self) -> quota.DayUsage:
        return quota.DayUsage(used=self.used, limit=10, reset_time=Timestamp(seconds=int(time.time()) + 27_000))

    def _user(self, caller: quota.Caller) -> quota.User:
        if caller.user_id:
            return quota.User(user_id=caller.user_id, tier="free")
        if caller.api_key not in self.users:
            raise quota_refusal("UNAUTHENTICATED", grpc.StatusCode.UNAUTHENTICATED)
        return self.users[caller.api_key]

    async def Authenticate(self, request: quota.AuthenticateRequest, context: Any) -> quota.AuthenticateResponse:
        self._note("Authenticate", request)
        return quota.AuthenticateResponse(user=self._user(request.caller), tier=FREE)

    async def GetUsage(self, request: quota.GetUsageRequest, context: Any) -> quota.GetUsageResponse:
        self._note("GetUsage", request)
        return quota.GetUsageResponse(user=self._user(request.caller), tier=FREE, usage=self.usage())

    async def Reserve(self, request: quota.ReserveRequest, context: Any) -> quota.ReserveResponse:
        self._note("Reserve", request)
        user = self._user(request.caller)
        request_id = request.request_id or "req_" + request.idempotency_key.encode().hex()[:40]
        reservation = quota.Reservation(request_id=request_id, generation=2, day="2026-01-01", state=self.state)
        return quota.ReserveResponse(
            request_id=request_id, user=user, tier=FREE, reservation=reservation, usage=self.usage()
        )

    async def Resolve(self, request: quota.ResolveRequest, context: Any) -> quota.ResolveResponse:
        self._note("Resolve", request)
        return quota.ResolveResponse(reservation=quota.Reservation(request_id=request.request_id, state=self.resolved))

    async def ListTiers(self, request: quota.ListTiersRequest, context: Any) -> quota.ListTiersResponse:
        self._note("ListTiers", request)
        return quota.ListTiersResponse(tiers=[FREE, BASIC])

    async def CreateUser(self, request: quota.CreateUserRequest, context: Any) -> quota.CreateUserResponse:
        self._note("CreateUser", request)
        user = quota.User(user_id=request.user_id or "u9", tier=request.tier or "free")
        return quota.CreateUserResponse(user=user, key=quota.Key(key_id="k9", user_id=user.user_id), api_key="hg_new")

    async def GetUser(self, request: quota.GetUserRequest, context: Any) -> quota.GetUserResponse:
        self._note("GetUser", request)
        return quota.GetUserResponse(
            user=quota.User(user_id=request.user_id, tier="free", create_time=NOW), tier=FREE, usage=self.usage()
        )

    async def SetUserTier(self, request: quota.SetUserTierRequest, context: Any) -> quota.SetUserTierResponse:
        self._note("SetUserTier", request)
        return quota.SetUserTierResponse(
            user=quota.User(user_id=request.user_id, tier=request.tier), previous_tier="free"
        )

    async def SetUserLimits(self, request: quota.SetUserLimitsRequest, context: Any) -> quota.SetUserLimitsResponse:
        self._note("SetUserLimits", request)
        return quota.SetUserLimitsResponse(
            user=quota.User(user_id=request.user_id, tier="free", limits=request.limits, create_time=NOW)
        )

    async def SetUserStatus(self, request: quota.SetUserStatusRequest, context: Any) -> quota.SetUserStatusResponse:
        self._note("SetUserStatus", request)
        return quota.SetUserStatusResponse(user=quota.User(user_id=request.user_id, status=request.status))

    async def ListKeys(self, request: quota.ListKeysRequest, context: Any) -> quota.ListKeysResponse:
        self._note("ListKeys", request)
        return quota.ListKeysResponse(keys=[quota.Key(key_id="k1", user_id=request.user_id, create_time=NOW)])

    async def CreateKey(self, request: quota.CreateKeyRequest, context: Any) -> quota.CreateKeyResponse:
        self._note("CreateKey", request)
        return quota.CreateKeyResponse(key=quota.Key(key_id="k2", user_id=request.user_id), api_key="hg_new")

    async def RevokeKey(self, request: quota.RevokeKeyRequest, context: Any) -> quota.RevokeKeyResponse:
        self._note("RevokeKey", request)
        return quota.RevokeKeyResponse(key=quota.Key(key_id=request.key_id, create_time=NOW, revoke_time=NOW))


class FakeLedger(Scripted, ledger_pb2_grpc.LedgerServiceServicer):
    """Answers what it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.audit = ledger.ListAuditResponse()
        self.economics = ledger.GetEconomicsResponse()
        self.statement = ledger.GetStatementResponse()
        self.users = ledger.ListUsersResponse()
        self.report = ledger.GetUsageReportResponse()

    async def ListUsers(self, request: ledger.ListUsersRequest, context: Any) -> ledger.ListUsersResponse:
        self._note("ListUsers", request)
        return self.users

    async def GetUsageReport(
        self, request: ledger.GetUsageReportRequest, context: Any
    ) -> ledger.GetUsageReportResponse:
        self._note("GetUsageReport", request)
        return self.report

    async def ListAudit(self, request: ledger.ListAuditRequest, context: Any) -> ledger.ListAuditResponse:
        self._note("ListAudit", request)
        return self.audit

    async def GetEconomics(self, request: ledger.GetEconomicsRequest, context: Any) -> ledger.GetEconomicsResponse:
        self._note("GetEconomics", request)
        return self.economics

    async def GetStatement(self, request: ledger.GetStatementRequest, context: Any) -> ledger.GetStatementResponse:
        self._note("GetStatement", request)
        return self.statement


class FakeBilling(Scripted, billing_pb2_grpc.BillingServiceServicer):
    """Answers what it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = billing.ReceiveStripeEventResponse(applied=True)

    async def ReceiveStripeEvent(
        self, request: billing.ReceiveStripeEventRequest, context: Any
    ) -> billing.ReceiveStripeEventResponse:
        self._note("ReceiveStripeEvent", request)
        return self.answer


def place(position: int, wait_ms: int = 0) -> sched.Place:
    made = sched.Place(position=position)
    made.estimated_wait.FromMilliseconds(wait_ms)
    return made


def without_cost(request: sched.Request) -> sched.Request:
    shown = sched.Request()
    shown.CopyFrom(request)
    shown.ClearField("cost_nano_usd")
    return shown


class FakeScheduler(Scripted, scheduler_pb2_grpc.SchedulerServiceServicer):
    """Requests with their logs; events are sent when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: dict[str, sched.Request] = {}
        self.logs: dict[str, list[sched.Event]] = {}
        self.replayed = False
        self.svg = ""
        self.next_page = ""
        self.watchers: list[asyncio.Queue[sched.WatchResponse | None]] = []
        self.watched: set[str] = set()
        self.changed = asyncio.Condition()
        self.before_replay: Callable[[], None] | None = None
        self.hooks: dict[str, Callable[[Any, Any], Awaitable[Any]]] = {}

    def add(self, request_id: str, state: int = sched.STATE_QUEUED, user_id: str = "u1", **more: Any) -> sched.Request:
        request = sched.Request(request_id=request_id, user_id=user_id, state=state, accept_time=NOW, **more)
        if state == sched.STATE_QUEUED:
            request.place.CopyFrom(place(5, 41_230))
        self.requests[request_id] = request
        self.logs.setdefault(request_id, [])
        return request

    def emit(self, *events: sched.Event, log: bool = True) -> None:
        """Happens: logged (except a status), and sent to whoever watches."""
        for event in events:
            if event.seq and log:
                self.logs[event.request_id].append(event)
            if event.HasField("ended"):
                self.requests[event.request_id] = event.ended
        live = [event for event in events if event.request_id in self.watched]
        for watcher in self.watchers:
            watcher.put_nowait(sched.WatchResponse(events=live))

    def finish(self, request_id: str, seq: int, **more: Any) -> None:
        """Completes a request."""
        known = self.requests[request_id]
        ended = sched.Request(request_id=request_id, user_id=known.user_id, state=sched.STATE_COMPLETED, **more)
        self.emit(sched.Event(request_id=request_id, seq=seq, ended=ended))

    def break_watch(self) -> None:
        """Every Watch stream ends with an error; nobody is watched any more."""
        self.watched.clear()
        for watcher in self.watchers:
            watcher.put_nowait(None)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S), self.changed:
            await self.changed.wait_for(condition)

    async def _tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def Submit(self, request: sched.SubmitRequest, context: Any) -> sched.SubmitResponse:
        self._note("Submit", request)
        known = self.requests.get(request.request_id)
        return sched.SubmitResponse(request=known or self.add(request.request_id), replayed=self.replayed)

    def _owned(self, request_id: str, user_id: str) -> sched.Request:
        known = self.requests.get(request_id)
        if known is None or (user_id and known.user_id != user_id):
            raise scheduler_refusal("NOT_FOUND", grpc.StatusCode.NOT_FOUND, "There is no such request.")
        return known

    async def Get(self, request: sched.GetRequest, context: Any) -> sched.GetResponse:
        self._note("Get", request)
        answer = sched.GetResponse(request=self._owned(request.request_id, request.user_id))
        answer.request.svg = self.svg if request.include_svg else ""
        await self._tell()
        return answer

    async def List(self, request: sched.ListRequest, context: Any) -> sched.ListResponse:
        self._note("List", request)
        hook = self.hooks.pop("List", None)
        if hook is not None:
            return await hook(request, context)
        mine = [known for known in self.requests.values() if known.user_id == request.user_id]
        return sched.ListResponse(requests=mine, next_page_token="" if request.page_token else self.next_page)

    async def Cancel(self, request: sched.CancelRequest, context: Any) -> sched.CancelResponse:
        self._note("Cancel", request)
        known = self._owned(request.request_id, request.user_id)
        if known.state in (sched.STATE_QUEUED, sched.STATE_RUNNING):
            known.state, known.code = sched.STATE_CANCELLED, sched.FAILURE_CODE_CANCELLED
        return sched.CancelResponse(request=known)

    async def GetWait(self, request: sched.GetWaitRequest, context: Any) -> sched.GetWaitResponse:
        self._note("GetWait", request)
        alive = (sched.STATE_QUEUED, sched.STATE_RUNNING)
        count = sum(known.state in alive for known in self.requests.values())
        return sched.GetWaitResponse(place=place(7, 1_250), outstanding=count)

    async def Replay(self, request: sched.ReplayRequest, context: Any) -> sched.ReplayResponse:
        self._note("Replay", request)
        if self.before_replay is not None:
            self.before_replay()
        answer = sched.ReplayResponse(replayed=[self._replay(item) for item in request.items])
        await self._tell()
        return answer

    def _replay(self, item: sched.ReplayItem) -> sched.Replayed:
        known = self.requests.get(item.request_id)
        if known is None or (item.user_id and known.user_id != item.user_id):
            return sched.Replayed(request_id=item.request_id, found=False)
        if not item.user_id:
            known = without_cost(known)
        log = self.logs[item.request_id]
        events = [event for event in log if event.seq > item.after] if item.HasField("after") else []
        seq = log[-1].seq if log else 0
        if events and events[-1].HasField("ended"):
            events = [*events[:-1], sched.Event(request_id=item.request_id, seq=events[-1].seq, ended=known)]
        return sched.Replayed(request_id=item.request_id, found=True, events=events, request=known, seq=seq)

    async def Watch(self, requests: Any, context: Any) -> AsyncIterator[sched.WatchResponse]:
        answers: asyncio.Queue[sched.WatchResponse | None] = asyncio.Queue()
        self.watchers.append(answers)

        async def listen_to_changes() -> None:
            async for change in requests:
                self._note("Watch", change)
                self.watched |= set(change.subscribe)
                self.watched -= set(change.unsubscribe)
                if change.subscribe:
                    answers.put_nowait(sched.WatchResponse(subscribed=change.subscribe))
                await self._tell()

        listening = asyncio.create_task(listen_to_changes())
        try:
            while True:
                answer = await answers.get()
                if answer is None:
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "broken")
                yield answer
        finally:
            self.watchers.remove(answers)
            listening.cancel()
            await self._tell()


@dataclass
class Running:
    """A gateway and what is behind and around it."""

    quota: FakeQuota
    ledger: FakeLedger
    billing: FakeBilling
    scheduler: FakeScheduler
    quota_server: Server
    scheduler_server: Server
    gateway: Gateway
    http: httpx2.AsyncClient
    base_url: str
    folder: Path
    clock: Any
    server: HttpServer
    beside: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def ws_url(self) -> str:
        return self.base_url.replace("http", "ws", 1)


@contextlib.asynccontextmanager
async def running_gateway(
    *, clock: Clock | None = None, web: Path = Path("no-pages"), **variables: Any
) -> AsyncIterator[Running]:
    """Serves on a free port until left; `variables` are fields of the settings."""
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hg-")))
        fake_quota, fake_ledger, fake_billing, fake_scheduler = (
            FakeQuota(),
            FakeLedger(),
            FakeBilling(),
            FakeScheduler(),
        )
        servers = []
        for name, add in (
            ("quota", lambda s: quota_pb2_grpc.add_QuotaServiceServicer_to_server(fake_quota, s)),
            ("scheduler", lambda s: scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server(fake_scheduler, s)),
        ):
            server = Server([f"headgate.{name}.v1.{name.title()}Service"], lambda error: None)
            add(server.grpc)
            if name == "quota":
                ledger_pb2_grpc.add_LedgerServiceServicer_to_server(fake_ledger, server.grpc)
                billing_pb2_grpc.add_BillingServiceServicer_to_server(fake_billing, server.grpc)
            await server.start(f"unix:{folder}/{name}")
            stack.push_async_callback(server.grpc.stop, 0)
            servers.append(server)
        to_quota = await stack.enter_async_context(
            open_channel(f"unix:{folder}/quota", deadline_s=DEADLINE_S, safe_to_repeat=REPEATABLE)
        )
        to_scheduler = await stack.enter_async_context(
            open_channel(f"unix:{folder}/scheduler", deadline_s=DEADLINE_S, safe_to_repeat=REPEATABLE)
        )
        listener = listen("127.0.0.1", 0)
        base_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        values = {"public_url": base_url, "admin_keys": (ADMIN_KEY,), "admin_read_keys": (READ_KEY,), **variables}
        settings = GatewaySettings("unused", "unused", **values)
        backends = Backends(
            quota_pb2_grpc.QuotaServiceStub(to_quota),
            scheduler_pb2_grpc.SchedulerServiceStub(to_scheduler),
            health_pb2_grpc.HealthStub(to_quota),
            health_pb2_grpc.HealthStub(to_scheduler),
            ledger_pb2_grpc.LedgerServiceStub(to_quota),
            billing_pb2_grpc.BillingServiceStub(to_quota),
        )
        numbers = itertools.count(1)
        used_clock = clock or SystemClock()
        gateway = Gateway(settings, backends, used_clock, lambda: f"req_{next(numbers):022d}", web)
        http_server = HttpServer(gateway.app)
        # Not serve(): its loop and its shutdown sleep, which is most of what a test of this kind would take.
        http_server.config.load()
        http_server.lifespan = http_server.config.lifespan_class(http_server.config)
        await http_server.startup(sockets=[listener])
        beside = [asyncio.create_task(gateway.hub.run())]
        http = await stack.enter_async_context(httpx2.AsyncClient(base_url=base_url, timeout=DEADLINE_S))
        running = Running(
            fake_quota,
            fake_ledger,
            fake_billing,
            fake_scheduler,
            *servers,
            gateway,
            http,
            base_url,
            folder,
            used_clock,
            http_server,
            beside,
        )
        try:
            yield running
        finally:
            gateway.drain()
            for listening in http_server.servers:
                listening.close()
            for connection in list(http_server.server_state.connections):
                connection.shutdown()
            await asyncio.gather(*http_server.server_state.tasks, return_exceptions=True)
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
