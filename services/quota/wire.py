"""Messages to the domain's words, checked field by field, and back."""

from __future__ import annotations

import re
from dataclasses import asdict
from datetime import date

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from headgate.quota.v1 import quota_pb2 as pb

from services.clock import utc_day
from services.quota import model
from services.quota.model import Caller, Charge, Invalid, ReservationState, Settlement, UserStatus
from services.quota.plans import Tier
from services.quota.terms import NOTHING_OWN, OWN_BOUNDS, TERMS

MAX_SETTLEMENTS = 500
MAX_CHARGES = 100
"""Far above five counted failures of two turns each; lost workers and pauses add attempts."""
_REQUEST_ID = re.compile(r"req_[0-9A-Za-z]{22}")
_KEY_ID = re.compile(r"key_[0-9A-Za-z]{11}")
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")
_STATES = {
    ReservationState.PENDING: pb.RESERVATION_STATE_PENDING,
    ReservationState.COUNTED: pb.RESERVATION_STATE_COUNTED,
    ReservationState.GIVEN_BACK: pb.RESERVATION_STATE_GIVEN_BACK,
    ReservationState.ABSENT: pb.RESERVATION_STATE_ABSENT,
}
_STATUSES = {pb.USER_STATUS_ACTIVE: UserStatus.ACTIVE, pb.USER_STATUS_SUSPENDED: UserStatus.SUSPENDED}
_STATUS_NUMBERS = {status: number for number, status in _STATUSES.items()}
_TOKENS = (
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_write_5m_input_tokens",
    "cache_write_1h_input_tokens",
)
MAX_TOKENS = 10**9
"""Of a turn, a thousand times what any model takes: sums of them stay far from the end of 64 bits."""
MAX_NANO_USD = 10**15
"""A million dollars for a turn."""


def read_text(field: str, value: str, most: int, *, least: int = 1) -> str:
    """Text of `least` to `most` printable characters."""
    # A database refuses NUL, and an id with a line break would forge a line of a log.
    if not least <= len(value) <= most or not value.isprintable():
        raise Invalid(field, f"must have {least} to {most} printable characters")
    return value


def read_user_id(field: str, value: str) -> str:
    """A user id."""
    return read_text(field, value, 128)


def read_actor(value: str) -> str:
    """Who asks, for the audit."""
    return read_text("actor", value, 200)


def read_email(field: str, value: str) -> str:
    """An address, or nothing."""
    if value and not (len(value) <= 254 and value.isprintable() and _EMAIL.fullmatch(value)):
        raise Invalid(field, "must be an e-mail address of at most 254 characters, or empty")
    return value


def read_request_id(field: str, value: str) -> str:
    """A request id."""
    if not _REQUEST_ID.fullmatch(value):
        raise Invalid(field, "must be req_ and 22 letters or digits")
    return value


def read_key_id(field: str, value: str) -> str:
    """The public id of a key."""
    if not _KEY_ID.fullmatch(value):
        raise Invalid(field, "must be key_ and 11 letters or digits")
    return value


def read_status(field: str, value: pb.UserStatus) -> UserStatus:
    """A status that a user can have."""
    if value not in _STATUSES:
        raise Invalid(field, "must be USER_STATUS_ACTIVE or USER_STATUS_SUSPENDED")
    return _STATUSES[value]


def read_range(field: str, value: int, most: int, *, usual: int) -> int:
    """A number from 1 to `most`; 0 stands for what is usual."""
    if not 0 <= value <= most:
        raise Invalid(field, f"must be 1 to {most}, or 0 for {usual}")
    return value or usual


def read_day(field: str, value: str) -> str:
    """A UTC day from 1970 on, as YYYY-MM-DD."""
    try:
        if _DAY.fullmatch(value) and date.fromisoformat(value).year >= 1970:
            return value
    except ValueError:
        pass
    raise Invalid(field, "must be a day as YYYY-MM-DD, from 1970 on")


def read_terms(message: pb.SetUserLimitsRequest) -> dict[str, int | None]:
    """The terms to change, by name; None takes one back."""
    # A message that was forgotten must not take everything back.
    if not message.HasField("limits"):
        raise Invalid("limits", "must be given")
    for i, name in enumerate(message.fields):
        if name not in TERMS:
            raise Invalid(f"fields[{i}]", f"must be one of {', '.join(TERMS)}")
    given = {field.name: value for field, value in message.limits.ListFields()}
    for name, value in given.items():
        least, most = OWN_BOUNDS[name]
        if not least <= value <= most:
            raise Invalid(f"limits.{name}", f"must be from {least} to {most}")
    return {name: given.get(name) for name in message.fields or TERMS}


def read_generation(field: str, value: int) -> int:
    """A generation of a reservation."""
    return _at_least(1, field, value)


def read_caller(message: pb.Caller) -> Caller:
    """Who calls. A key is not checked here: a malformed one is answered like an unknown one."""
    match message.WhichOneof("who"):
        case "api_key":
            if not message.api_key:
                raise Invalid("caller.api_key", "must not be empty")
            return Caller(api_key=message.api_key)
        case "user_id":
            user_id = read_user_id("caller.user_id", message.user_id)
            return Caller(user_id=user_id, create_if_missing=message.create_if_missing)
    raise Invalid("caller", "must have an api_key or a user_id")


