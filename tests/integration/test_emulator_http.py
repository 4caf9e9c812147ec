"""The emulator as its clients see it: the SDK, plain HTTP, and its controls."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import httpx2
import pytest
import pytest_asyncio

from tests.servers.emulator import FAST, Emulator, running_emulator

pytestmark = pytest.mark.asyncio(loop_scope="module")
HEADERS = {"x-api-key": "k", "anthropic-version": "2026-10-21"}
BODY: dict[str, Any] = {
    "model": "claude-sonnet-5-5",
    "max_tokens": 500,
    "messages": [{"role": "user", "content": "What is a queue?"}],
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared() -> AsyncIterator[Emulator]:
    async with running_emulator() as emulator:
        yield emulator


@pytest_asyncio.fixture(loop_scope="module")
async def emulator(shared: Emulator) -> AsyncIterator[Emulator]:
    await shared.clear_faults()
    await shared.forget_calls()
    yield shared
    await shared.limits(rpm=FAST["rpm"], tpm=FAST["tpm"], itpm=None, otpm=None)
    await shared.pace(first_token_ms=0, tokens_per_second=FAST["tokens_per_second"])


@pytest_asyncio.fixture(loop_scope="module")
async def http(emulator: Emulator) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=emulator.base_url, timeout=20) as client:
        yield client


def error_of(response: httpx2.Response) -> tuple[int, str]:
    body = response.json()
    assert body["type"] == "error"
    assert body["request_id"] == response.headers["request-id"]
    assert body["error"]["message"]
    return response.status_code, body["error"]["type"]


async def test_the_sdk_streams_and_asks_plainly(emulator: Emulator) -> None:
    client = anthropic.AsyncAnthropic(api_key="k", base_url=emulator.base_url, max_retries=0)
    async with client.messages.stream(**BODY) as stream:
        streamed = await stream.get_final_message()
    plain = await client.messages.create(**BODY)
    assert streamed.content[0].text == plain.content[0].text
    assert streamed.usage.output_tokens == plain.usage.output_tokens > 1
    assert streamed.stop_reason == plain.stop_reason == "end_turn"
    counted = await client.messages.count_tokens(model=BODY["model"], messages=BODY["messages"])
    assert counted.input_tokens == plain.usage.input_tokens
    assert "claude-opus-5-5" in [model.id async for model in client.models.list()]
    calls = await emulator.calls()
    assert [call["status"] for call in calls] == [200, 200]
    assert calls[0]["prompt_hash"] == hashlib.sha256(b"What is a queue?").hexdigest()
    await client.close()


async def test_events_come_in_the_providers_form(http: httpx2.AsyncClient) -> None:
    response = await http.post("/v1/messages", json={**BODY, "stream": True}, headers=HEADERS)
    assert response.headers["content-type"].startswith("text/event-stream")
    blocks = [block.split("\n") for block in response.text.strip().split("\n\n")]
    names = [block[0].removeprefix("event: ") for block in blocks]
    data = [json.loads(block[1].removeprefix("data: ")) for block in blocks]
    assert names == [event["type"] for event in data]
    assert names[:3] == ["message_start", "content_block_start", "ping"]
    assert set(names[3:-3]) == {"content_block_delta"}
    assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert data[0]["message"]["usage"]["input_tokens"] > 1
    assert data[-2]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}


@pytest.mark.parametrize(
    ("headers", "change", "expected"),
    [
        ({"x-api-key": ""}, {}, (401, "authentication_error")),
        ({"x-api-key": "invalid"}, {}, (401, "authentication_error")),
        ({"anthropic-version": ""}, {}, (400, "invalid_request_error")),
        ({}, {"model": "claude-1"}, (404, "not_found_error")),
        ({}, {"max_tokens": 0}, (400, "invalid_request_error")),
        ({}, {"max_tokens": True}, (400, "invalid_request_error")),
        ({}, {"messages": []}, (400, "invalid_request_error")),
        ({}, {"messages": [{"role": "assistant", "content": "x"}]}, (400, "invalid_request_error")),
        ({}, {"messages": [{"role": "user", "content": ""}]}, (400, "invalid_request_error")),
        ({}, {"messages": [{"role": "user", "content": [1]}]}, (400, "invalid_request_error")),
        ({}, {"temperature": 1}, (400, "invalid_request_error")),
        ({}, {"model": ["x"]}, (400, "invalid_request_error")),
    ],
)
async def test_wrong_requests(
    http: httpx2.AsyncClient, headers: dict[str, str], change: dict[str, Any], expected: tuple[int, str]
) -> None:
    sent = {name: value for name, value in {**HEADERS, **headers}.items() if value}
    assert error_of(await http.post("/v1/messages", json={**BODY, **change}, headers=sent)) == expected


async def test_bearer_keys_large_bodies_and_unknown_paths(http: httpx2.AsyncClient) -> None:
    bearer = {"authorization": "Bearer k", "anthropic-version": "2023-06-01"}
    assert (await http.post("/v1/messages", json=BODY, headers=bearer)).status_code == 200
    large = await http.post("/v1/messages", content=b" " * (32 * 1024 * 1024 + 1), headers=HEADERS)
    assert error_of(large) == (413, "request_too_large")
    assert error_of(await http.post("/v1/messages", content=b"{", headers=HEADERS)) == (400, "invalid_request_error")
    assert (await http.get("/v1/nothing", headers=HEADERS)).json()["error"]["type"] == "not_found_error"


async def test_limits_are_enforced_and_can_be_changed_live(http: httpx2.AsyncClient, emulator: Emulator) -> None:
    await emulator.limits(rpm=6, request_burst_ms=1000)
    first = await http.post("/v1/messages", json=BODY, headers=HEADERS)
    second = await http.post("/v1/messages", json=BODY, headers=HEADERS)
    assert first.status_code == 200
    assert error_of(second) == (429, "rate_limit_error")
    assert 1 <= int(second.headers["retry-after"]) <= 10
    assert second.headers["anthropic-ratelimit-requests-limit"] == "6"
    assert second.headers["anthropic-ratelimit-requests-remaining"] == "0"
    other = {**BODY, "model": "claude-opus-5-5"}
    assert (await http.post("/v1/messages", json=other, headers=HEADERS)).status_code == 200
    totals = await emulator.totals()
    assert totals["statuses"] == {"200": 2, "429": 1}


async def test_somebody_else_may_use_the_same_key(http: httpx2.AsyncClient, emulator: Emulator) -> None:
    assert await emulator.foreigner() == {"share": 0, "calls": {}}
    await emulator.limits(rpm=60_000, request_burst_ms=1000)
    await emulator.foreigner(1.0)
    left = []
    for _ in range(20):
        response = await http.post("/v1/messages", json=BODY, headers=HEADERS)
        left.append(int(response.headers["anthropic-ratelimit-requests-remaining"]))
    # All that time brings is theirs, so what we took stays taken however long it lasted (a call of theirs may be due).
    assert 18 <= left[0] - left[-1] <= 20
    assert (await emulator.foreigner())["calls"]["sonnet"] > 0
    assert (await emulator.foreigner(0))["share"] == 0


async def test_faults_match_words_count_down_and_clear(http: httpx2.AsyncClient, emulator: Emulator) -> None:
    async def status(text: str) -> int:
        body = {**BODY, "messages": [{"role": "user", "content": text}]}
        return (await http.post("/v1/messages", json=body, headers=HEADERS)).status_code

    await emulator.fault("529", times=2, match="zebra")
    assert [await status(text) for text in ("lion", "zebra", "zebra", "zebra")] == [200, 529, 529, 200]
    await emulator.fault("500", times=1000)
    assert await status("lion") == 500
    await emulator.clear_faults()
    assert await status("lion") == 200
    assert [await status("draw [emulate 503] now") for _ in range(2)] == [503, 200]
    unknown = await http.post("/_emulator/faults", json={"fault": "flood"})
    assert error_of(unknown) == (400, "invalid_request_error")
    assert error_of(await http.post("/_emulator/faults", json={"fault": "529", "often": 1}))[0] == 400
    assert error_of(await http.post("/_emulator/faults", json={"fault": "529", "times": "x"}))[0] == 400


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("limits", {"rpm": None}), ("limits", {"rpm": 0}), ("limits", {"tpm": "x"}), ("limits", {"x": 1}),
        ("limits", {"token_burst_ms": -1}), ("pace", {"tokens_per_second": 0}), ("pace", {"first_token_ms": None}),
        ("pace", [1]), ("foreigner", {}), ("foreigner", {"share": -0.1}), ("foreigner", {"share": 1.1}),
        ("foreigner", {"share": "x"}), ("limits", {"full": 1}),
    ],
)  # fmt: skip
async def test_wrong_controls_change_nothing(http: httpx2.AsyncClient, path: str, body: Any) -> None:
    before = (await http.get("/_emulator/limits")).json()
    assert error_of(await http.put(f"/_emulator/{path}", json=body)) == (400, "invalid_request_error")
    assert (await http.get("/_emulator/limits")).json() == before
    assert (await http.post("/v1/messages", json=BODY, headers=HEADERS)).status_code == 200


async def test_pace_and_slow(emulator: Emulator) -> None:
    await emulator.pace(first_token_ms=0, tokens_per_second=100)
    loop = asyncio.get_running_loop()
    began = loop.time()
    client = anthropic.AsyncAnthropic(api_key="k", base_url=emulator.base_url, max_retries=0)
    pieces = 0
    async with client.messages.stream(**BODY) as stream:
        async for _ in stream.text_stream:
            pieces += 1
        message = await stream.get_final_message()
    took = loop.time() - began
    assert took >= (message.usage.output_tokens - 1) / 100
    assert pieces > 3
    await client.close()


async def test_a_client_who_leaves_is_noticed_and_what_it_got_is_billed(emulator: Emulator) -> None:
    await emulator.pace(first_token_ms=0, tokens_per_second=30)
    client = anthropic.AsyncAnthropic(api_key="k", base_url=emulator.base_url, max_retries=0)
    async with client.messages.stream(**BODY) as stream:
        async for _ in stream.text_stream:
            break
    (call,) = await emulator.calls_when(lambda calls: calls[0]["ended"] != "")
    assert call["ended"] == "client_closed"
    assert call["input_tokens"] > 1
    totals = await emulator.totals()
    assert totals["running"] == 0
    assert totals["output_tokens"] == call["output_tokens"] >= 1
    await client.close()
