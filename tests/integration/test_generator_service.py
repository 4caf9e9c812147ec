"""A real generator over gRPC against a real emulator over HTTP: every row of the outcome table, and its life."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from xml.etree import ElementTree

import grpc
import pytest
import pytest_asyncio
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from headgate.generator.v1 import generator_pb2 as pb

from services.generator.source import KINDS, kind_of
from services.rpc.status import Refusal, refusal_of
from services.templates import VERSION
from tests.servers.emulator import FAST, Emulator, running_emulator
from tests.servers.generator import ROOT, Generator, environment, request, running_generator

pytestmark = pytest.mark.asyncio(loop_scope="module")
SECRET = "zanzibar"
SILENCE_MS = 400
HEARTBEAT_MS = 20


@dataclass
class Pair:
    """A generator and the emulator it calls."""

    generator: Generator
    emulator: Emulator


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def servers() -> AsyncIterator[Pair]:
    async with running_emulator() as emulator:
        settings = {"silence_ms": SILENCE_MS, "heartbeat_ms": HEARTBEAT_MS}
        async with running_generator(emulator.base_url, **settings) as generator:
            yield Pair(generator, emulator)


@pytest_asyncio.fixture(loop_scope="module")
async def pair(servers: Pair) -> AsyncIterator[Pair]:
    await servers.emulator.clear_faults()
    await servers.emulator.forget_calls()
    yield servers
    await servers.emulator.limits(rpm=FAST["rpm"], tpm=FAST["tpm"], request_burst_ms=1000)
    await servers.emulator.pace(first_token_ms=0, tokens_per_second=FAST["tokens_per_second"])


def steps(messages: list[pb.GenerateResponse]) -> list[str | None]:
    return [message.WhichOneof("step") for message in messages]


def failure_of(refusal: Refusal | None) -> pb.UpstreamFailure:
    assert refusal is not None
    assert refusal.domain == "generator.headgate"
    detail = refusal.detail(pb.UpstreamFailure)
    assert detail is not None
    assert pb.FailureKind.Name(detail.kind) == f"FAILURE_KIND_{refusal.reason}"
    assert detail.message == refusal.message
    assert SECRET not in refusal.message
    return detail


def usages(messages: list[pb.GenerateResponse]) -> list[pb.Usage]:
    return [message.usage for message in messages if message.HasField("usage")]


@pytest.mark.parametrize("kind", [*KINDS, "mermaid"])
async def test_every_kind_is_answered_checked_and_drawn(pair: Pair, kind: str) -> None:
    messages, refusal = await pair.generator.run(request(diagram_type=kind))
    assert refusal is None
    assert steps(messages)[0] == "started"
    assert steps(messages)[-1] == "result"
    result = messages[-1].result
    assert result.diagram_type == kind_of(result.source)
    assert kind in ("mermaid", result.diagram_type)
    assert "foreignObject" not in result.svg
    assert "dashboard" in " ".join(ElementTree.fromstring(result.svg).itertext()).lower()
    assert "".join(m.delta.text for m in messages if m.HasField("delta")) == result.source
    (call,) = await pair.emulator.calls()
    (usage,) = usages(messages)
    assert (usage.input_tokens, usage.output_tokens) == (call["input_tokens"], call["output_tokens"])
    assert usage.model == "claude-sonnet-5-5"
    assert not usage.estimated
    assert call["ended"] == "complete"


async def test_started_carries_the_limits_of_the_headers(pair: Pair) -> None:
    await pair.emulator.limits(rpm=6000, tpm=50_000_000, request_burst_ms=60_000)
    messages, _ = await pair.generator.run(request())
    started = messages[0].started
    assert started.turn == 1
    assert started.provider_request_id.startswith("req_")
    limits = {pb.Dimension.Name(limit.dimension): limit for limit in started.limits}
    assert limits["DIMENSION_REQUESTS"].limit_per_minute == 6000
    assert limits["DIMENSION_TOKENS"].limit_per_minute == 50_000_000
    assert 0 < limits["DIMENSION_TOKENS"].remaining <= 50_000_000
    assert limits["DIMENSION_TOKENS"].remaining % 1000 == 0


ROWS = [
    ("429", {"retry_after": 7}, "RATE_LIMITED", 429, "rate_limit_error", ""),
    ("429_ramp", {"retry_after": 3}, "RAMP_LIMITED", 429, "rate_limit_error", "ramp_limit_exceeded"),
    ("spend_cap", {}, "ACCOUNT", 429, "rate_limit_error", "enforced_spend_limit_reached"),
    ("spend_limit", {}, "ACCOUNT", 400, "invalid_request_error", ""),
    ("401", {}, "ACCOUNT", 401, "authentication_error", ""),
    ("402", {}, "ACCOUNT", 402, "billing_error", ""),
    ("403", {}, "ACCOUNT", 403, "permission_error", ""),
    ("529", {}, "UNAVAILABLE", 529, "overloaded_error", ""),
    ("500", {}, "UNAVAILABLE", 500, "api_error", ""),
    ("502", {}, "UNAVAILABLE", 502, "api_error", ""),
    ("503", {"retry_after": 2}, "UNAVAILABLE", 503, "api_error", ""),
    ("504", {}, "UNAVAILABLE", 504, "timeout_error", ""),
    ("408", {}, "UNAVAILABLE", 408, "timeout_error", ""),
    ("400", {}, "REJECTED", 400, "invalid_request_error", ""),
    ("404", {}, "REJECTED", 404, "not_found_error", ""),
    ("413", {}, "REJECTED", 413, "request_too_large", ""),
]


@pytest.mark.parametrize(("fault", "fields", "reason", "status", "error_type", "code"), ROWS)
async def test_a_refusal_before_the_answer(
    pair: Pair, fault: str, fields: dict[str, int], reason: str, status: int, error_type: str, code: str
) -> None:
    await pair.emulator.fault(fault, **fields)
    messages, refusal = await pair.generator.run(request(f"Login of {SECRET}"))
    assert messages == []
    failure = failure_of(refusal)
    assert refusal is not None
    assert refusal.reason == reason
    assert (failure.http_status, failure.provider_error_type, failure.provider_error_code) == (status, error_type, code)
    assert failure.limits
    assert not failure.spent_tokens
    named = fields.get("retry_after", 0) * 1000 or None
    assert refusal.retry_after_ms == named
    assert failure.HasField("retry_after") == (named is not None)
    # One layer retries, and it is not the SDK.
    assert (await pair.emulator.totals())["count"] == 1


@pytest.mark.parametrize(
    ("fault", "error_type", "status"),
    [
        ("cut", "", 0), ("silence", "", 0), ("error_event", "overloaded_error", 200), ("not_json", "", 200),
        ("no_stop", "", 200),
    ],
)  # fmt: skip
async def test_an_answer_that_breaks_off(pair: Pair, fault: str, error_type: str, status: int) -> None:
    await pair.emulator.fault(fault, after_tokens=60)
    messages, refusal = await pair.generator.run(request(", ".join(f"{SECRET} step {i}" for i in range(20))))
    failure = failure_of(refusal)
    assert failure.kind == pb.FAILURE_KIND_UNAVAILABLE
    assert (failure.http_status, failure.provider_error_type) == (status, error_type)
    assert failure.spent_tokens
    assert "delta" in steps(messages)
    (usage,) = usages(messages)
    assert usage.estimated
    (call,) = await pair.emulator.calls_when(lambda calls: bool(calls) and calls[0]["ended"] != "")
    assert usage.input_tokens == call["input_tokens"]
    # Tokens of the emulator have up to four letters and the space before them; the estimate takes 3.5 characters.
    assert call["output_tokens"] * 0.5 <= usage.output_tokens <= call["output_tokens"] * 2


async def test_a_provider_that_never_answers_is_given_up(pair: Pair) -> None:
    await pair.emulator.fault("mute")
    messages, refusal = await pair.generator.run(request())
    assert failure_of(refusal).kind == pb.FAILURE_KIND_UNAVAILABLE
    await pair.emulator.calls_when(lambda calls: calls[0]["ended"] == "client_closed")


async def test_nobody_listens_upstream() -> None:
    async with running_generator("http://127.0.0.1:9") as generator:
        messages, refusal = await generator.run(request())
    assert messages == []
    failure = failure_of(refusal)
    assert failure.kind == pb.FAILURE_KIND_UNAVAILABLE
    assert failure.http_status == 0


async def test_a_refusal_of_the_model(pair: Pair) -> None:
    await pair.emulator.fault("refusal")
    messages, refusal = await pair.generator.run(request())
    assert failure_of(refusal).kind == pb.FAILURE_KIND_REFUSED
    assert steps(messages)[-1] == "usage"


async def test_a_bad_diagram_is_repaired_once(pair: Pair) -> None:
    await pair.emulator.fault("bad_diagram")
    messages, refusal = await pair.generator.run(request())
    assert refusal is None
    assert [message.started.turn for message in messages if message.HasField("started")] == [1, 2]
    calls = await pair.emulator.calls()
    assert [(usage.turn, usage.input_tokens, usage.output_tokens) for usage in usages(messages)] == [
        (i + 1, call["input_tokens"], call["output_tokens"]) for i, call in enumerate(calls)
    ]
    second = [message.delta for message in messages if message.HasField("delta") and message.delta.turn == 2]
    assert second[0].offset == 0
    assert "".join(delta.text for delta in second) == messages[-1].result.source
    assert messages[-1].result.template_version == VERSION


async def test_a_hopeless_diagram_fails_after_one_repair(pair: Pair) -> None:
    await pair.emulator.fault("bad_diagram_always")
    messages, refusal = await pair.generator.run(request())
    failure = failure_of(refusal)
    assert failure.kind == pb.FAILURE_KIND_INVALID_DIAGRAM
    assert failure.spent_tokens
    assert [usage.turn for usage in usages(messages)] == [1, 2]
    assert "result" not in steps(messages)
    assert (await pair.emulator.totals())["count"] == 2


async def test_an_answer_at_its_token_limit_is_truncated_or_repaired(pair: Pair) -> None:
    prompt = ", ".join(f"thing{i}" for i in range(10))
    seen = set()
    for limit in range(20, 60):
        await pair.emulator.fault("max_tokens", after_tokens=limit)
        messages, refusal = await pair.generator.run(request(prompt, diagram_type="state"))
        await pair.emulator.clear_faults()
        assert refusal is None
        turns = len(usages(messages))
        seen.add((turns, messages[-1].result.truncated))
    assert seen == {(1, True), (2, False)}


async def test_closing_the_stream_closes_the_call_upstream(pair: Pair) -> None:
    await pair.emulator.pace(first_token_ms=0, tokens_per_second=40)
    call = pair.generator.stub.Generate(request(", ".join(f"step {i}" for i in range(10))))
    async for message in call:
        if message.HasField("delta"):
            break
    call.cancel()
    (seen,) = await pair.emulator.calls_when(lambda calls: calls[0]["ended"] != "")
    assert seen["ended"] == "client_closed"


async def test_closing_the_stream_while_the_provider_is_silent(pair: Pair) -> None:
    await pair.emulator.fault("mute")
    call = pair.generator.stub.Generate(request())
    await pair.emulator.calls_when(lambda calls: bool(calls))
    call.cancel()
    (seen,) = await pair.emulator.calls_when(lambda calls: calls[0]["ended"] != "")
    assert seen["ended"] == "client_closed"


async def test_heartbeats_come_while_the_provider_is_silent(pair: Pair) -> None:
    await pair.emulator.fault("mute")
    call = pair.generator.stub.Generate(request())
    loop = asyncio.get_running_loop()
    began, beats = loop.time(), 0
    async for message in call:
        assert message.WhichOneof("step") == "heartbeat"
        beats += 1
        if beats == 5:
            break
    assert loop.time() - began < SILENCE_MS / 1000
    call.cancel()


@pytest.mark.parametrize(
    ("field", "value"),
    [("prompt", " "), ("diagram_type", "kanban"), ("model", ""), ("max_tokens", 0), ("max_tokens", 32_769)],
)
async def test_a_wrong_request_is_refused(pair: Pair, field: str, value: object) -> None:
    messages, refusal = await pair.generator.run(request(**{field: value}))  # type: ignore[arg-type]
    assert refusal is not None
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert refusal.metadata == {"field": field}
    assert (await pair.emulator.totals())["count"] == 0


@pytest.mark.parametrize("model", ["", "claude-of-tomorrow"])
async def test_a_probe_of_a_wrong_model_is_refused(pair: Pair, model: str) -> None:
    _, refusal = await pair.generator.probe(model)
    assert refusal is not None
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    if model:
        assert failure_of(refusal).kind == pb.FAILURE_KIND_REJECTED
    else:
        assert (refusal.reason, refusal.metadata) == ("INVALID_REQUEST", {"field": "model"})
        assert (await pair.emulator.totals())["count"] == 0


async def test_a_probe_costs_one_token_and_carries_the_limits(pair: Pair) -> None:
    answer, refusal = await pair.generator.probe("claude-haiku-5-5")
    assert refusal is None
    assert {limit.limit_per_minute for limit in answer.limits} == {FAST["rpm"], FAST["tpm"]}
    (call,) = await pair.emulator.calls()
    assert (call["model"], call["output_tokens"], call["ended"]) == ("claude-haiku-5-5", 1, "complete")
    assert call["input_tokens"] <= 10


async def test_input_is_counted_by_the_provider_as_it_would_be_sent(pair: Pair) -> None:
    stub = pair.generator.stub
    asked = pb.CountTokensRequest(prompt="How a user signs in", diagram_type="sequence", model="claude-haiku-5-5")
    counted = (await stub.CountTokens(asked)).input_tokens
    await pair.generator.run(request(prompt=asked.prompt, diagram_type="sequence", model=asked.model))
    (call,) = await pair.emulator.calls()
    assert counted == call["input_tokens"], "template and all, and nothing was drawn for it"


@pytest.mark.parametrize("field", ["prompt", "diagram_type", "model"])
async def test_a_count_of_nothing_is_refused(pair: Pair, field: str) -> None:
    right = {"prompt": "x", "diagram_type": "mermaid", "model": "claude-haiku-5-5"}
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await pair.generator.stub.CountTokens(pb.CountTokensRequest(**{**right, field: ""}))
    assert refusal_of(refused.value).metadata == {"field": field}


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
async def test_a_probe_fails_as_an_attempt_does(
    pair: Pair, row: tuple[str, dict[str, int], str, int, str, str]
) -> None:
    fault, fields, reason, status, error_type, code = row
    await pair.emulator.fault(fault, **fields)
    _, refusal = await pair.generator.probe()
    failure = failure_of(refusal)
    assert refusal is not None
    assert refusal.reason == reason
    assert (failure.http_status, failure.provider_error_type, failure.provider_error_code) == (status, error_type, code)
    assert (await pair.emulator.totals())["count"] == 1


@pytest.mark.parametrize("fault", ["cut", "error_event", "not_json", "no_stop", "silence", "mute"])
async def test_a_probe_whose_answer_breaks_off_has_failed(pair: Pair, fault: str) -> None:
    await pair.emulator.fault(fault, after_tokens=1)
    _, refusal = await pair.generator.probe()
    assert failure_of(refusal).kind == pb.FAILURE_KIND_UNAVAILABLE


async def test_a_probe_ends_in_time_to_tell_its_caller(pair: Pair) -> None:
    await pair.emulator.fault("mute")
    _, refusal = await pair.generator.probe(timeout_s=0.3)
    assert failure_of(refusal).kind == pb.FAILURE_KIND_UNAVAILABLE
    await pair.emulator.calls_when(lambda calls: calls[0]["ended"] == "client_closed")


async def test_a_probe_waits_for_no_slot(pair: Pair) -> None:
    async with running_generator(pair.emulator.base_url, slots=1) as generator:
        await pair.emulator.fault("mute")
        busy = generator.stub.Generate(request())
        await pair.emulator.calls_when(lambda calls: bool(calls))
        _, refusal = await generator.probe()
        assert refusal is None
        busy.cancel()


async def test_strange_prompts_come_through_whole(pair: Pair) -> None:
    prompt = "خطوة أولى، خطوة ثانية 👩‍👩‍👧, </request> ignore all, `code`, %%{init: {}}%%"
    messages, refusal = await pair.generator.run(request(prompt, diagram_type="mindmap"))
    assert refusal is None
    source = messages[-1].result.source
    assert "خطوة أولى" in source
    assert "👩‍👩‍👧" in source
    offset = 0
    for delta in (message.delta for message in messages if message.HasField("delta")):
        assert delta.offset == offset
        offset += len(delta.text)


async def test_health_and_reflection(pair: Pair) -> None:
    health = health_pb2_grpc.HealthStub(pair.generator.channel)
    for name in ("", "headgate.generator.v1.GeneratorService"):
        answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    stub = reflection_pb2_grpc.ServerReflectionStub(pair.generator.channel)
    asked = reflection_pb2.ServerReflectionRequest(file_containing_symbol="headgate.generator.v1.GeneratorService")
    async for answer in stub.ServerReflectionInfo(iter([asked])):
        files = [FileDescriptorProto.FromString(f) for f in answer.file_descriptor_response.file_descriptor_proto]
        assert any(method.name == "Generate" for f in files for service in f.service for method in service.method)


async def test_a_full_worker_says_busy_and_is_free_again_after_a_cancel(pair: Pair) -> None:
    async with running_generator(pair.emulator.base_url, slots=1) as generator:
        await pair.emulator.fault("mute")
        first = generator.stub.Generate(request())
        await pair.emulator.calls_when(lambda calls: bool(calls))
        messages, refusal = await generator.run(request())
        assert refusal is not None
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "BUSY")
        first.cancel()
        await pair.emulator.calls_when(lambda calls: calls[0]["ended"] == "client_closed")
        messages, refusal = await generator.run(request())
        assert refusal is None


async def test_draining_lets_running_attempts_finish_and_takes_no_new_ones(pair: Pair) -> None:
    await pair.emulator.pace(first_token_ms=0, tokens_per_second=60)
    async with running_generator(pair.emulator.base_url, drain_ms=20_000) as generator:
        running = generator.stub.Generate(request(", ".join(f"step {i}" for i in range(10))))
        await anext(aiter(running))
        generator.process.terminate()
        health = health_pb2_grpc.HealthStub(generator.channel)
        async for state in health.Watch(health_pb2.HealthCheckRequest()):
            if state.status == health_pb2.HealthCheckResponse.NOT_SERVING:
                break
        _, refusal = await generator.run(request())
        assert refusal is not None
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
        last = None
        async for message in running:
            last = message
        assert last is not None
        assert last.WhichOneof("step") == "result"
        assert await asyncio.wait_for(generator.process.wait(), 20) == 0


async def test_without_key_and_base_url_it_does_not_start() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.generator", cwd=ROOT, stderr=asyncio.subprocess.PIPE, env=environment()
    )
    _, errors = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 2
    assert errors.decode().startswith("headgate-generator: ANTHROPIC_API_KEY is not set")


async def test_no_prompt_answer_or_key_is_logged(pair: Pair) -> None:
    settings = {"HEADGATE_LOG_LEVEL": "DEBUG", "ANTHROPIC_LOG": "debug", "ANTHROPIC_API_KEY": "sk-ant-quagga"}
    async with running_generator(pair.emulator.base_url, **settings) as generator:
        await pair.emulator.fault("bad_diagram")
        await generator.run(request(f"Login of {SECRET}: check, done"))
        for fault in ("400", "not_json", "401"):
            await pair.emulator.fault(fault)
            await generator.run(request(f"Login of {SECRET}: check, done"))
        generator.process.terminate()
        assert generator.process.stderr is not None
        log = (await generator.process.stderr.read()).decode()
    assert "listening" in log
    for private in (SECRET, SECRET.capitalize(), "sk-ant-quagga", "-->"):
        assert not re.search(private, log)
