"""Requests: send one, ask about it, end it, list them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.duration_pb2 import Duration
from headgate.quota.v1 import quota_pb2
from headgate.scheduler.v1 import scheduler_pb2 as pb
from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from services.clock import Clock
from services.gateway import limits, shapes
from services.gateway.callers import Callers, note
from services.gateway.edge import json_response, read_body
from services.gateway.errors import (
    Problem,
    invalid,
    not_found,
    problem_of,
    refusal_from,
    unknown_outcome,
    was_refused,
)
from services.gateway.messages import (
    ENDED,
    STATUS,
    Links,
    Message,
    completed_fields,
    failed_fields,
    place_fields,
    request_fields,
    rfc3339,
    wait_ms,
)
from services.gateway.watches import Hub

if TYPE_CHECKING:
    from headgate.quota.v1.quota_pb2_grpc import QuotaServiceAsyncStub
    from headgate.scheduler.v1.scheduler_pb2_grpc import SchedulerServiceAsyncStub

WAIT_LIMIT_MS = 120_000
"""Longest long poll; proxies in between give up sooner rather than later."""
RESOLVE_DEADLINE_S = 2.0
"""The place of a refused request goes back by itself within minutes, so the answer waits no longer for it."""
SETTLED = (quota_pb2.RESERVATION_STATE_COUNTED, quota_pb2.RESERVATION_STATE_GIVEN_BACK)
RETURNED = (quota_pb2.RESERVATION_STATE_GIVEN_BACK, quota_pb2.RESERVATION_STATE_ABSENT)
log = logging.getLogger(__name__)


class Diagrams:
    """The calls of one user about their requests."""

    def __init__(
        self,
        quota: QuotaServiceAsyncStub,
        scheduler: SchedulerServiceAsyncStub,
        callers: Callers,
        hub: Hub,
        links: Links,
        clock: Clock,
        new_id: Callable[[], str],
    ) -> None:
        self._quota = quota
        self._scheduler = scheduler
        self._callers = callers
        self._hub = hub
        self._links = links
        self._clock = clock
        self._new_id = new_id

    async def generate(self, request: Request) -> Response:
        """Accepts a request: reserve a place of the day, then submit; nothing else."""
        caller = self._callers.caller(request)
        try:
            wanted, key = await self._read(request)
        except Problem:
            # Who may not call at all is told that first.
            await self._callers.usage(request)
            raise
        reserve = quota_pb2.ReserveRequest(caller=caller, idempotency_key=key)
        if not key:
            reserve.request_id = self._new_id()
        reserved = await self._quota.Reserve(reserve)
        note(request, reserved.usage)
        try:
            submitted = await self._scheduler.Submit(_submission(reserved, wanted, idempotent=bool(key)))
        except grpc.aio.AioRpcError as error:
            raise await self._not_submitted(request, reserved, error) from None
        return self._accepted(submitted)

    async def _read(self, request: Request) -> tuple[shapes.Generate, str]:
        key = request.headers.get("idempotency-key")
        idempotency_key = "" if key is None else shapes.idempotency_key(key)
        wanted = shapes.read(await read_body(request), shapes.Generate)
        if wanted.webhook_url is not UNSET:
            raise invalid(("webhookUrl", "webhookUrl must name a host that the administrator has registered."))
        return wanted, idempotency_key

    async def _not_submitted(
        self, request: Request, reserved: quota_pb2.ReserveResponse, error: grpc.aio.AioRpcError
    ) -> Problem:
        refusal = refusal_from(error)
        if not was_refused(refusal):
            log.warning("the outcome of a submit is unknown: %s", refusal.code.name)
            return unknown_outcome(reserved.request_id)
        question = quota_pb2.ResolveRequest(request_id=reserved.request_id, generation=reserved.reservation.generation)
        try:
            resolved = await self._quota.Resolve(question, timeout=RESOLVE_DEADLINE_S)
            returned = resolved.reservation.state in RETURNED and reserved.reservation.state not in SETTLED
            note(request, reserved.usage, given_back=int(returned))
        except grpc.aio.AioRpcError as unresolved:
            log.warning("a refused request's place goes back later: %s", unresolved.code().name)
        return problem_of(refusal)

    def _accepted(self, submitted: pb.SubmitResponse) -> Response:
        request = submitted.request
        body: dict[str, Any] = {"requestId": request.request_id, "status": STATUS[request.state]}
        if request.state == pb.STATE_QUEUED:
            body.update(place_fields(request.place))
        else:
            body.update(position=0, estimatedWait=0)
        if request.state == pb.STATE_COMPLETED:
            body.update(completed_fields(request, self._links, with_cost=True))
        elif request.state in ENDED:
            failed = failed_fields(request)
            body.update(message=failed["error"], code=failed["code"])
        body["acceptedAt"] = rfc3339(request.accept_time)
        location = self._links.status(request.request_id)
        body.update(statusUrl=location, eventsUrl=self._links.events(request.request_id))
        retry_after_s = max(1, -(-body["estimatedWait"] // 1000))
        headers = {"Location": location, "Retry-After": str(retry_after_s)}
        if submitted.replayed:
            headers["Idempotent-Replayed"] = "true"
        return json_response(body, 202, headers)

    async def show(self, request: Request) -> Response:
        """The request now, or with `wait` at its next change."""
        request_id = request.path_params["id"]
        wait_text = request.query_params.get("wait")
        user_id = (await self._callers.usage(request)).user.user_id
        wait_limit_ms = shapes.whole_number("wait", wait_text, 0, WAIT_LIMIT_MS) if wait_text is not None else 0
        found = await self._get(request_id, user_id)
        if wait_limit_ms and found.state not in ENDED:
            change = _Change(user_id, found)
            subscription = self._hub.subscribe(request_id, change)
            try:
                await first_of(change.seen, self._clock, wait_limit_ms)
            finally:
                self._hub.unsubscribe(subscription)
            found = await self._get(request_id, user_id)
        return json_response(request_fields(found, self._links, with_cost=True))

    async def _get(self, request_id: str, user_id: str) -> pb.Request:
        if not shapes.REQUEST_ID.match(request_id):
            raise not_found("There is no such request.")
        question = pb.GetRequest(request_id=request_id, user_id=user_id, include_prompt=True)
        return (await self._scheduler.Get(question)).request

    async def cancel(self, request: Request) -> Response:
        """Ends the request, or tells how it had ended."""
        request_id = request.path_params["id"]
        user_id = (await self._callers.usage(request)).user.user_id
        erase = shapes.flag("erase", request.query_params.get("erase", "false"))
        if not shapes.REQUEST_ID.match(request_id):
            raise not_found("There is no such request.")
        cancel = pb.CancelRequest(request_id=request_id, user_id=user_id, erase=erase)
        ended = (await self._scheduler.Cancel(cancel)).request
        return json_response(request_fields(ended, self._links, with_cost=True))

    async def wait(self, request: Request) -> Response:
        """Place and wait of a request sent now."""
        usage = await self._callers.usage(request)
        question = pb.GetWaitRequest(user_id=usage.user.user_id, tier=_terms(usage.user, usage.tier))
        return json_response(place_fields((await self._scheduler.GetWait(question)).place))

    async def list(self, request: Request) -> Response:
        """The caller's requests, newest first."""
        user_id = (await self._callers.usage(request)).user.user_id
        limit = shapes.whole_number("limit", request.query_params.get("limit", "20"), 1, 100)
        cursor = request.query_params.get("cursor", "")
        if len(cursor) > 1_000:
            raise invalid(("cursor", "cursor must be the nextCursor of the page before."))
        page = await self._scheduler.List(pb.ListRequest(user_id=user_id, page_size=limit, page_token=cursor))
        items = [request_fields(r, self._links, with_cost=True, with_result=False) for r in page.requests]
        return json_response({"items": items, "nextCursor": page.next_page_token or None})

    async def outstanding(self, user: quota_pb2.User, tier: quota_pb2.Tier) -> int:
        """How many of a user's requests are queued or running."""
        question = pb.GetWaitRequest(user_id=user.user_id, tier=_terms(user, tier))
        return int((await self._scheduler.GetWait(question)).outstanding)

    async def picture(self, request: Request) -> Response:
        """The picture of a completed request, by its unguessable id."""
        viewer = await self._callers.viewer(request)
        request_id = request.path_params["id"]
        if not shapes.REQUEST_ID.match(request_id):
            raise not_found("There is no such picture.")
        question = pb.GetRequest(request_id=request_id, user_id=viewer, include_svg=True)
        svg = (await self._scheduler.Get(question)).request.svg
        if not svg:
            raise not_found("There is no such picture.")
        return Response(svg, headers=PICTURE_HEADERS, media_type="image/svg+xml")


