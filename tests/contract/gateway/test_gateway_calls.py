"""What every call answers, in the contract's words."""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from headgate.quota.v1 import quota_pb2 as quota
from headgate.scheduler.v1 import scheduler_pb2 as sched

from tests.servers.gateway import (
    ADMIN_KEY,
    BASIC,
    FREE,
    KEY,
    NOW,
    READ_KEY,
    Running,
    VirtualClock,
    place,
    quota_refusal,
    running_gateway,
    scheduler_refusal,
)

USER = {"X-API-Key": KEY}
ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}
GENERATE = "/api/diagram/generate"
ID = "req_0000000000000000000001"


async def send(gateway: Running, body: Any = None, **headers: str) -> Any:
    content = json.dumps(body or {"prompt": "a shop"}).encode()
    return await gateway.http.post(GENERATE, headers={**USER, **headers}, content=content)


async def test_an_accepted_request_is_two_calls_and_a_202(gateway: Running) -> None:
    answer = await send(gateway)
    root = f"{gateway.base_url}/api/diagram/{ID}"
    assert answer.status_code == 202
    assert answer.json() == {
        "requestId": ID,
        "status": "queued",
        "position": 5,
        "estimatedWait": 41_300,
        "acceptedAt": "2026-01-01T12:00:00Z",
        "statusUrl": root,
        "eventsUrl": root + "/events",
    }
    assert answer.headers["location"] == root
    assert answer.headers["retry-after"] == "42"
    assert answer.headers["ratelimit-policy"] == '"daily";q=10;w=86400'
    assert re.fullmatch(r'"daily";r=7;t=2[67]\d{3}', answer.headers["ratelimit"])
    assert "idempotent-replayed" not in answer.headers
    assert [name for name, _ in gateway.quota.calls + gateway.scheduler.calls if name != "Watch"] == [
        "Reserve",
        "Submit",
    ]


async def test_submit_carries_the_reservation_the_tier_and_the_work(gateway: Running) -> None:
    options = {"maxTokens": 100, "model": "claude-x", "maxWait": 5_000, "priority": -3}
    await send(gateway, {"prompt": "ein Häuschen 🏠", "diagramType": "c4", "options": options})
    (sent,) = gateway.scheduler.named("Submit")
    assert (sent.request_id, sent.user_id, sent.generation, sent.day) == (ID, "u1", 2, "2026-01-01")
    assert (sent.settled, sent.idempotent, sent.priority, sent.max_wait.ToMilliseconds()) == (False, False, -3, 5_000)
    assert (sent.work.prompt, sent.work.diagram_type) == ("ein Häuschen 🏠", "c4")
    assert (sent.work.model, sent.work.max_tokens) == ("claude-x", 100)
    assert (sent.tier.name, sent.tier.version, sent.tier.share, sent.tier.outstanding) == ("free", 3, 1, 10)
    assert not sent.tier.HasField("user_spend_nano_usd_per_day")
    gateway.quota.users[KEY].limits.spend_nano_usd_per_day = 5
    await send(gateway)
    spend = gateway.scheduler.named("Submit")[-1].tier
    assert (spend.user_spend_nano_usd_per_day, spend.HasField("tier_spend_nano_usd_per_day")) == (5, False)


async def test_defaults_are_the_contracts(gateway: Running) -> None:
    await send(gateway)
    (sent,) = gateway.scheduler.named("Submit")
    assert (sent.work.diagram_type, sent.work.model, sent.work.max_tokens) == ("mermaid", "", 2_048)
    assert (sent.max_wait.ToMilliseconds(), sent.priority) == (3_600_000, 0)


@pytest.mark.parametrize(
    ("header", "key"),
    [
        ("abc", "abc"),
        ('"abc"', "abc"),
        ('"a\\"b\\\\c"', 'a"b\\c'),
        ("k" * 255, "k" * 255),
        ('"' + "k" * 255 + '"', "k" * 255),
    ],
)
async def test_an_idempotency_key_comes_quoted_or_bare(gateway: Running, header: str, key: str) -> None:
    answer = await send(gateway, **{"Idempotency-Key": header})
    (reserved,) = gateway.quota.named("Reserve")
    assert answer.status_code == 202
    assert (reserved.idempotency_key, reserved.request_id) == (key, "")
    assert gateway.scheduler.named("Submit")[0].idempotent


