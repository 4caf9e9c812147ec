"""What the scheduler says, in the contract's words: events, requests, places, tiers."""

from __future__ import annotations

from typing import Any

import msgspec
from google.protobuf.timestamp_pb2 import Timestamp
from headgate.quota.v1 import quota_pb2
from headgate.scheduler.v1 import scheduler_pb2 as pb

from services.gateway import limits

STATUS = {
    pb.STATE_QUEUED: "queued",
    pb.STATE_RUNNING: "processing",
    pb.STATE_COMPLETED: "completed",
    pb.STATE_FAILED: "failed",
    pb.STATE_CANCELLED: "cancelled",
    pb.STATE_EXPIRED: "expired",
}
ENDED = frozenset({pb.STATE_COMPLETED, pb.STATE_FAILED, pb.STATE_CANCELLED, pb.STATE_EXPIRED})
NOT_ACCEPTED = "This request was not accepted."
# Shown only where the scheduler gave no sentence of its own.
_SENTENCES = {
    pb.STATE_FAILED: "The diagram could not be made.",
    pb.STATE_CANCELLED: "The request was cancelled.",
    pb.STATE_EXPIRED: "The request waited longer than it was allowed to.",
}


def rfc3339(moment: Timestamp) -> str:
    """UTC with whole seconds and Z."""
    return Timestamp(seconds=moment.seconds).ToJsonString()


class Links:
    """Absolute addresses of a request's views."""

    def __init__(self, public_url: str) -> None:
        self._root = f"{public_url}/api/diagram/"

    def status(self, request_id: str) -> str:
        """Where to ask for it."""
        return self._root + request_id

    def events(self, request_id: str) -> str:
        """Where to listen to it."""
        return f"{self._root}{request_id}/events"

    def svg(self, request_id: str) -> str:
        """Where its picture is."""
        return f"{self._root}{request_id}/diagram.svg"


