"""Everything that can go wrong in the contract's words: the one mapping from refusals to HTTP errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import grpc
from headgate.quota.v1 import quota_pb2

from services.gateway import limits, rates
from services.gateway.messages import rfc3339
from services.rpc.status import Refusal, refusal_of

ACCEPTED_UNKNOWN = (
    "It is not known whether your request was accepted. Ask about it, or send it again with the same key."
)
NOT_REACHED = "A part of the service cannot be reached. Nothing was accepted; please try again in a moment."
SCHEDULER = "scheduler.headgate"

# After these the caller cannot know whether the work was done.
UNKNOWN_OUTCOMES = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
    }
)


class Problem(Exception):
    """An answer that is an error of the contract. `more` are further fields of its body."""

    def __init__(
        self, status: int, code: str, message: str, *, headers: Mapping[str, str] | None = None, **more: Any
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = dict(headers or {})
        self.more = more

    def body(self, trace_id: str) -> dict[str, Any]:
        """The JSON object that the contract promises."""
        return {"error": self.code, "code": self.code, "message": self.message, **self.more, "traceId": trace_id}


def invalid(*fields: tuple[str, str]) -> Problem:
    """Fields that are wrong, each as (path, sentence)."""
    listed = [{"path": path, "message": message} for path, message in fields]
    return Problem(422, "INVALID_REQUEST", "The request is not valid: " + fields[0][1], fields=listed)


def not_json(reason: str) -> Problem:
    """The body could not be read as JSON at all."""
    return Problem(
        400, "INVALID_REQUEST", "The body is not JSON: " + reason, fields=[{"path": "", "message": "Must be JSON."}]
    )


def unauthenticated(message: str = "The key is missing, unknown or revoked.") -> Problem:
    """Nobody that is known."""
    return Problem(401, "UNAUTHENTICATED", message, headers={"WWW-Authenticate": 'Bearer realm="headgate"'})


def not_found(message: str = "There is nothing at this address.") -> Problem:
    """Nothing there, or not the caller's."""
    return Problem(404, "NOT_FOUND", message)


def unavailable(message: str = NOT_REACHED) -> Problem:
    """A store or service is down and nothing was accepted."""
    return Problem(503, "UNAVAILABLE", message, headers={"Retry-After": "1"})


def unknown_outcome(request_id: str) -> Problem:
    """The scheduler may or may not have the request; only asking will tell."""
    headers = {"Retry-After": "1"}
    return Problem(503, "UNAVAILABLE", ACCEPTED_UNKNOWN, headers=headers, requestId=request_id, accepted="unknown")


def refusal_from(error: grpc.aio.AioRpcError) -> Refusal:
    """What a backend said, with the details that errors of the contract need."""
    return refusal_of(error, (quota_pb2.LimitExceeded,))


def was_refused(refusal: Refusal) -> bool:
    """Whether the scheduler definitely did not accept: only its own word for it counts."""
    return refusal.domain == SCHEDULER and refusal.code not in UNKNOWN_OUTCOMES


def problem_of(refusal: Refusal) -> Problem:
    """The HTTP error for a refusal of quota or the scheduler."""
    make = _BY_REASON.get(refusal.reason)
    if make is not None and refusal.domain:
        return make(refusal)
    if refusal.code in UNKNOWN_OUTCOMES:
        return unavailable()
    if refusal.code is grpc.StatusCode.NOT_FOUND:
        return not_found(refusal.message)
    if refusal.code is grpc.StatusCode.INVALID_ARGUMENT:
        return _invalid(refusal)
    return unavailable()


def _invalid(refusal: Refusal) -> Problem:
    return invalid((refusal.metadata.get("field", ""), refusal.message))


def _limit(refusal: Refusal) -> Problem:
    exceeded = refusal.detail(quota_pb2.LimitExceeded)
    if exceeded is None:
        return Problem(429, "USER_LIMIT_EXCEEDED", refusal.message)
    if not exceeded.limit:
        usage = exceeded.usage
        exceeded.limit, exceeded.used, exceeded.most = quota_pb2.LIMIT_REQUESTS_PER_DAY, usage.used, usage.limit
        exceeded.reset_time.CopyFrom(usage.reset_time)
    words = limits.WORDS[exceeded.limit]
    more: dict[str, Any] = {
        "resetTime": rfc3339(exceeded.reset_time),
        "currentTier": exceeded.tier.name,
        "currentUsage": words.usage(exceeded.used, exceeded.most),
        "used": exceeded.used,
        "limit": exceeded.most,
        "limitKind": words.kind,
    }
    if exceeded.HasField("next_tier"):
        following = exceeded.next_tier
        more["nextTier"] = following.name
        more["nextTierLimit"] = words.gives(following)
        more["price"] = following.price
        if following.upgrade_url:
            more["upgradeUrl"] = following.upgrade_url
    headers = rates.headers(exceeded.usage)
    if exceeded.limit == quota_pb2.LIMIT_REQUESTS_PER_MINUTE:
        headers["Retry-After"] = str(max(1, rates.seconds_until(exceeded.reset_time)))
    return Problem(429, "USER_LIMIT_EXCEEDED", words.message(exceeded.most), headers=headers, **more)


def _outstanding(refusal: Refusal) -> Problem:
    figures = {name: int(refusal.metadata.get(name, "0")) for name in ("outstanding", "limit")}
    return Problem(429, "CONCURRENCY_LIMIT_EXCEEDED", refusal.message, headers=_retry_after(refusal), **figures)


def _queue_full(refusal: Refusal) -> Problem:
    wait_ms = int(refusal.metadata.get("estimated_wait_ms", "0"))
    return Problem(429, "QUEUE_FULL", refusal.message, headers=_retry_after(refusal), estimatedWait=wait_ms)


def _retry_after(refusal: Refusal) -> dict[str, str]:
    return {"Retry-After": str(max(1, math.ceil((refusal.retry_after_ms or 0) / 1000)))}


def _stale(refusal: Refusal) -> Problem:
    message = "An equal request is still being accepted. Send it again in a second."
    return Problem(409, "IDEMPOTENCY_CONFLICT", message, headers={"Retry-After": "1"})


_BY_REASON: dict[str, Callable[[Refusal], Problem]] = {
    "UNAUTHENTICATED": lambda refusal: unauthenticated(),
    "INVALID_SIGNATURE": lambda refusal: Problem(400, "INVALID_SIGNATURE", refusal.message),
    "USER_SUSPENDED": lambda refusal: Problem(403, "FORBIDDEN", refusal.message),
    "MODEL_NOT_ALLOWED": lambda refusal: Problem(403, "FORBIDDEN", refusal.message),
    "USER_LIMIT_EXCEEDED": _limit,
    "CONCURRENCY_LIMIT_EXCEEDED": _outstanding,
    "QUEUE_FULL": _queue_full,
    "TOO_LARGE": lambda refusal: Problem(413, "TOO_LARGE", refusal.message),
    "IDEMPOTENCY_CONFLICT": lambda refusal: Problem(422, "IDEMPOTENCY_CONFLICT", refusal.message),
    "RESERVATION_STALE": _stale,
    "ALREADY_EXISTS": lambda refusal: Problem(409, "ALREADY_EXISTS", refusal.message),
    "NOT_FOUND": lambda refusal: not_found(refusal.message),
    "UNKNOWN_MODEL": _invalid,
    "INVALID_REQUEST": _invalid,
    "UNAVAILABLE": lambda refusal: unavailable(),
}