@pytest.mark.parametrize("state", [quota.RESERVATION_STATE_COUNTED, quota.RESERVATION_STATE_GIVEN_BACK])
async def test_a_replay_of_an_ended_request_shows_its_end(gateway: Running, state: int) -> None:
    gateway.quota.state, gateway.scheduler.replayed = state, True
    gateway.scheduler.add("req_6b", sched.STATE_COMPLETED, result="pie", has_svg=True, cached=True)
    answer = await send(gateway, **{"Idempotency-Key": "k"})
    told = answer.json()
    assert (answer.status_code, answer.headers["idempotent-replayed"]) == (202, "true")
    assert (told["status"], told["position"], told["estimatedWait"], told["cached"]) == ("completed", 0, 0, True)
    assert (told["result"], told["svgUrl"]) == ("pie", f"{gateway.base_url}/api/diagram/req_6b/diagram.svg")
    assert gateway.scheduler.named("Submit")[0].settled


LIMIT = quota.LimitExceeded(usage=quota.DayUsage(used=10, limit=10, reset_time=NOW), tier=FREE, next_tier=BASIC)
SHOP = quota.Tier(name="basic", requests_per_day=100, price="$15/month", upgrade_url="https://shop.example/basic")
SOLD = quota.LimitExceeded(usage=quota.DayUsage(used=10, limit=10, reset_time=NOW), tier=FREE, next_tier=SHOP)
TOP = quota.LimitExceeded(usage=quota.DayUsage(used=10, limit=10, reset_time=NOW), tier=FREE)


def other_limit(limit: quota.Limit, used: int, most: int, reset_s: int, next_tier: quota.Tier | None) -> Exception:
    later = Timestamp(seconds=int(time.time()) + reset_s)
    usage = quota.DayUsage(used=3, limit=10, reset_time=NOW)
    detail = quota.LimitExceeded(
        usage=usage, tier=FREE, next_tier=next_tier, limit=limit, used=used, most=most, reset_time=later
    )
    return quota_refusal("USER_LIMIT_EXCEEDED", CODE.RESOURCE_EXHAUSTED, details=(detail,))


LIMIT_BODY = {
    "resetTime": "2026-01-01T12:00:00Z",
    "currentTier": "free",
    "currentUsage": "10/10 requests",
    "used": 10,
    "limit": 10,
    "limitKind": "requestsPerDay",
    "message": "Daily limit of 10 requests reached",
}
UPSELL = {"nextTier": "basic", "nextTierLimit": "100 requests/day", "price": "$15/month"}
CODE = grpc.StatusCode
REFUSED_RESERVES = [
    (quota_refusal("UNAUTHENTICATED", CODE.UNAUTHENTICATED), 401, "UNAUTHENTICATED", {}, {}),
    (quota_refusal("USER_SUSPENDED", CODE.PERMISSION_DENIED), 403, "FORBIDDEN", {}, {}),
    (
        quota_refusal("USER_LIMIT_EXCEEDED", CODE.RESOURCE_EXHAUSTED, details=(LIMIT,)),
        429,
        "USER_LIMIT_EXCEEDED",
        {**LIMIT_BODY, **UPSELL},
        {"ratelimit-policy": '"daily";q=10;w=86400', "ratelimit": '"daily";r=0;t=0'},
    ),
    (
        quota_refusal("USER_LIMIT_EXCEEDED", CODE.RESOURCE_EXHAUSTED, details=(SOLD,)),
        429,
        "USER_LIMIT_EXCEEDED",
        {**LIMIT_BODY, **UPSELL, "upgradeUrl": "https://shop.example/basic"},
        {},
    ),
    (
        quota_refusal("USER_LIMIT_EXCEEDED", CODE.RESOURCE_EXHAUSTED, details=(TOP,)),
        429,
        "USER_LIMIT_EXCEEDED",
        LIMIT_BODY,
        {},
    ),
    (quota_refusal("UNAVAILABLE", CODE.UNAVAILABLE), 503, "UNAVAILABLE", {}, {}),
]


