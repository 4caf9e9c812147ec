"""Bad input in every field of every call gets the contract's error and changes nothing."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from services.gateway import shapes
from services.gateway.errors import Problem
from tests.servers.gateway import ADMIN_KEY, KEY, Running

USER = {"X-API-Key": KEY}
ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}
ID = "req_0000000000000000000001"
CHANGING = (
    "Reserve",
    "Submit",
    "Resolve",
    "Cancel",
    "CreateUser",
    "SetUserTier",
    "SetUserLimits",
    "SetUserStatus",
    "CreateKey",
    "RevokeKey",
)
GENERATE = "/api/diagram/generate"
GOOD = {"prompt": "a"}


OWN_MOST = {
    "requestsPerDay": 10**9,
    "outstanding": 10**6,
    "priceNanoUsd": 10**18,
    "requestsPerMinute": 10**6,
    "tokensPerDay": 10**15,
    "spendNanoUsdPerMonth": 10**18,
    "spendNanoUsdPerDay": 10**18,
}


def with_options(**options: Any) -> dict[str, Any]:
    return {"prompt": "a", "options": options}


BAD_FIELDS: list[tuple[str, str, dict[str, str], Any, list[str]]] = [
    *(
        ("POST", GENERATE, USER, {"prompt": bad}, ["prompt"])
        for bad in (None, 7, "", "  \n", "a\x00b", ["a"], "x" * 100_001)
    ),
    ("POST", GENERATE, USER, {}, ["prompt"]),
    ("POST", GENERATE, USER, [], [""]),
    ("POST", GENERATE, USER, "text", [""]),
    *(
        ("POST", GENERATE, USER, {**GOOD, "diagramType": bad}, ["diagramType"])
        for bad in (None, 1, "", "poem", "Flowchart", "flowchart\n")
    ),
    *(("POST", GENERATE, USER, {**GOOD, "options": bad}, ["options"]) for bad in (None, 1, "a", [])),
    *(
        ("POST", GENERATE, USER, with_options(maxTokens=bad), ["options.maxTokens"])
        for bad in (None, 0, -1, 32_769, "5", 1.5, True)
    ),
    *(
        ("POST", GENERATE, USER, with_options(maxWait=bad), ["options.maxWait"])
        for bad in (None, 0, 999, 86_400_001, "5", 1.5)
    ),
    *(("POST", GENERATE, USER, with_options(priority=bad), ["options.priority"]) for bad in (None, -11, 11, "1", 0.5)),
    *(
        ("POST", GENERATE, USER, with_options(model=bad), ["options.model"])
        for bad in (None, "", 1, "a b", "x" * 129, "a\x00", "a\n")
    ),
    *(
        ("POST", GENERATE, USER, {**GOOD, "webhookUrl": bad}, ["webhookUrl"])
        for bad in (None, 1, "https://a.example/hook")
    ),
    (
        "POST",
        GENERATE,
        USER,
        {"prompt": 1, "diagramType": 2, "options": {"maxWait": "x", "priority": 99}},
        ["prompt", "diagramType", "options.maxWait", "options.priority"],
    ),
    *(
        ("POST", GENERATE, {**USER, "Idempotency-Key": bad}, GOOD, ["Idempotency-Key"])
        for bad in ("", '""', "k" * 256, "é")
    ),
    *(("GET", f"/api/diagram/{ID}?wait={bad}", USER, None, ["wait"]) for bad in ("", "x", "-1", "120001", "1.5", "٣")),
    *(("DELETE", f"/api/diagram/{ID}?erase={bad}", USER, None, ["erase"]) for bad in ("", "yes", "1")),
    *(("GET", f"/api/diagrams?limit={bad}", USER, None, ["limit"]) for bad in ("", "0", "101", "x", "-5")),
    ("GET", "/api/diagrams?cursor=" + "c" * 1_001, USER, None, ["cursor"]),
    *(
        ("GET", f"/api/diagram/{ID}/events", {"Last-Event-ID": bad}, None, ["Last-Event-ID"])
        for bad in ("x", "-1", "9" * 30)
    ),
    *(
        ("POST", GENERATE, {**ADMIN, "X-Headgate-User": bad}, GOOD, ["X-Headgate-User"])
        for bad in ("", "a b", "u" * 129, "a\u200bb")
    ),
    *(
        ("POST", "/api/admin/users", ADMIN, {"userId": bad}, ["userId"])
        for bad in (None, 1, "", "a b", "a/b", "u" * 129, "a\x00", "a\n", "a\u200bb")
    ),
    *(
        ("POST", "/api/admin/users", ADMIN, {"email": bad}, ["email"])
        for bad in (None, 1, "nobody", "a b@c", "a" * 255 + "@b", "a@b\n")
    ),
    *(("POST", "/api/admin/users", ADMIN, {"tier": bad}, ["tier"]) for bad in (None, 1, "", "Very Free", "free\n")),
    ("POST", "/api/admin/users", ADMIN, [1], [""]),
    *(
        ("PUT", "/api/admin/users/u1/tier", ADMIN, bad, ["tier"])
        for bad in ({}, {"tier": None}, {"tier": 1}, {"tier": ""}, {"tier": "free\n"})
    ),
    *(
        ("PUT", "/api/admin/users/u1/limits", ADMIN, {name: bad}, [name])
        for name, most in OWN_MOST.items()
        for bad in (-1, most + 1, 1.5, "1", True, [1], {}, 10**30)
    ),
    ("PUT", "/api/admin/users/u1/limits", ADMIN, {"requestsPerMinute": 0}, ["requestsPerMinute"]),
    ("PUT", "/api/admin/users/u1/limits", ADMIN, {}, [""]),
    ("PUT", "/api/admin/users/u1/limits", ADMIN, [1], [""]),
    ("PUT", "/api/admin/users/u1/limits", ADMIN, {"outstanding": 5, "requests_per_day": 1}, ["requests_per_day"]),
    ("PUT", "/api/admin/users/u1/limits", ADMIN, {"limit": 5, "outstanding": -1}, ["limit", "outstanding"]),
    *(
        ("PUT", "/api/admin/users/u1/status", ADMIN, bad, ["status"])
        for bad in ({}, {"status": 1}, {"status": "asleep"}, {"status": "active\n"})
    ),
]


CALLS = sorted({(method, path.partition("?")[0]) for method, path, *_ in BAD_FIELDS})


@pytest.mark.parametrize(("call", "path"), CALLS)
async def test_bad_fields_are_named_and_change_nothing(gateway: Running, call: str, path: str) -> None:
    gateway.scheduler.add(ID)
    cases = [case for case in BAD_FIELDS if (case[0], case[1].partition("?")[0]) == (call, path)]
    assert cases
    for method, address, headers, body, paths in cases:
        sent = {name: value.encode() for name, value in headers.items()}
        content = None if body is None else json.dumps(body).encode()
        answer = await gateway.http.request(method, address, headers=sent, content=content)
        told, case = answer.json(), f"{method} {address} {str(headers)[:300]} {str(body)[:300]}"
        assert (answer.status_code, told["error"], told["code"]) == (422, "INVALID_REQUEST", "INVALID_REQUEST"), case
        assert [field["path"] for field in told["fields"]] == paths, case
        assert all(field["message"].endswith(".") for field in told["fields"]), case
        assert told["message"], case
        assert len(told["traceId"]) == 32, case
        assert gateway.quota.named(*CHANGING) + gateway.scheduler.named(*CHANGING) == [], case


NOT_JSON = [
    *(b"", b"{", b"prompt=a", b'{"prompt": "a"', b"\xff\xfe", b'{"prompt": NaN}', b'{"prompt": "\\ud800"}'),
    # Fields that are wrong come first, what is no JSON behind them.
    *(
        b'{"prompt": 1, "tier": 1, "status": 1' + rest
        for rest in (b"", b', "more": NaN}', b', "more": "\\ud800"}', b"} x")
    ),
]
BODIES = [
    ("POST", GENERATE, USER),
    ("POST", "/api/admin/users", ADMIN),
    ("PUT", "/api/admin/users/u1/tier", ADMIN),
    ("PUT", "/api/admin/users/u1/status", ADMIN),
    ("PUT", "/api/admin/users/u1/limits", ADMIN),
]


@pytest.mark.parametrize(("method", "path", "headers"), BODIES)
async def test_what_is_not_json_is_a_400(gateway: Running, method: str, path: str, headers: dict[str, str]) -> None:
    for content in NOT_JSON:
        answer = await gateway.http.request(method, path, headers=headers, content=content)
        assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_REQUEST"), content
    assert gateway.quota.named(*CHANGING) + gateway.scheduler.named(*CHANGING) == []


@pytest.mark.parametrize("prompt", ["a" * 20_000 + "\x00", " " * 100_000, "a " * 50_000 + "\x00"])
def test_a_bad_prompt_is_refused_in_linear_time(prompt: str) -> None:
    started_s = time.process_time()
    with pytest.raises(Problem):
        shapes.read(json.dumps({"prompt": prompt}).encode(), shapes.Generate)
    # A millisecond; what it took before, 1.5 s and more, stopped every other caller.
    assert time.process_time() - started_s < 0.5


@pytest.mark.parametrize("number", ["1e400", "9" * 5_000])
async def test_a_number_that_nothing_holds_is_a_422(gateway: Running, number: str) -> None:
    for content in (f'{{"prompt": "a", "more": {number}}}', f'{{"prompt": "a", "options": {{"maxTokens": {number}}}}}'):
        answer = await gateway.http.post(GENERATE, headers=USER, content=content)
        assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_REQUEST")
        assert len(answer.json()["fields"]) == 1
    assert gateway.quota.named("Reserve") == []


async def test_of_a_name_that_comes_twice_the_last_counts(gateway: Running) -> None:
    answer = await gateway.http.post(
        GENERATE, headers=USER, content=b'{"prompt": 1, "options": 2, "prompt": "a", "options": {}}'
    )
    assert answer.status_code == 202
    answer = await gateway.http.post(GENERATE, headers=USER, content=b'{"prompt": "a", "prompt": 1}')
    assert [field["path"] for field in answer.json()["fields"]] == ["prompt"]


@pytest.mark.parametrize("nested", ["[" * 40 + "]" * 40, '{"a":' * 33 + "1" + "}" * 33, "[" * 100_000])
async def test_deep_nesting_is_refused(gateway: Running, nested: str) -> None:
    content = f'{{"prompt": "a", "more": {nested}}}'.encode()
    answer = await gateway.http.post(GENERATE, headers=USER, content=content)
    assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_REQUEST")
    assert gateway.quota.named("Reserve") == []


async def test_nesting_within_the_cap_and_unknown_fields_pass(gateway: Running) -> None:
    content = ('{"prompt": "a", "more": ' + "[" * 30 + "]" * 30 + ', "list": [' + "[]," * 50 + "[]]}").encode()
    answer = await gateway.http.post(GENERATE, headers=USER, content=content)
    assert answer.status_code == 202


async def test_a_body_over_the_cap_is_a_413(gateway: Running) -> None:
    async def unending() -> Any:
        for _ in range(30):
            yield b" " * 65_536

    for content in (b'{"prompt": "' + b"x" * 1_000_000 + b'"}', unending()):
        answer = await gateway.http.post(GENERATE, headers=USER, content=content)
        assert (answer.status_code, answer.json()["code"]) == (413, "TOO_LARGE")
    assert gateway.quota.named("Reserve") == []


@pytest.mark.parametrize(
    "content_type", [None, "text/plain;charset=UTF-8", "application/x-www-form-urlencoded", "what"]
)
async def test_the_body_is_json_whatever_its_type_says(gateway: Running, content_type: str | None) -> None:
    headers = USER if content_type is None else {**USER, "Content-Type": content_type}
    answer = await gateway.http.post(GENERATE, headers=headers, content=b'{"prompt": "a", "diagramType": "mermaid"}')
    assert answer.status_code == 202


NEEDS_KEY = [
    ("POST", GENERATE),
    ("GET", f"/api/diagram/{ID}"),
    ("DELETE", f"/api/diagram/{ID}"),
    ("GET", "/api/diagrams"),
    ("GET", "/api/wait"),
    ("GET", "/api/me"),
]
NEEDS_ADMIN = [
    ("POST", "/api/admin/users"),
    ("GET", "/api/admin/users/u1"),
    ("PUT", "/api/admin/users/u1/tier"),
    ("PUT", "/api/admin/users/u1/status"),
    ("PUT", "/api/admin/users/u1/limits"),
    ("GET", "/api/admin/users/u1/keys"),
    ("POST", "/api/admin/users/u1/keys"),
    ("DELETE", "/api/admin/keys/key_00000000001"),
]


STRANGERS: list[dict[str, str]] = [
    {},
    {"X-API-Key": "hg_unknown"},
    {"Authorization": "Bearer hg_unknown"},
    {"Authorization": f"Basic {KEY}"},
    {"Cookie": f"X-API-Key={KEY}"},
    {"X-API-Key": "k" * 5_000},
    ADMIN,
]


@pytest.mark.parametrize(("method", "path"), NEEDS_KEY)
async def test_who_is_not_known_is_told_that_before_anything_else(gateway: Running, method: str, path: str) -> None:
    gateway.scheduler.add(ID)
    for headers in STRANGERS:
        answer = await gateway.http.request(method, path + "?wait=x&limit=x&erase=x", headers=headers, content=b"{bad")
        assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHENTICATED"), headers
        assert "ratelimit" not in answer.headers
    assert gateway.scheduler.calls == []


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/api/admin/users/a%E2%80%8Bb"), ("GET", "/api/admin/users/a%20b/keys"), ("DELETE", "/api/admin/keys/k1")],
)
async def test_what_can_be_no_id_is_a_404(gateway: Running, method: str, path: str) -> None:
    answer = await gateway.http.request(method, path, headers=ADMIN)
    assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND")
    assert gateway.quota.calls == []


@pytest.mark.parametrize(("method", "path"), NEEDS_ADMIN)
async def test_administration_needs_its_own_key(gateway: Running, method: str, path: str) -> None:
    for headers in ({}, USER, {"Authorization": f"Bearer {KEY}"}, {"X-API-Key": ADMIN_KEY}):
        answer = await gateway.http.request(method, path, headers=headers, content=b"{bad")
        assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHENTICATED"), headers
    assert gateway.quota.calls == []


@pytest.mark.parametrize(
    "headers", [{"X-API-Key": KEY}, {"Authorization": f"Bearer {KEY}"}, {"Authorization": f"bearer {KEY}"}]
)
async def test_both_headers_carry_a_key(gateway: Running, headers: dict[str, str]) -> None:
    answer = await gateway.http.get("/api/me", headers=headers)
    assert (answer.status_code, answer.json()["userId"]) == (200, "u1")


@pytest.mark.parametrize("path", ["/api/diagram/{}", "/api/diagram/{}/events", "/api/diagram/{}/diagram.svg"])
@pytest.mark.parametrize("request_id", ["req_unknown", "x", "req_" + "a" * 200, "req_%00", "..%2f..", "REQ_1"])
async def test_an_id_that_names_nothing_is_a_404(gateway: Running, path: str, request_id: str) -> None:
    answer = await gateway.http.get(path.format(request_id), headers=USER)
    assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/diagram/{}"),
        ("DELETE", "/api/diagram/{}"),
        ("GET", "/api/diagram/{}/events"),
        ("GET", "/api/diagram/{}/diagram.svg"),
    ],
)
async def test_another_users_request_is_a_404(gateway: Running, method: str, path: str) -> None:
    gateway.scheduler.add(ID, user_id="u2")
    answer = await gateway.http.request(method, path.format(ID), headers=USER)
    assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND")
    assert gateway.scheduler.requests[ID].state == 1
