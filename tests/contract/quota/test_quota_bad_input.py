"""Bad input in every field of every call: INVALID_ARGUMENT that names the field, and nothing changes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import StatusCode
from headgate.quota.v1 import quota_pb2 as pb

from tests.servers.quota import Quota, refused

ID = "req_0123456789abcdefghijAB"
BAD_IDS = ["", "req_", ID[:-1], ID + "0", ID.replace("req", "key"), ID[:-1] + "é", ID[:-1] + "\n", ID + "\n"]
BAD_USERS = ["", "x" * 129, "a\x00b", "line\nbreak", "bell\x07"]
BAD_ACTORS = ["", "x" * 201, "a\x00"]
NOON = Timestamp(seconds=1_767_268_800)


def caller(**fields: object) -> pb.Caller:
    return pb.Caller(**fields)


def settle(**fields: object) -> pb.SettleRequest:
    good = pb.Settlement(request_id=ID, user_id="ann", final=True, counted=True)
    return pb.SettleRequest(settlements=[good, pb.Settlement(**{"request_id": ID, "user_id": "ann", **fields})])


def charged(**fields: object) -> pb.SettleRequest:
    good = {"attempt": 1, "turn": 1, "model": "m", "end_time": NOON}
    return settle(charges=[pb.Charge(**good), pb.Charge(**{**good, **fields})])


def limits(**fields: object) -> pb.SetUserLimitsRequest:
    return pb.SetUserLimitsRequest(**{"user_id": "ann", "limits": {}, "actor": "a", **fields})


def callers(make: Callable[[pb.Caller], Message]) -> list[tuple[Message, str]]:
    """Every way to name no caller, in a call that takes one."""
    cases: list[tuple[Message, str]] = [(make(caller()), "caller"), (make(caller(create_if_missing=True)), "caller")]
    cases += [(make(caller(api_key="")), "caller.api_key")]
    cases += [(make(caller(user_id=user, create_if_missing=True)), "caller.user_id") for user in BAD_USERS]
    return cases


ABSURD = {
    "requests_per_day": 10**9 + 1,
    "outstanding": 10**6 + 1,
    "price_nano_usd_per_month": 10**18 + 1,
    "requests_per_minute": 10**6 + 1,
    "tokens_per_day": 10**15 + 1,
    "spend_nano_usd_per_month": 10**18 + 1,
    "spend_nano_usd_per_day": 10**18 + 1,
}
CASES: list[tuple[str, Message, str]] = [
    *[("Authenticate", *case) for case in callers(lambda who: pb.AuthenticateRequest(caller=who))],
    ("Authenticate", pb.AuthenticateRequest(), "caller"),
    *[("GetUsage", *case) for case in callers(lambda who: pb.GetUsageRequest(caller=who))],
    ("GetUsage", pb.GetUsageRequest(), "caller"),
    *[("Reserve", *case) for case in callers(lambda who: pb.ReserveRequest(caller=who, request_id=ID))],
    *[("Reserve", pb.ReserveRequest(caller=caller(user_id="ann"), request_id=id_), "request_id") for id_ in BAD_IDS],
    (
        "Reserve",
        pb.ReserveRequest(caller=caller(user_id="ann"), request_id=ID, idempotency_key="k"),
        "request_id",
    ),
    *[
        ("Reserve", pb.ReserveRequest(caller=caller(user_id="ann"), idempotency_key=key), "idempotency_key")
        for key in ("x" * 256, "a\x00b", "a\nb")
    ],
    *[("Resolve", pb.ResolveRequest(request_id=id_, generation=1), "request_id") for id_ in BAD_IDS],
    *[("Resolve", pb.ResolveRequest(request_id=ID, generation=number), "generation") for number in (0, -1, 2)],
    ("Settle", pb.SettleRequest(settlements=[pb.Settlement(request_id=ID, user_id="ann")] * 501), "settlements"),
    *[("Settle", settle(request_id=id_), "settlements[1].request_id") for id_ in BAD_IDS],
    *[("Settle", settle(user_id=user), "settlements[1].user_id") for user in BAD_USERS],
    ("Settle", settle(charges=[pb.Charge()] * 101), "settlements[1].charges"),
    *[("Settle", charged(attempt=n), "settlements[1].charges[1].attempt") for n in (0, -1)],
    *[("Settle", charged(turn=n), "settlements[1].charges[1].turn") for n in (0, -1)],
    *[("Settle", charged(model=text), "settlements[1].charges[1].model") for text in ("", "x" * 201, "a\x00")],
    *[("Settle", charged(kind=text), "settlements[1].charges[1].kind") for text in ("x" * 65, "a\x00")],
    *[
        ("Settle", charged(**{field.name: -1}), f"settlements[1].charges[1].{field.name}")
        for field in pb.Charge.DESCRIPTOR.fields
        if field.name.endswith(("_tokens", "_usd"))
    ],
    *[
        ("Settle", charged(**{field.name: 10**15 + 1}), f"settlements[1].charges[1].{field.name}")
        for field in pb.Charge.DESCRIPTOR.fields
        if field.name.endswith(("_tokens", "_usd"))
    ],
    *[
        ("Settle", settle(day=day), "settlements[1].day")
        for day in ("2026", "2026-13-01", "2026-02-30", "20260101", "1969-12-31", "2026-01-01\n", "٢026-01-01")
    ],
    *[("Settle", settle(tier=text), "settlements[1].tier") for text in ("x" * 65, "a\x00")],
    *[("Settle", settle(kind=text), "settlements[1].kind") for text in ("x" * 65, "a\x00")],
    *[("Settle", settle(model=text), "settlements[1].model") for text in ("x" * 201, "a\x00")],
    *[("Settle", settle(saved_nano_usd=n), "settlements[1].saved_nano_usd") for n in (-1, 10**15 + 1)],
    ("Settle", charged(end_time=None), "settlements[1].charges[1].end_time"),
    *[
        ("Settle", charged(end_time=Timestamp(seconds=seconds, nanos=nanos)), "settlements[1].charges[1].end_time")
        for seconds, nanos in [(-1, 0), (253402300800, 0), (0, -1), (0, 10**9)]
    ],
    *[("CreateUser", pb.CreateUserRequest(user_id=user, actor="a"), "user_id") for user in BAD_USERS[1:]],
    *[
        ("CreateUser", pb.CreateUserRequest(email=text, actor="a"), "email")
        for text in ("no-at", "@", "a@", "a b@c", "a@b\n", "a@" + "x" * 253, "a@b\x00")
    ],
    *[("CreateUser", pb.CreateUserRequest(tier=tier, actor="a"), "tier") for tier in ("gold", "Free", "\x00")],
    *[("CreateUser", pb.CreateUserRequest(actor=actor), "actor") for actor in BAD_ACTORS],
    *[("GetUser", pb.GetUserRequest(user_id=user), "user_id") for user in BAD_USERS],
    *[("SetUserTier", pb.SetUserTierRequest(user_id=user, tier="pro", actor="a"), "user_id") for user in BAD_USERS],
    *[("SetUserTier", pb.SetUserTierRequest(user_id="ann", tier=t, actor="a"), "tier") for t in ("", "gold", "PRO")],
    *[("SetUserTier", pb.SetUserTierRequest(user_id="ann", tier="pro", actor=a), "actor") for a in BAD_ACTORS],
    *[("SetUserStatus", pb.SetUserStatusRequest(user_id=u, status=1, actor="a"), "user_id") for u in BAD_USERS],
    *[("SetUserStatus", pb.SetUserStatusRequest(user_id="ann", status=s, actor="a"), "status") for s in (0, 9)],
    *[("SetUserStatus", pb.SetUserStatusRequest(user_id="ann", status=2, actor=a), "actor") for a in BAD_ACTORS],
    *[("SetUserLimits", limits(user_id=user), "user_id") for user in BAD_USERS],
    *[("SetUserLimits", limits(actor=actor), "actor") for actor in BAD_ACTORS],
    ("SetUserLimits", pb.SetUserLimitsRequest(user_id="ann", actor="a"), "limits"),
    *[
        ("SetUserLimits", limits(limits={name: bad}), f"limits.{name}")
        for name, absurd in ABSURD.items()
        for bad in (-1, absurd)
    ],
    ("SetUserLimits", limits(limits={"requests_per_minute": 0}), "limits.requests_per_minute"),
    # What is not to be changed is checked all the same: nobody sends it for nothing.
    ("SetUserLimits", limits(limits={"outstanding": -1}, fields=["tokens_per_day"]), "limits.outstanding"),
    *[
        ("SetUserLimits", limits(fields=["outstanding", bad]), "fields[1]")
        for bad in ("", "tier", "own_outstanding", "Outstanding", "outstanding ")
    ],
    *[("ListKeys", pb.ListKeysRequest(user_id=user), "user_id") for user in BAD_USERS],
    *[("CreateKey", pb.CreateKeyRequest(user_id=user, actor="a"), "user_id") for user in BAD_USERS],
    *[("CreateKey", pb.CreateKeyRequest(user_id="ann", actor=actor), "actor") for actor in BAD_ACTORS],
    *[
        ("RevokeKey", pb.RevokeKeyRequest(key_id=key, actor="a"), "key_id")
        for key in ("", "key_", "key_0123456789", "key_0123456789ab", "hg_01234567890", "key_0123456789\n")
    ],
]


async def test_bad_input_is_refused_by_field_and_changes_nothing(quota: Quota) -> None:
    made = await quota.stub.CreateUser(pb.CreateUserRequest(user_id="ann", actor="admin:test"))
    await quota.reserve(made.api_key, ID)
    actors = [("RevokeKey", pb.RevokeKeyRequest(key_id=made.key.key_id, actor=actor), "actor") for actor in BAD_ACTORS]
    before = await quota.dump()
    for method, request, field in [*CASES, *actors]:
        refusal = await refused(getattr(quota.stub, method)(request))
        said = (refusal.code, refusal.reason, refusal.domain, refusal.metadata.get("field"))
        assert said == (StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "quota.headgate", field), (method, request)
        assert field in refusal.message
    assert await quota.dump() == before
    assert quota.scheduler.asked == []
    assert quota.scheduler.deliveries == []


CANNOT_BE_WRONG = {
    "Caller.create_if_missing",
    "Settlement.cached",
    "Settlement.completed",
    "Settlement.counted",
    "Settlement.final",
    "Charge.estimated",
}
"""Both values of these are good."""


def test_the_table_has_a_case_for_every_field_of_every_call() -> None:
    covered = {(method, field.split(".")[-1].split("[")[0]) for method, _, field in CASES}
    covered |= {("RevokeKey", "actor")}
    service = pb.DESCRIPTOR.services_by_name["QuotaService"]
    missing = []
    for method in service.methods:
        for field in _fields(method.input_type):
            name = f"{field.containing_type.name}.{field.name}"
            if name not in CANNOT_BE_WRONG and (method.name, field.name) not in covered:
                missing.append((method.name, name))
    assert missing == []


def _fields(message: object) -> list[FieldDescriptor]:
    found: list[FieldDescriptor] = []
    for field in message.fields:  # type: ignore[attr-defined]
        found.append(field)
        if field.message_type and field.message_type.file.name.startswith("headgate/"):
            found += _fields(field.message_type)
    return found


@pytest.mark.parametrize("user_id", ["a", "x" * 128, "auth0|5f", "Zoë", "用户", "a b"])
async def test_odd_but_good_user_ids_are_taken(quota: Quota, user_id: str) -> None:
    made = await quota.stub.CreateUser(pb.CreateUserRequest(user_id=user_id, email="zoë@example.org", actor="é"))
    assert (await quota.reserve(made.api_key, idempotency_key='"' + "é" * 254)).user.user_id == user_id