@pytest.mark.parametrize(("refusal", "status", "code", "body", "headers"), REFUSED_RESERVES)
async def test_a_refused_reserve_submits_nothing(
    gateway: Running, refusal: Exception, status: int, code: str, body: dict[str, Any], headers: dict[str, str]
) -> None:
    gateway.quota.refusals["Reserve"] = refusal
    answer = await send(gateway)
    check_error(answer, status, code, body, headers)
    assert gateway.scheduler.named("Submit") == gateway.quota.named("Resolve") == []
    if "nextTier" not in body:
        assert not UPSELL.keys() & answer.json().keys()
    # Without an address there is no link: an empty one would lead back to the page it is on.
    assert answer.json().get("upgradeUrl") == body.get("upgradeUrl")


MORE = quota.Tier(
    name="basic", price="$15/month", requests_per_minute=120, tokens_per_day=1_000_000, spend_nano_usd_per_month=10**10
)
PLAIN = quota.Tier(name="basic", price="$15/month")
OTHER_LIMITS = [
    (
        (quota.LIMIT_REQUESTS_PER_MINUTE, 60, 60, 30),
        ("requestsPerMinute", "Limit of 60 requests a minute reached", "60/60 requests this minute"),
        ("120 requests/minute", "unlimited requests/minute"),
    ),
    (
        (quota.LIMIT_TOKENS_PER_DAY, 31_200, 30_000, 9_000),
        ("tokensPerDay", "Daily limit of 30,000 tokens reached", "31,200/30,000 tokens today"),
        ("1,000,000 tokens/day", "unlimited tokens/day"),
    ),
    (
        (quota.LIMIT_SPEND_PER_MONTH, 1_234_500_000_001, 5_250_000_000, 90_000),
        ("spendNanoUsdPerMonth", "Monthly limit of $5.25 reached", "$1,234.500000001/$5.25 this month"),
        ("$10.00 use/month", "unlimited use/month"),
    ),
]


@pytest.mark.parametrize(("detail", "words", "gives"), OTHER_LIMITS)
async def test_each_limit_is_told_in_its_own_words(
    gateway: Running, detail: tuple[Any, int, int, int], words: tuple[str, str, str], gives: tuple[str, str]
) -> None:
    limit, used, most, reset_s = detail
    for following, given in zip((MORE, PLAIN, None), (*gives, None), strict=True):
        gateway.quota.refusals["Reserve"] = other_limit(limit, used, most, reset_s, following)
        answer = await send(gateway)
        kind, message, usage = words
        body = {"limitKind": kind, "message": message, "currentUsage": usage, "used": used, "limit": most}
        check_error(answer, 429, "USER_LIMIT_EXCEEDED", body, {"ratelimit-policy": '"daily";q=10;w=86400'})
        told = answer.json()
        assert told.get("nextTierLimit") == given
        assert abs(parsed_s(told["resetTime"]) - time.time() - reset_s) < 5
        # Only a minute is worth waiting for.
        wait_s = int(answer.headers.get("retry-after", "0"))
        assert (25 < wait_s <= 30) if limit == quota.LIMIT_REQUESTS_PER_MINUTE else wait_s == 0


def parsed_s(moment: str) -> int:
    read = Timestamp()
    read.FromJsonString(moment)
    return int(read.seconds)


def check_error(answer: Any, status: int, code: str, body: dict[str, Any], headers: dict[str, str]) -> None:
    told = answer.json()
    assert (answer.status_code, told["error"], told["code"]) == (status, code, code)
    assert told["message"]
    assert re.fullmatch("[0-9a-f]{32}", told["traceId"])
    assert {name: told[name] for name in body} == body
    assert {name: answer.headers[name] for name in headers} == headers