def wait_ms(place: pb.Place) -> int:
    """A multiple of 100, rounded up: nobody is told less than they will wait."""
    return -(-max(0, place.estimated_wait.ToMilliseconds()) // 100) * 100


def place_fields(place: pb.Place) -> dict[str, Any]:
    """Place and wait of something that is queued."""
    return {"position": max(1, place.position), "estimatedWait": wait_ms(place)} | pause_fields(place)


def pause_fields(told: pb.Place | pb.PoolQueue) -> dict[str, Any]:
    """Why dispatch stands still and until when, if it does."""
    fields = {}
    if told.paused:
        fields["paused"] = pb.PauseReason.Name(told.paused).removeprefix("PAUSE_REASON_").lower()
        if told.HasField("paused_until"):
            fields["pausedUntil"] = rfc3339(told.paused_until)
    return fields


def usage_fields(usage: pb.TokenUsage) -> dict[str, int]:
    """Tokens over all attempts."""
    return {
        "inputTokens": usage.input_tokens,
        "outputTokens": usage.output_tokens,
        "cacheReadInputTokens": usage.cache_read_input_tokens,
        "cacheWriteInputTokens": usage.cache_write_input_tokens,
    }


def _failure_code(request: pb.Request) -> str:
    if request.code:
        return pb.FailureCode.Name(request.code).removeprefix("FAILURE_CODE_")
    return STATUS[request.state].upper() if request.state != pb.STATE_FAILED else "PROVIDER_UNAVAILABLE"


def completed_fields(request: pb.Request, links: Links, *, with_cost: bool) -> dict[str, Any]:
    """What a completed request has to show."""
    fields: dict[str, Any] = {"result": request.result}
    if request.has_svg:
        fields["svgUrl"] = links.svg(request.request_id)
    fields["usage"] = usage_fields(request.usage)
    if with_cost:
        fields["costNanoUsd"] = request.cost_nano_usd
    return {**fields, "cached": request.cached, "truncated": request.truncated}


def failed_fields(request: pb.Request) -> dict[str, Any]:
    """Why a request ended without a diagram."""
    return {"error": request.error or _SENTENCES[request.state], "code": _failure_code(request)}


def request_fields(request: pb.Request, links: Links, *, with_cost: bool, with_result: bool = True) -> dict[str, Any]:
    """A request as `GET` shows it to its owner."""
    request_id = request.request_id
    fields: dict[str, Any] = {"requestId": request_id, "status": STATUS[request.state]}
    if request.state == pb.STATE_QUEUED:
        fields.update(place_fields(request.place))
    fields["diagramType"] = request.diagram_type
    if request.prompt:
        fields["prompt"] = request.prompt
    fields.update(model=request.model, priority=request.priority, attempts=request.attempts)
    moments = {
        "acceptedAt": request.accept_time,
        "startedAt": request.start_time,
        "endedAt": request.end_time,
        "deadline": request.deadline,
    }
    fields.update({name: rfc3339(moment) for name, moment in moments.items() if moment.seconds})
    if request.state == pb.STATE_COMPLETED:
        shown = completed_fields(request, links, with_cost=with_cost)
        if not with_result:
            del shown["result"]
        fields.update(shown)
    elif request.state in ENDED:
        fields.update(failed_fields(request))
    if with_cost:
        fields["costNanoUsd"] = request.cost_nano_usd
        if request.cost_estimated:
            fields["costEstimated"] = True
    fields.update(statusUrl=links.status(request_id), eventsUrl=links.events(request_id))
    return fields


def tier_fields(tier: quota_pb2.Tier) -> dict[str, Any]:
    """A tier for people who may buy it."""
    fields: dict[str, Any] = {
        "name": tier.name,
        "title": tier.title,
        "requestsPerDay": tier.requests_per_day,
        "outstanding": tier.outstanding,
        "share": tier.share,
        "price": tier.price,
    }
    for name, field in limits.OF_A_TIER.items():
        if tier.HasField(field):
            fields[name] = getattr(tier, field)
    if tier.upgrade_url:
        fields["upgradeUrl"] = tier.upgrade_url
    return fields


class Message:
    """One event for readers, encoded once for all who may see the same of it."""

    __slots__ = ("_encoded", "_links", "_priced", "event", "kind", "request_id")

    def __init__(self, event: pb.Event, links: Links, *, priced: bool = True) -> None:
        self._priced = priced
        self.event = event
        self.request_id = event.request_id
        self.kind: str = event.WhichOneof("event") or "status"
        self._links = links
        self._encoded: dict[tuple[int, bool], str] = {}

    @property
    def type(self) -> str:
        """The contract's type: an end is `completed` or `failed`."""
        if self.kind != "ended":
            return self.kind
        return "completed" if self.event.ended.state == pb.STATE_COMPLETED else "failed"

    def text(self, seq: int, *, viewer: str) -> str:
        """JSON under the number `seq`; cost only for the user whose request it is."""
        with_cost = self._priced and self.type == "completed" and viewer != "" and viewer == self.event.ended.user_id
        text = self._encoded.get((seq, with_cost))
        if text is None:
            head = {"type": self.type, "requestId": self.request_id, "seq": seq}
            text = msgspec.json.encode(head | self._fields(with_cost)).decode()
            self._encoded[(seq, with_cost)] = text
        return text

    def _fields(self, with_cost: bool) -> dict[str, Any]:
        event = self.event
        if self.kind == "ended":
            if event.ended.state == pb.STATE_COMPLETED:
                return completed_fields(event.ended, self._links, with_cost=with_cost)
            status = STATUS.get(event.ended.state, "failed")
            return {**failed_fields(event.ended), "status": status}
        if self.kind == "processing":
            return {"attempt": event.processing.attempt}
        if self.kind == "delta":
            return {"text": event.delta.text, "attempt": event.delta.attempt, "offset": event.delta.offset}
        if self.kind == "retrying":
            delay_ms = event.retrying.delay.ToMilliseconds()
            return {"reason": event.retrying.reason, "delay": delay_ms, "attempt": event.retrying.attempt}
        return place_fields(event.status)


def not_accepted_text(request_id: str) -> str:
    """The final message for an id that names nothing."""
    message = {"type": "failed", "requestId": request_id, "seq": 0, "error": NOT_ACCEPTED, "code": "NOT_FOUND"}
    return msgspec.json.encode(message | {"status": "failed"}).decode()