PICTURE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    # Opened by itself a picture is a document of this origin: no script in it may run.
    "Content-Security-Policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:",
    "Cross-Origin-Resource-Policy": "cross-origin",
    "Cache-Control": "private, no-cache",
}


class _Change:
    """A reader that only wants to know that something is not as it was."""

    def __init__(self, user_id: str, known: pb.Request) -> None:
        self.user_id = user_id
        self.seen = asyncio.Event()
        self._state = known.state
        self._place = (known.place.position, wait_ms(known.place), known.place.paused)

    def opened(self, request_id: str) -> None:
        """Nothing has changed by that."""

    def event(self, message: Message, seq: int) -> None:
        event = message.event
        place = (event.status.position, wait_ms(event.status), event.status.paused)
        same_place = message.kind == "status" and self._state == pb.STATE_QUEUED and place == self._place
        same_state = message.kind == "processing" and self._state == pb.STATE_RUNNING
        # GET shows no piece of an answer, so a delta is no change of it.
        if not (same_place or same_state or message.kind == "delta"):
            self.seen.set()

    def closed(self, request_id: str, *, known: bool) -> None:
        self.seen.set()


async def first_of(event: asyncio.Event, clock: Clock, limit_ms: float) -> bool:
    """Whether `event` is set before `limit_ms` have passed by `clock`."""
    waits = {asyncio.ensure_future(event.wait()), asyncio.ensure_future(clock.sleep(limit_ms))}
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
    return event.is_set()