REFUSED_SUBMITS = [
    (
        scheduler_refusal(
            "CONCURRENCY_LIMIT_EXCEEDED",
            CODE.RESOURCE_EXHAUSTED,
            metadata={"outstanding": "10", "limit": "10"},
            retry_after_ms=4_200,
        ),
        429,
        "CONCURRENCY_LIMIT_EXCEEDED",
        {"outstanding": 10, "limit": 10},
        {"retry-after": "5"},
    ),
    (
        scheduler_refusal(
            "QUEUE_FULL", CODE.RESOURCE_EXHAUSTED, metadata={"estimated_wait_ms": "9000"}, retry_after_ms=60_000
        ),
        429,
        "QUEUE_FULL",
        {"estimatedWait": 9_000},
        {"retry-after": "60"},
    ),
    (scheduler_refusal("TOO_LARGE", CODE.FAILED_PRECONDITION), 413, "TOO_LARGE", {}, {}),
    (scheduler_refusal("IDEMPOTENCY_CONFLICT", CODE.ALREADY_EXISTS), 422, "IDEMPOTENCY_CONFLICT", {}, {}),
    (scheduler_refusal("RESERVATION_STALE", CODE.ABORTED), 409, "IDEMPOTENCY_CONFLICT", {}, {"retry-after": "1"}),
    (
        scheduler_refusal(
            "UNKNOWN_MODEL", CODE.INVALID_ARGUMENT, "No such model.", metadata={"field": "options.model"}
        ),
        422,
        "INVALID_REQUEST",
        {"fields": [{"path": "options.model", "message": "No such model."}]},
        {},
    ),
    (scheduler_refusal("MODEL_NOT_ALLOWED", CODE.PERMISSION_DENIED), 403, "FORBIDDEN", {}, {}),
    (
        scheduler_refusal("INVALID_REQUEST", CODE.INVALID_ARGUMENT, metadata={"field": "prompt"}),
        422,
        "INVALID_REQUEST",
        {},
        {},
    ),
    (scheduler_refusal("NOT_FOUND", CODE.NOT_FOUND), 404, "NOT_FOUND", {}, {}),
]


@pytest.mark.parametrize(("refusal", "status", "code", "body", "headers"), REFUSED_SUBMITS)
async def test_a_refused_submit_is_resolved_and_its_place_shown_as_returned(
    gateway: Running, refusal: Exception, status: int, code: str, body: dict[str, Any], headers: dict[str, str]
) -> None:
    gateway.scheduler.refusals["Submit"] = refusal
    answer = await send(gateway)
    check_error(answer, status, code, body, headers)
    (resolved,) = gateway.quota.named("Resolve")
    assert (resolved.request_id, resolved.generation) == (ID, 2)
    assert answer.headers["ratelimit"].startswith('"daily";r=8;')


async def test_a_refusal_is_answered_even_if_it_cannot_be_resolved_now(gateway: Running) -> None:
    gateway.scheduler.refusals["Submit"] = scheduler_refusal("QUEUE_FULL", CODE.RESOURCE_EXHAUSTED)
    gateway.quota.refusals["Resolve"] = quota_refusal("UNAVAILABLE", CODE.INTERNAL)
    answer = await send(gateway)
    check_error(answer, 429, "QUEUE_FULL", {}, {"retry-after": "1"})


UNKNOWN = [
    RuntimeError("a defect"),
    scheduler_refusal("UNAVAILABLE", CODE.UNAVAILABLE),
    quota_refusal("QUEUE_FULL", CODE.RESOURCE_EXHAUSTED),
    scheduler_refusal("CANCELLED", CODE.CANCELLED),
    scheduler_refusal("DEADLINE_EXCEEDED", CODE.DEADLINE_EXCEEDED),
]


@pytest.mark.parametrize("error", UNKNOWN)
async def test_an_unknown_outcome_is_said_and_nothing_is_released(gateway: Running, error: Exception) -> None:
    gateway.scheduler.refusals["Submit"] = error
    answer = await send(gateway)
    check_error(answer, 503, "UNAVAILABLE", {"accepted": "unknown", "requestId": ID}, {})
    assert gateway.quota.named("Resolve") == []


