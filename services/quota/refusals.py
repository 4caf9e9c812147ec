"""The one mapping of this service's errors to what callers see."""

from __future__ import annotations

from google.rpc import error_details_pb2
from grpc import StatusCode
from headgate.quota.v1 import quota_pb2 as pb

from services.quota import wire
from services.quota.model import (
    AlreadyExists,
    Invalid,
    InvalidSignature,
    LimitReached,
    NotFound,
    Suspended,
    Unauthenticated,
)
from services.rpc.status import Refusal
from services.sql import StoreUnavailable

DOMAIN = "quota.headgate"
RETRY_AFTER_MS = 1000


def refusal_for(error: Exception) -> Refusal | None:
    """What a caller sees of an error; None for one that is a mistake of ours."""
    match error:
        case LimitReached():
            return _limit_refusal(error)
        case Unauthenticated():
            return _refusal(StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED", "This API key is not valid.")
        case Suspended():
            return _refusal(StatusCode.PERMISSION_DENIED, "USER_SUSPENDED", "This account is suspended.")
        case InvalidSignature():
            text = "The signature is missing, wrong or too old."
            return _refusal(StatusCode.INVALID_ARGUMENT, "INVALID_SIGNATURE", text)
        case NotFound():
            return _refusal(StatusCode.NOT_FOUND, "NOT_FOUND", f"There is no such {error}.")
        case AlreadyExists():
            return _refusal(StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS", f"There is already a {error} with that id.")
        case Invalid():
            return Refusal(
                StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", str(error), DOMAIN, metadata={"field": error.field}
            )
        case StoreUnavailable():
            return Refusal(
                StatusCode.UNAVAILABLE,
                "UNAVAILABLE",
                "Accounts cannot be reached now; try again in a moment.",
                DOMAIN,
                retry_after_ms=RETRY_AFTER_MS,
            )
    return None


def _refusal(code: StatusCode, reason: str, message: str) -> Refusal:
    return Refusal(code, reason, message, DOMAIN)


def _limit_refusal(error: LimitReached) -> Refusal:
    which = error.reached
    exceeded = pb.LimitExceeded(
        usage=wire.usage(error.usage),
        tier=wire.tier(error.tier),
        limit=f"LIMIT_{which.limit.name}",
        used=which.used,
        most=which.most,
        reset_time=wire.timestamp(which.reset_time_ms),
    )
    if error.next_tier is not None:
        exceeded.next_tier.CopyFrom(wire.tier(error.next_tier))
    violation = error_details_pb2.QuotaFailure.Violation(subject=f"user:{error.user.user_id}", description=str(error))
    return Refusal(
        StatusCode.RESOURCE_EXHAUSTED,
        "USER_LIMIT_EXCEEDED",
        str(error),
        DOMAIN,
        details=(error_details_pb2.QuotaFailure(violations=[violation]), exceeded),
    )