def _terms(user: quota_pb2.User, tier: quota_pb2.Tier) -> pb.TierTerms:
    return pb.TierTerms(
        name=tier.name,
        version=user.tier_version,
        share=tier.share,
        outstanding=tier.outstanding,
        models=tier.models,
        all_models=tier.all_models,
        user_spend_nano_usd_per_day=limits.optional(user.limits, "spend_nano_usd_per_day"),
        tier_spend_nano_usd_per_day=limits.optional(tier, "spend_nano_usd_per_day"),
    )


def _submission(reserved: quota_pb2.ReserveResponse, wanted: shapes.Generate, *, idempotent: bool) -> pb.SubmitRequest:
    options, reservation = wanted.options, reserved.reservation
    max_wait = Duration()
    max_wait.FromMilliseconds(options.max_wait)
    work = pb.Work(
        prompt=wanted.prompt, diagram_type=wanted.diagram_type, model=options.model, max_tokens=options.max_tokens
    )
    return pb.SubmitRequest(
        request_id=reserved.request_id,
        user_id=reserved.user.user_id,
        tier=_terms(reserved.user, reserved.tier),
        generation=reservation.generation,
        day=reservation.day,
        settled=reservation.state in SETTLED,
        work=work,
        priority=options.priority,
        max_wait=max_wait,
        idempotent=idempotent,
    )