async def test_a_scheduler_that_is_gone_leaves_the_outcome_unknown(gateway: Running) -> None:
    await gateway.scheduler_server.grpc.stop(0)
    answer = await send(gateway)
    check_error(answer, 503, "UNAVAILABLE", {"accepted": "unknown", "requestId": ID}, {})
    assert gateway.quota.named("Resolve") == []


async def test_without_quota_nothing_is_accepted(gateway: Running) -> None:
    await gateway.quota_server.grpc.stop(0)
    answer = await send(gateway)
    check_error(answer, 503, "UNAVAILABLE", {}, {})
    assert "accepted" not in answer.json()
    assert gateway.scheduler.named("Submit") == []


async def test_a_request_is_shown_to_its_owner(gateway: Running) -> None:
    usage = sched.TokenUsage(input_tokens=5, output_tokens=6, cache_read_input_tokens=7, cache_write_input_tokens=8)
    gateway.scheduler.add(
        ID,
        sched.STATE_COMPLETED,
        result="pie",
        has_svg=True,
        usage=usage,
        cost_nano_usd=1_234,
        cost_estimated=True,
        diagram_type="pie",
        model="m",
        attempts=2,
        start_time=NOW,
        end_time=NOW,
        deadline=NOW,
        prompt="p",
        truncated=True,
    )
    answer = await gateway.http.get(f"/api/diagram/{ID}", headers=USER)
    root, at = f"{gateway.base_url}/api/diagram/{ID}", "2026-01-01T12:00:00Z"
    assert answer.json() == {
        "requestId": ID,
        "status": "completed",
        "diagramType": "pie",
        "prompt": "p",
        "model": "m",
        "priority": 0,
        "attempts": 2,
        "acceptedAt": at,
        "startedAt": at,
        "endedAt": at,
        "deadline": at,
        "result": "pie",
        "svgUrl": root + "/diagram.svg",
        "usage": {"inputTokens": 5, "outputTokens": 6, "cacheReadInputTokens": 7, "cacheWriteInputTokens": 8},
        "costNanoUsd": 1_234,
        "costEstimated": True,
        "cached": False,
        "truncated": True,
        "statusUrl": root,
        "eventsUrl": root + "/events",
    }
    assert "ratelimit" in answer.headers
    assert gateway.scheduler.named("Get")[0].user_id == "u1"


STATES = [
    (sched.STATE_QUEUED, {"status": "queued", "position": 5, "estimatedWait": 41_300}),
    (sched.STATE_RUNNING, {"status": "processing"}),
    (sched.STATE_FAILED, {"status": "failed", "code": "REFUSED", "error": "Why."}),
    (sched.STATE_CANCELLED, {"status": "cancelled", "code": "CANCELLED"}),
    (sched.STATE_EXPIRED, {"status": "expired", "code": "EXPIRED"}),
]


@pytest.mark.parametrize(("state", "fields"), STATES)
async def test_every_state_has_its_word(gateway: Running, state: int, fields: dict[str, Any]) -> None:
    more = {"code": sched.FAILURE_CODE_REFUSED, "error": "Why."} if state == sched.STATE_FAILED else {}
    gateway.scheduler.add(ID, state, **more)
    told = (await gateway.http.get(f"/api/diagram/{ID}", headers=USER)).json()
    assert {name: told[name] for name in fields} == fields
    assert told.get("error") or state < sched.STATE_FAILED


async def test_a_pause_is_named(gateway: Running) -> None:
    gateway.scheduler.add(ID).place.paused = sched.PAUSE_REASON_PROVIDER_LIMIT
    told = (await gateway.http.get(f"/api/diagram/{ID}", headers=USER)).json()
    assert told["paused"] == "provider_limit"