def read_settlements(message: pb.SettleRequest) -> list[Settlement]:
    """All settlements of a call; one that is wrong refuses them all."""
    if len(message.settlements) > MAX_SETTLEMENTS:
        raise Invalid("settlements", f"must be at most {MAX_SETTLEMENTS}")
    return [_settlement(f"settlements[{i}]", item) for i, item in enumerate(message.settlements)]


def _settlement(path: str, message: pb.Settlement) -> Settlement:
    request_id = read_request_id(f"{path}.request_id", message.request_id)
    user_id = read_user_id(f"{path}.user_id", message.user_id)
    if len(message.charges) > MAX_CHARGES:
        raise Invalid(f"{path}.charges", f"must be at most {MAX_CHARGES}")
    day = message.day and read_day(f"{path}.day", message.day)
    tier = read_text(f"{path}.tier", message.tier, 64, least=0)
    charges = [
        _charge(f"{path}.charges[{i}]", item, request_id, user_id, day, tier) for i, item in enumerate(message.charges)
    ]
    return Settlement(
        request_id,
        user_id,
        message.counted if message.final else None,
        charges,
        tier=tier,
        completed=message.completed,
        cached=message.cached,
        saved_nano_usd=_amount(f"{path}.saved_nano_usd", message.saved_nano_usd, MAX_NANO_USD),
        kind=read_text(f"{path}.kind", message.kind, 64, least=0),
        model=read_text(f"{path}.model", message.model, 200, least=0),
    )


def _charge(path: str, message: pb.Charge, request_id: str, user_id: str, day: str, tier: str) -> Charge:
    end_time_ms = read_time_ms(f"{path}.end_time", message, "end_time")
    return Charge(
        request_id=request_id,
        user_id=user_id,
        attempt=_at_least(1, f"{path}.attempt", message.attempt),
        turn=_at_least(1, f"{path}.turn", message.turn),
        model=read_text(f"{path}.model", message.model, 200),
        kind=read_text(f"{path}.kind", message.kind, 64, least=0),
        estimated=message.estimated,
        day=day or utc_day(end_time_ms),
        end_time_ms=end_time_ms,
        tier=tier,
        summed=True,
        cost_nano_usd=_amount(f"{path}.cost_nano_usd", message.cost_nano_usd, MAX_NANO_USD),
        **{name: _amount(f"{path}.{name}", getattr(message, name), MAX_TOKENS) for name in _TOKENS},
    )


def _amount(field: str, value: int, most: int) -> int:
    if not 0 <= value <= most:
        raise Invalid(field, f"must be from 0 to {most}")
    return value


def _at_least(least: int, field: str, value: int) -> int:
    if value < least:
        raise Invalid(field, f"must be at least {least}")
    return value


def read_time_ms(field: str, message: Message, name: str) -> int:
    """The moment in the field `name`, which must be set."""
    value: Timestamp = getattr(message, name)
    # 253402300800 is the year 10000, the first that has no date.
    if not message.HasField(name) or not 0 <= value.seconds < 253402300800 or not 0 <= value.nanos < 10**9:
        raise Invalid(field, "must be a time from 1970 to 9999")
    return value.seconds * 1000 + value.nanos // 1_000_000


def timestamp(time_ms: int) -> Timestamp:
    """A moment."""
    return Timestamp(seconds=time_ms // 1000, nanos=time_ms % 1000 * 1_000_000)


def user(value: model.User) -> pb.User:
    """A user."""
    return pb.User(
        user_id=value.user_id,
        email=value.email,
        tier=value.tier,
        tier_version=value.tier_version,
        status=_STATUS_NUMBERS[value.status],
        create_time=timestamp(value.create_time_ms),
        limits=None if value.own == NOTHING_OWN else pb.UserLimits(**asdict(value.own)),
    )


def tier(value: Tier) -> pb.Tier:
    """A tier."""
    return pb.Tier(
        name=value.name,
        title=value.title,
        requests_per_day=value.requests_per_day,
        outstanding=value.outstanding,
        share=value.share,
        price_nano_usd_per_month=value.price_nano_usd_per_month,
        price=value.price,
        models=value.models,
        all_models=value.all_models,
        upgrade_url=value.upgrade_url,
        requests_per_minute=value.requests_per_minute,
        tokens_per_day=value.tokens_per_day,
        spend_nano_usd_per_month=value.spend_nano_usd_per_month,
        spend_nano_usd_per_day=value.spend_nano_usd_per_day,
    )


def usage(value: model.DayUsage) -> pb.DayUsage:
    """A user's day."""
    return pb.DayUsage(used=value.used, limit=value.limit, reset_time=timestamp(value.reset_time_ms))


def reservation(value: model.Reservation) -> pb.Reservation:
    """A reservation."""
    return pb.Reservation(
        request_id=value.request_id, generation=value.generation, day=value.day, state=_STATES[value.state]
    )


def key(value: model.Key) -> pb.Key:
    """A key."""
    revoked = None if value.revoke_time_ms is None else timestamp(value.revoke_time_ms)
    return pb.Key(
        key_id=value.key_id, user_id=value.user_id, create_time=timestamp(value.create_time_ms), revoke_time=revoked
    )
