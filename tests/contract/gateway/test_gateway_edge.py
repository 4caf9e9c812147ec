"""What holds at every address: methods, CORS, pages, health, and the process itself."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import grpc
import httpx2
import pytest
from headgate.scheduler.v1 import scheduler_pb2 as sched

from tests.servers.gateway import DEADLINE_S, KEY, Running, running_gateway

ID = "req_0000000000000000000001"
USER = {"X-API-Key": KEY}
READ_PATHS = [
    "/api/me",
    "/api/wait",
    "/api/tiers",
    "/api/diagrams",
    f"/api/diagram/{ID}",
    f"/api/diagram/{ID}/events",
    f"/api/diagram/{ID}/diagram.svg",
    "/healthz",
    "/readyz",
]
LATER = ["/headgate.js", "/openapi.json", "/asyncapi.json", "/docs", "/console", "/metrics", "/v1/models"]
LATER += ["/api/admin/webhooks", "/api/admin/webhook-hosts", "/demo-keys.json"]


@pytest.mark.parametrize("path", READ_PATHS)
async def test_head_and_options_work_wherever_get_does(gateway: Running, path: str) -> None:
    gateway.scheduler.add(ID, sched.STATE_COMPLETED, result="pie")
    gateway.scheduler.svg = "<svg/>"
    got = await gateway.http.get(path, headers=USER)
    head = await gateway.http.head(path, headers=USER)
    assert (got.status_code, head.status_code, head.content) == (200, 200, b"")
    assert head.headers["content-type"] == got.headers["content-type"]
    options = await gateway.http.options(path)
    assert options.status_code == 204
    assert {"GET", "HEAD", "OPTIONS"} <= set(options.headers["allow"].split(", "))
    refused = await gateway.http.patch(path, headers=USER)
    assert (refused.status_code, refused.json()["code"]) == (405, "METHOD_NOT_ALLOWED")
    assert refused.headers["allow"] == options.headers["allow"]


@pytest.mark.parametrize(
    "path", [*LATER, "/", "/nowhere", "/api", "/api/me/", "/api//me", "/assets/../settings.py", "/ws"]
)
async def test_what_is_not_there_is_a_404_and_nothing_redirects(gateway: Running, path: str) -> None:
    for method in ("GET", "HEAD", "POST", "DELETE"):
        answer = await gateway.http.request(method, path, headers=USER)
        assert answer.status_code == 404, method
        if method != "HEAD":
            assert answer.json()["code"] == "NOT_FOUND"
    assert (await gateway.http.options(path)).status_code == 204


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
async def test_what_comes_later_does_not_answer(gateway: Running, path: str) -> None:
    answer = await gateway.http.post(path, headers=USER, content=b"{}")
    assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND")


SITE = "https://site.example"
ASK = {"Origin": SITE, "Access-Control-Request-Method": "POST"}


async def test_a_listed_origin_may_call_and_read_errors() -> None:
    async with running_gateway(allowed_origins=(SITE,)) as gateway:
        asked = "x-api-key, idempotency-key, anthropic-version, x-stainless-os, x-evil"
        preflight = await gateway.http.options(
            "/api/diagram/generate", headers={**ASK, "Access-Control-Request-Headers": asked}
        )
        assert preflight.status_code == 204
        assert preflight.headers["access-control-allow-origin"] == SITE
        assert {"POST", "PUT", "DELETE"} <= set(preflight.headers["access-control-allow-methods"].split(", "))
        allowed = set(preflight.headers["access-control-allow-headers"].split(", "))
        assert {"x-api-key", "authorization", "content-type", "idempotency-key", "last-event-id"} <= allowed
        assert {"traceparent", "anthropic-version", "x-stainless-os"} <= allowed
        assert "x-evil" not in allowed
        for path, status in (("/api/me", 401), ("/nowhere", 404), ("/api/tiers", 200)):
            answer = await gateway.http.get(path, headers={"Origin": SITE})
            assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, SITE)
            assert answer.headers["vary"] == "Origin"
            exposed = set(answer.headers["access-control-expose-headers"].split(", "))
            assert exposed == {"Location", "Retry-After", "RateLimit", "RateLimit-Policy", "request-id"}


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", SITE + ".evil.example", "http://site.example", "null", "http://[", "site.example"],
)
async def test_an_origin_that_is_not_listed_may_not(origin: str) -> None:
    async with running_gateway(allowed_origins=(SITE,)) as gateway:
        preflight = await gateway.http.options("/api/me", headers={**ASK, "Origin": origin})
        answer = await gateway.http.get("/api/tiers", headers={"Origin": origin})
    assert (preflight.status_code, preflight.json()["code"]) == (403, "FORBIDDEN")
    assert "access-control-allow-origin" not in {*preflight.headers, *answer.headers}
    assert answer.headers["vary"] == "Origin"


async def test_the_pages_own_origin_is_allowed(gateway: Running) -> None:
    answer = await gateway.http.get("/api/tiers", headers={"Origin": gateway.base_url})
    assert answer.headers["access-control-allow-origin"] == gateway.base_url


async def test_pages_are_served_with_a_strict_policy(tmp_path: Path) -> None:
    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_text("<!doctype html>")
    (tmp_path / "assets" / "main.js").write_text("export {};")
    async with running_gateway(web=tmp_path) as gateway:
        page = await gateway.http.get("/")
        script = await gateway.http.get("/assets/main.js")
        again = await gateway.http.get("/", headers={"If-None-Match": page.headers["etag"]})
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert script.headers["content-type"] == "text/javascript; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "set-cookie" not in page.headers
    assert (again.status_code, again.content) == (304, b"")


async def test_demo_keys_are_served_only_where_they_are_set() -> None:
    async with running_gateway(demo_keys={"free": "hg_demo"}) as gateway:
        answer = await gateway.http.get("/demo-keys.json")
    assert (answer.status_code, answer.json(), answer.headers["cache-control"]) == (
        200,
        {"free": "hg_demo"},
        "no-store",
    )


async def test_ready_while_both_services_serve(gateway: Running) -> None:
    assert (await gateway.http.get("/healthz")).status_code == 200
    assert (await gateway.http.get("/readyz")).json() == {"status": "ok", "degraded": []}
    await gateway.scheduler_server.grpc.stop(0)
    answer = await gateway.http.get("/readyz")
    assert (answer.status_code, answer.json()["unavailable"]) == (503, ["scheduler"])
    assert (await gateway.http.get("/healthz")).status_code == 200


async def test_a_draining_replica_is_not_ready(gateway: Running) -> None:
    gateway.gateway.drain()
    answer = await gateway.http.get("/readyz")
    assert (answer.status_code, answer.json()["code"]) == (503, "UNAVAILABLE")


async def test_the_callers_trace_is_named_in_errors(gateway: Running) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    answer = await gateway.http.get("/nowhere", headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"})
    assert answer.json()["traceId"] == trace


async def test_a_defect_is_an_error_of_the_contract(gateway: Running) -> None:
    gateway.scheduler.refusals["List"] = RuntimeError("a defect")
    answer = await gateway.http.get("/api/diagrams", headers=USER)
    assert (answer.status_code, answer.json()["code"]) == (503, "UNAVAILABLE")
    assert "defect" not in answer.text


async def started(**variables: str) -> asyncio.subprocess.Process:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HEADGATE", "OTEL"))}
    environment |= {"HEADGATE_HTTP_HOST": "127.0.0.1", "PYTHONPATH": os.pathsep.join(sys.path), **variables}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.gateway", env=environment, stderr=asyncio.subprocess.PIPE
    )


async def stderr_until(process: asyncio.subprocess.Process, word: bytes) -> bytes:
    assert process.stderr is not None
    async with asyncio.timeout(DEADLINE_S):
        while word not in (line := await process.stderr.readline()):
            assert line, "the process ended"
    return line


BACKENDS = {"HEADGATE_QUOTA_ADDRESS": "unix:/nowhere/q", "HEADGATE_SCHEDULER_ADDRESS": "unix:/nowhere/s"}


async def test_a_port_in_use_is_one_sentence_and_status_2() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        process = await started(**BACKENDS, HEADGATE_HTTP_PORT=str(taken.getsockname()[1]))
        _, stderr = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    assert process.returncode == 2
    assert stderr.count(b"\n") == 1
    assert b"HEADGATE_HTTP_PORT" in stderr


WRONG = [
    ("HEADGATE_HTTP_PORT", "99999"),
    ("HEADGATE_PUBLIC_URL", "not an address"),
    ("HEADGATE_DEMO_KEYS", "[1]"),
    ("HEADGATE_QUOTA_ADDRESS", ""),
    ("HEADGATE_TLS_CERT", "/nowhere"),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
async def test_a_wrong_variable_is_named(name: str, value: str) -> None:
    process = await started(**{**BACKENDS, "HEADGATE_HTTP_PORT": "0", name: value})
    _, stderr = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    assert (process.returncode, stderr.count(b"\n")) == (2, 1)
    assert name.encode() in stderr


async def test_a_term_signal_ends_it_cleanly_with_open_watchers(gateway: Running) -> None:
    gateway.scheduler.add(ID)
    folder = gateway.folder
    process = await started(
        HEADGATE_QUOTA_ADDRESS=f"unix:{folder}/quota",
        HEADGATE_SCHEDULER_ADDRESS=f"unix:{folder}/scheduler",
        HEADGATE_HTTP_PORT="0",
    )
    address = (await stderr_until(process, b"listening ")).split()[-1].decode()
    async with (
        httpx2.AsyncClient(base_url=address, timeout=DEADLINE_S) as http,
        http.stream("GET", f"/api/diagram/{ID}/events") as stream,
    ):
        lines = stream.aiter_lines()
        await first(lines, "event: status")
        process.send_signal(signal.SIGTERM)
        rest = [line async for line in lines]
    assert not any("failed" in line for line in rest)
    assert await asyncio.wait_for(process.wait(), DEADLINE_S) == 0


async def first(lines: Any, wanted: str) -> None:
    async for line in lines:
        if line == wanted:
            return
    raise AssertionError(f"no {wanted}")


async def test_a_request_in_flight_is_answered_while_draining(gateway: Running) -> None:
    release, arrived = asyncio.Event(), asyncio.Event()
    listing = gateway.scheduler.List

    async def slow(request: sched.ListRequest, context: Any) -> sched.ListResponse:
        arrived.set()
        await release.wait()
        return await listing(request, context)

    gateway.scheduler.hooks["List"] = slow
    asking = asyncio.create_task(gateway.http.get("/api/diagrams", headers=USER))
    await asyncio.wait_for(arrived.wait(), DEADLINE_S)
    gateway.gateway.drain()
    stopping = asyncio.create_task(gateway.server.shutdown())
    release.set()
    assert (await asking).status_code == 200
    await stopping


def test_codes_that_leave_the_outcome_open_are_never_a_refusal() -> None:
    from services.gateway.errors import UNKNOWN_OUTCOMES, was_refused
    from tests.servers.gateway import scheduler_refusal

    for code in grpc.StatusCode:
        assert was_refused(scheduler_refusal("QUEUE_FULL", code)) == (code not in UNKNOWN_OUTCOMES)