async def test_a_long_poll_answers_at_the_next_change(gateway: Running) -> None:
    gateway.scheduler.add(ID)
    polling = asyncio.create_task(gateway.http.get(f"/api/diagram/{ID}?wait=60000", headers=USER))
    await gateway.scheduler.until(lambda: bool(gateway.scheduler.named("Replay")))
    gateway.scheduler.requests[ID].place.CopyFrom(place(2))
    gateway.scheduler.emit(sched.Event(request_id=ID, status=place(2)))
    assert (await polling).json()["position"] == 2
    await gateway.scheduler.until(lambda: not gateway.scheduler.watched)


async def test_a_long_poll_is_not_woken_by_what_it_does_not_show_and_ends_in_time(timed: Running) -> None:
    timed.scheduler.add(ID, sched.STATE_RUNNING)
    polling = asyncio.create_task(timed.http.get(f"/api/diagram/{ID}?wait=30000", headers=USER))
    await timed.scheduler.until(lambda: bool(timed.scheduler.named("Replay")))
    timed.scheduler.emit(sched.Event(request_id=ID, seq=2, delta=sched.Delta(text="a", attempt=1)))
    timed.clock.advance(29_999)
    await timed.http.get("/healthz")
    assert not polling.done()
    timed.clock.advance(1)
    assert (await polling).json()["status"] == "processing"


async def test_a_long_poll_of_what_has_ended_answers_at_once(timed: Running) -> None:
    timed.scheduler.add(ID, sched.STATE_FAILED)
    answer = await timed.http.get(f"/api/diagram/{ID}?wait=30000", headers=USER)
    assert answer.json()["status"] == "failed"


@pytest.mark.parametrize(("query", "erase"), [("", False), ("?erase=true", True), ("?erase=false", False)])
async def test_cancel_is_repeatable(gateway: Running, query: str, erase: bool) -> None:
    gateway.scheduler.add(ID)
    for _ in range(2):
        answer = await gateway.http.delete(f"/api/diagram/{ID}{query}", headers=USER)
        assert (answer.status_code, answer.json()["status"], answer.json()["code"]) == (200, "cancelled", "CANCELLED")
    assert {(call.user_id, call.erase) for call in gateway.scheduler.named("Cancel")} == {("u1", erase)}


async def test_the_list_is_paged(gateway: Running) -> None:
    gateway.scheduler.add(ID, sched.STATE_COMPLETED, prompt="p")
    gateway.scheduler.next_page = "more"
    first = (await gateway.http.get("/api/diagrams?limit=7", headers=USER)).json()
    last = (await gateway.http.get("/api/diagrams?cursor=more", headers=USER)).json()
    assert [item["requestId"] for item in first["items"]] == [ID]
    assert (first["nextCursor"], last["nextCursor"], first["items"][0]["prompt"]) == ("more", None, "p")
    calls = gateway.scheduler.named("List")
    assert [(call.user_id, call.page_size, call.page_token) for call in calls] == [("u1", 7, ""), ("u1", 20, "more")]


async def test_the_wait_of_a_request_sent_now(gateway: Running) -> None:
    answer = await gateway.http.get("/api/wait", headers=USER)
    assert answer.json() == {"position": 7, "estimatedWait": 1_300}
    assert gateway.scheduler.named("GetWait")[0].tier.name == "free"


