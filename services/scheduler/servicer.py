"""The scheduler's gRPC face: proto to domain and back, and the one mapping of errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, suppress
from typing import Any

import grpc
from headgate.quota.v1.ledger_pb2 import AuditEntry, AuditRecord, RecordAuditRequest
from headgate.quota.v1.ledger_pb2_grpc import LedgerServiceStub
from headgate.quota.v1.quota_pb2 import SettleRequest
from headgate.quota.v1.quota_pb2_grpc import QuotaServiceStub
from headgate.scheduler.v1 import scheduler_pb2 as pb

from services import telemetry
from services.clock import DAY_MS, Clock
from services.rpc.status import Refusal, refusal_of
from services.scheduler import audit, messages
from services.scheduler.alerts import Alerts
from services.scheduler.capacity import Capacity
from services.scheduler.intake import Intake, Models, Work, checked, work_hash
from services.scheduler.life import LineUnavailable, Refused, Request, Settlement, Submission
from services.scheduler.line import ValkeyLine
from services.scheduler.operator_calls import OperatorCalls
from services.scheduler.outbox import QuotaRefused, QuotaUnavailable
from services.scheduler.ports import Requests
from services.scheduler.provider_plan import ProviderPlan
from services.scheduler.waits import Place, PoolView
from services.scheduler.watches import Happened, Watches
from services.sql import StoreUnavailable

SERVICE = "headgate.scheduler.v1.SchedulerService"
DOMAIN = "scheduler.headgate"
MOST_ITEMS = 500
MOST_WATCHED = 1_000
CODES = {
    "CONCURRENCY_LIMIT_EXCEEDED": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "QUEUE_FULL": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "TOO_LARGE": grpc.StatusCode.FAILED_PRECONDITION,
    "IDEMPOTENCY_CONFLICT": grpc.StatusCode.ALREADY_EXISTS,
    "RESERVATION_STALE": grpc.StatusCode.ABORTED,
    "UNKNOWN_MODEL": grpc.StatusCode.INVALID_ARGUMENT,
    "MODEL_NOT_ALLOWED": grpc.StatusCode.PERMISSION_DENIED,
    "INVALID_REQUEST": grpc.StatusCode.INVALID_ARGUMENT,
    "NOT_FOUND": grpc.StatusCode.NOT_FOUND,
}


def refusal_for(error: Exception) -> Refusal | None:
    """What a caller is told about an error of the domain; None for one that nobody foresaw."""
    if isinstance(error, Refused):
        return Refusal(CODES[error.reason], error.reason, str(error), DOMAIN, error.figures, error.retry_after_ms)
    if isinstance(error, StoreUnavailable | LineUnavailable):
        # No domain: whether something was accepted is not known, so this is no refusal.
        return Refusal(grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE", "The scheduler's store cannot be reached.")
    return None


class SchedulerServicer(OperatorCalls):
    """Translates; decides nothing."""

    def __init__(
        self,
        intake: Intake,
        requests: Requests,
        line: ValkeyLine,
        watches: Watches,
        plan: ProviderPlan,
        capacity: Capacity,
        alerts: Alerts,
        *,
        clock: Clock,
        on_settlement: Callable[[], None],
    ) -> None:
        super().__init__(line, plan, capacity, alerts)
        self._intake = intake
        self._requests = requests
        self._line = line
        self._watches = watches
        self._clock = clock
        self._on_settlement = on_settlement

    async def Submit(self, request: pb.SubmitRequest, context: Any) -> pb.SubmitResponse:
        submission = self._submission(request)
        accept = self._intake.settled if request.settled else self._intake.submit
        row, place, replayed = await accept(submission)
        if row.state.ended and not replayed:
            self._on_settlement()
        return pb.SubmitResponse(request=messages.request(row, place, owner=True), replayed=replayed)

    def _submission(self, request: pb.SubmitRequest) -> Submission:
        if not request.request_id or not request.user_id or request.generation < 1 or not request.day:
            raise Refused("INVALID_REQUEST", "A submission needs an id, a user, a generation and a day.")
        if not -10 <= request.priority <= 10:
            raise Refused("INVALID_REQUEST", "It must be from -10 to 10.", figures={"field": "options.priority"})
        max_wait_ms = request.max_wait.ToMilliseconds() if request.HasField("max_wait") else 3_600_000
        if not 1_000 <= max_wait_ms <= DAY_MS:
            message = "It must be from 1000 to 86400000 milliseconds."
            raise Refused("INVALID_REQUEST", message, figures={"field": "options.maxWait"})
        asked, tier = request.work, request.tier
        models = Models(frozenset(tier.models), tier.all_models)
        wanted = Work(asked.prompt, asked.diagram_type or "mermaid", asked.model, asked.max_tokens or 2048)
        work, pool = self._intake.check(wanted, models)
        input_tokens, output_tokens = self._intake.estimate(work, pool)
        terms = checked(messages.terms(tier))
        return Submission(
            request_id=request.request_id, user_id=request.user_id, tier=terms, generation=request.generation,
            day=request.day, pool=pool, model=work.model, diagram_type=work.diagram_type, prompt=work.prompt,
            max_tokens=work.max_tokens, priority=request.priority, max_wait_ms=max_wait_ms,
            idempotent=request.idempotent, work_hash=work_hash(work, request.priority, max_wait_ms),
            estimated_input_tokens=input_tokens, estimated_output_tokens=output_tokens,
            traceparent=telemetry.traceparent(), cache_key=self._intake.cache_key(request.user_id, work),
        )  # fmt: skip

    async def Account(self, request: pb.AccountRequest, context: Any) -> pb.AccountResponse:
        _at_most(len(request.items), MOST_ITEMS, "items")
        items = [(item.request_id, item.generation) for item in request.items]
        answers = await self._requests.account(items, self._clock.now_ms())
        return pb.AccountResponse(
            answers=[
                pb.AccountAnswer(request_id=request_id, standing=messages.STANDINGS[standing], counted=counted)
                for (request_id, _), (standing, counted) in zip(items, answers, strict=True)
            ]
        )

    async def Get(self, request: pb.GetRequest, context: Any) -> pb.GetResponse:
        row = await self._requests.get(request.request_id, prompt=request.include_prompt, svg=request.include_svg)
        if row is None or (request.user_id and not request.operator and row.user_id != request.user_id):
            raise _not_found()
        owner = bool(request.user_id) or request.operator
        return pb.GetResponse(request=messages.request(row, await self._intake.place(row), owner=owner))

    async def List(self, request: pb.ListRequest, context: Any) -> pb.ListResponse:
        many = request.page_size or 20
        if not request.user_id or not 1 <= many <= 100:
            raise Refused("INVALID_REQUEST", "It must be from 1 to 100.", figures={"field": "limit"})
        before = _cursor(request.page_token) if request.page_token else None
        rows = await self._requests.of_user(request.user_id, many + 1, before)
        more = str(rows[many - 1].acceptance) if len(rows) > many else ""
        return pb.ListResponse(requests=[messages.request(r, owner=True) for r in rows[:many]], next_page_token=more)

    async def Cancel(self, request: pb.CancelRequest, context: Any) -> pb.CancelResponse:
        row, did = await self._requests.cancel(
            request.request_id, request.user_id, erase=request.erase, now_ms=self._clock.now_ms()
        )
        if row is None:
            raise _not_found()
        if did:
            self._on_settlement()
            # Its final event goes out and its attempt stops by the same script; the sweep repeats it if need be.
            with suppress(LineUnavailable, StoreUnavailable):
                await self._requests.tell([(row.request_id, await self._line.finish(row))])
        if request.erase:
            with suppress(LineUnavailable):
                await self._line.erase_events(row.pool, row.request_id)
        return pb.CancelResponse(request=messages.request(row, owner=True))

    async def Watch(self, requests: AsyncIterator[pb.WatchRequest], context: Any) -> AsyncIterator[pb.WatchResponse]:
        watcher = self._watches.open()

        async def listen() -> None:
            async for request in requests:
                _at_most(max(len(request.subscribe), len(request.unsubscribe)), MOST_WATCHED, "subscribe")
                watcher.unsubscribe(request.unsubscribe)
                await watcher.subscribe(list(request.subscribe))

        listening = asyncio.create_task(listen())
        listening.add_done_callback(lambda _: watcher.end())
        try:
            async with aclosing(watcher.batches()) as batches:  # type: ignore[type-var]
                async for confirmed, events in batches:
                    yield pb.WatchResponse(subscribed=confirmed, events=[messages.event(e) for e in events])
            await listening
        finally:
            listening.cancel()
            self._watches.close(watcher)

    async def Replay(self, request: pb.ReplayRequest, context: Any) -> pb.ReplayResponse:
        _at_most(len(request.items), MOST_ITEMS, "items")
        rows = {r.request_id: r for r in await self._requests.get_many([i.request_id for i in request.items])}
        replayed = [await self._replayed(item, rows.get(item.request_id)) for item in request.items]
        return pb.ReplayResponse(replayed=replayed)

    async def _replayed(self, item: pb.ReplayItem, row: Request | None) -> pb.Replayed:
        if row is None or (item.user_id and row.user_id != item.user_id):
            return pb.Replayed(request_id=item.request_id, found=False)
        after = item.after if item.HasField("after") else None
        logged: list[tuple[int, dict[str, Any]]] = []
        with suppress(LineUnavailable):
            logged = await self._line.events(row.pool, row.request_id, after or 0)
        # An end that was logged after the row was read has still to be told: its number must not hide it.
        known = [seq for seq, event in logged if row.state.ended or event["type"] != "ended"]
        highest = max([*known, row.final_seq or 0, after or 0])
        events = []
        if after is not None:
            events = [Happened(row.request_id, s, e) for s, e in logged if e["type"] != "ended"]
        final_seq = row.final_seq or next((s for s, e in logged if e["type"] == "ended"), highest + 1)
        if row.state.ended and (after is None or after < final_seq):
            events = [*events, Happened(row.request_id, final_seq, row)]
        owner = bool(item.user_id)
        answer = pb.Replayed(
            request_id=row.request_id, found=True, events=[messages.event(e) for e in events], seq=highest,
            request=messages.request(row, await self._intake.place(row), owner=owner),
        )  # fmt: skip
        return answer

    async def GetWait(self, request: pb.GetWaitRequest, context: Any) -> pb.GetWaitResponse:
        place = await self._intake.would_be(request.user_id, request.tier.name, request.model)
        outstanding = await self._requests.outstanding(request.user_id)
        return pb.GetWaitResponse(place=messages.place(place), outstanding=outstanding)

    async def GetQueue(self, request: pb.GetQueueRequest, context: Any) -> pb.GetQueueResponse:
        views, waiting = await self._intake.views(), await self._requests.queue()
        pools = []
        for pool in self._plan.provider.pools:
            tiers = [
                pb.TierQueue(tier=tier, queued=count, oldest_accept_time=messages.timestamp(oldest))
                for its_pool, tier, count, oldest in waiting
                if its_pool == pool
            ]
            pools.append(self._pool_queue(pool, views.get(pool), tiers))
        return pb.GetQueueResponse(pools=pools)

    def _pool_queue(self, pool: str, view: PoolView | None, tiers: list[pb.TierQueue]) -> pb.PoolQueue:
        if view is None:
            return pb.PoolQueue(pool=pool, paused=pb.PAUSE_REASON_STORAGE, tiers=tiers)
        paused = messages.place(Place(0, 0, view.paused)).paused
        until = messages.timestamp(view.pause_ends_ms)
        return pb.PoolQueue(pool=pool, paused=paused, paused_until=until, running=view.running, tiers=tiers)

    async def ApplyTiers(self, request: pb.ApplyTiersRequest, context: Any) -> pb.ApplyTiersResponse:
        _at_most(len(request.changes), MOST_ITEMS, "changes")
        changes = [(change.user_id, messages.terms(change.tier)) for change in request.changes]
        await self._intake.retier(changes)
        return pb.ApplyTiersResponse()


class QuotaOverGrpc:
    """`outbox.Quota` over its gRPC service."""

    def __init__(self, stub: QuotaServiceStub) -> None:
        self._stub: Any = stub

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """Returns once quota has them all."""
        try:
            await self._stub.Settle(SettleRequest(settlements=[messages.settlement(s) for s in settlements]))
        except grpc.aio.AioRpcError as error:
            refusal = refusal_of(error)
            if refusal.domain and refusal.code is not grpc.StatusCode.UNAVAILABLE:
                raise QuotaRefused(refusal.message) from error
            raise QuotaUnavailable(f"quota answered {error.code().name}") from error


class AuditOverGrpc:
    """`audit.Receiver` over quota's ledger service."""

    def __init__(self, stub: LedgerServiceStub) -> None:
        self._stub: Any = stub

    async def record(self, entries: Sequence[audit.Entry]) -> None:
        """Returns once quota has them all."""
        records = [
            AuditRecord(
                audit_id=one.audit_id,
                entry=AuditEntry(
                    time=messages.timestamp(one.time_ms), actor=one.actor, action=one.action, subject=one.subject,
                    old=one.old, new=one.new,
                ),
            )
            for one in entries
        ]  # fmt: skip
        try:
            await self._stub.RecordAudit(RecordAuditRequest(records=records))
        except grpc.aio.AioRpcError as error:
            raise QuotaUnavailable(f"quota answered {error.code().name}") from error


def _cursor(text: str) -> int:
    # Up to 18 digits fit into SQL's BIGINT whatever they are.
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise Refused("INVALID_REQUEST", "This cursor was not made here.", figures={"field": "cursor"})
    return int(text)


def _at_most(count: int, most: int, field: str) -> None:
    if count > most:
        raise Refused("INVALID_REQUEST", f"At most {most} at once.", figures={"field": field})


def _not_found() -> Refused:
    return Refused("NOT_FOUND", "There is no such request.")