async def test_the_caller_and_the_tiers(gateway: Running) -> None:
    gateway.scheduler.add(ID)
    gateway.scheduler.add("req_2", sched.STATE_COMPLETED)
    me = (await gateway.http.get("/api/me", headers=USER)).json()
    assert {name: me[name] for name in ("userId", "tier", "used", "limit", "outstanding", "outstandingLimit")} == {
        "userId": "u1",
        "tier": "free",
        "used": 3,
        "limit": 10,
        "outstanding": 1,
        "outstandingLimit": 10,
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", me["resetTime"])
    tiers = (await gateway.http.get("/api/tiers")).json()["items"]
    assert [(tier["name"], tier["requestsPerDay"], tier["price"]) for tier in tiers] == [
        ("free", 10, "$0"),
        ("basic", 100, "$15/month"),
    ]
    assert (tiers[0]["priceNanoUsd"], "priceNanoUsd" in tiers[1]) == (0, False)
    assert (tiers[1]["tokensPerDay"], "tokensPerDay" in tiers[0]) == (9, False)


@pytest.mark.parametrize("headers", [{}, USER])
async def test_the_picture_is_sandboxed(gateway: Running, headers: dict[str, str]) -> None:
    gateway.scheduler.add(ID, sched.STATE_COMPLETED)
    gateway.scheduler.svg = "<svg/>"
    answer = await gateway.http.get(f"/api/diagram/{ID}/diagram.svg", headers=headers)
    assert (answer.status_code, answer.text) == (200, "<svg/>")
    assert answer.headers["content-type"].startswith("image/svg+xml")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"].startswith("sandbox; default-src 'none'")
    assert answer.headers["cross-origin-resource-policy"] == "cross-origin"


async def test_a_picture_that_is_not_there_is_a_404(gateway: Running) -> None:
    gateway.scheduler.add(ID)
    answer = await gateway.http.get(f"/api/diagram/{ID}/diagram.svg")
    check_error(answer, 404, "NOT_FOUND", {}, {})


async def test_users_and_keys_are_administered(gateway: Running) -> None:
    http = gateway.http
    made = await http.post(
        "/api/admin/users", headers=ADMIN, content=b'{"userId": "ann", "tier": "pro", "email": "a@b.c"}'
    )
    assert (made.status_code, made.json()) == (201, {"userId": "ann", "tier": "pro", "apiKey": "hg_new", "keyId": "k9"})
    shown = (await http.get("/api/admin/users/ann", headers=ADMIN)).json()
    assert (shown["userId"], shown["used"], shown["limit"]) == ("ann", 3, 10)
    moved = await http.put("/api/admin/users/ann/tier", headers=ADMIN, content=b'{"tier": "pro"}')
    assert (moved.json()["tier"], moved.json()["previousTier"]) == ("pro", "free")
    content = b'{"requestsPerDay": 50, "priceNanoUsd": 79000000000, "outstanding": null}'
    limited = await http.put("/api/admin/users/ann/limits", headers=ADMIN, content=content)
    assert limited.json()["limits"] == {"requestsPerDay": 50, "priceNanoUsd": 79_000_000_000}
    assert (limited.json()["userId"], shown["limits"]) == ("ann", {})
    (change,) = gateway.quota.named("SetUserLimits")
    assert sorted(change.fields) == ["outstanding", "price_nano_usd_per_month", "requests_per_day"]
    stopped = await http.put("/api/admin/users/ann/status", headers=ADMIN, content=b'{"status": "suspended"}')
    assert stopped.json()["status"] == "suspended"
    keys = (await http.get("/api/admin/users/ann/keys", headers=ADMIN)).json()
    assert keys == {"items": [{"keyId": "k1", "userId": "ann", "createdAt": "2026-01-01T12:00:00Z", "revoked": False}]}
    issued = await http.post("/api/admin/users/ann/keys", headers=ADMIN)
    assert (issued.status_code, issued.json()["apiKey"], issued.json()["keyId"]) == (201, "hg_new", "k2")
    revoked = (await http.delete("/api/admin/keys/key_00000000001", headers=ADMIN)).json()
    assert (revoked["keyId"], revoked["revoked"]) == ("key_00000000001", True)
    actors = {call.actor for _, call in gateway.quota.calls if hasattr(call, "actor")}
    assert len(actors) == 1
    assert re.fullmatch("admin:[0-9a-f]{8}", actors.pop())
    assert "ratelimit" not in shown


ADMIN_REFUSALS = [
    (
        "CreateUser",
        "POST",
        "/api/admin/users",
        b'{"tier": "gold"}',
        quota_refusal("INVALID_REQUEST", CODE.INVALID_ARGUMENT, "No such tier.", metadata={"field": "tier"}),
        422,
        "INVALID_REQUEST",
    ),
    (
        "CreateUser",
        "POST",
        "/api/admin/users",
        b"{}",
        quota_refusal("ALREADY_EXISTS", CODE.ALREADY_EXISTS),
        409,
        "ALREADY_EXISTS",
    ),
    ("GetUser", "GET", "/api/admin/users/x", None, quota_refusal("NOT_FOUND", CODE.NOT_FOUND), 404, "NOT_FOUND"),
    (
        "SetUserTier",
        "PUT",
        "/api/admin/users/x/tier",
        b'{"tier": "pro"}',
        quota_refusal("NOT_FOUND", CODE.NOT_FOUND),
        404,
        "NOT_FOUND",
    ),
    (
        "RevokeKey",
        "DELETE",
        "/api/admin/keys/key_0000000000x",
        None,
        quota_refusal("NOT_FOUND", CODE.NOT_FOUND),
        404,
        "NOT_FOUND",
    ),
]


@pytest.mark.parametrize(("call", "method", "path", "content", "refusal", "status", "code"), ADMIN_REFUSALS)
async def test_refusals_of_administration(
    gateway: Running,
    call: str,
    method: str,
    path: str,
    content: bytes | None,
    refusal: Exception,
    status: int,
    code: str,
) -> None:
    gateway.quota.refusals[call] = refusal
    answer = await gateway.http.request(method, path, headers=ADMIN, content=content)
    check_error(answer, status, code, {}, {})


async def test_a_reading_key_reads_and_changes_nothing(gateway: Running) -> None:
    reader = {"Authorization": f"Bearer {READ_KEY}"}
    assert (await gateway.http.get("/api/admin/users/u1", headers=reader)).status_code == 200
    calls = [
        ("POST", "/api/admin/users", reader),
        ("PUT", "/api/admin/users/u1/tier", reader),
        ("DELETE", "/api/admin/keys/key_00000000001", reader),
        ("POST", GENERATE, {**reader, "X-Headgate-User": "ann"}),
    ]
    for method, path, headers in calls:
        answer = await gateway.http.request(method, path, headers=headers, content=b'{"prompt": "a"}')
        check_error(answer, 403, "FORBIDDEN", {}, {})
    assert [name for name, _ in gateway.quota.calls] == ["GetUser"]


async def test_an_administrator_acts_for_a_user(gateway: Running) -> None:
    acting = {**ADMIN, "X-Headgate-User": "ann"}
    answer = await gateway.http.post(GENERATE, headers=acting, content=b'{"prompt": "a"}')
    assert answer.status_code == 202
    (reserved,) = gateway.quota.named("Reserve")
    assert (reserved.caller.user_id, reserved.caller.create_if_missing) == ("ann", True)
    refused = await gateway.http.get("/api/me", headers={**USER, "X-Headgate-User": "ann"})
    check_error(refused, 403, "FORBIDDEN", {}, {})
    nobody = await gateway.http.get("/api/me", headers={"X-Headgate-User": "ann"})
    check_error(nobody, 401, "UNAUTHENTICATED", {}, {})


async def test_the_user_acted_for_is_the_one_with_that_name_in_any_script(gateway: Running) -> None:
    headers = {name.encode(): value.encode() for name, value in {**ADMIN, "X-Headgate-User": "Jürgen山"}.items()}
    shown = await gateway.http.get("/api/me", headers=headers)
    assert shown.json()["userId"] == "Jürgen山"
    (asked,) = gateway.quota.named("GetUsage")
    assert asked.caller.user_id == "Jürgen山"
    torn = await gateway.http.get("/api/me", headers={**headers, b"X-Headgate-User": b"J\xfcrgen"})
    check_error(torn, 422, "INVALID_REQUEST", {}, {})


async def test_every_answer_says_when_the_emulator_answers() -> None:
    async with running_gateway(emulated=True, clock=VirtualClock()) as gateway:
        for path, headers in (("/api/me", USER), ("/nowhere", {}), ("/api/me", {}), ("/healthz", {})):
            answer = await gateway.http.get(path, headers=headers)
            assert answer.headers["headgate-emulated"] == "true"
