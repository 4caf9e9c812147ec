"""One trace for each request, from the HTTP call through the queue to the upstream call and the settlement."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator

import pytest

from tests.e2e.stack import Stack, Stacks, eventually
from tests.servers.otlp import OtlpReceiver, ReceivedSpan

SECRET_WORDS = "The pelican files its tax return"


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    listening = OtlpReceiver()
    yield listening
    listening.close()


def submit(stack: Stack, trace_id: str) -> str:
    headers = {"X-API-Key": stack.demo_keys["pro"], "traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"}
    body = json.dumps({"prompt": SECRET_WORDS}).encode()
    call = urllib.request.Request(f"{stack.url}/api/diagram/generate", body, headers)
    with urllib.request.urlopen(call, timeout=30) as answer:
        return str(json.loads(answer.read())["requestId"])


def state(stack: Stack, request_id: str) -> str:
    return str(stack.request("GET", f"/api/diagram/{request_id}", key=stack.demo_keys["pro"])[1]["status"])


def names(spans: list[ReceivedSpan]) -> set[tuple[str, str]]:
    return {(span.service.removeprefix("headgate-"), span.name.rsplit("/", 1)[-1]) for span in spans}


def expected(spans: list[ReceivedSpan], attempts: int) -> bool:
    found = names(spans)
    wanted = {
        ("gateway", "Reserve"), ("quota", "Reserve"), ("gateway", "Submit"), ("scheduler", "Submit"),
        ("scheduler", "process sonnet"), ("scheduler", "Generate"), ("generator", "Generate"),
        ("generator", "chat claude-sonnet-5-5"), ("scheduler", "settle sonnet"),
    }  # fmt: skip
    calls = [span for span in spans if span.name == "process sonnet"]
    return wanted <= found and len(calls) == attempts and roots(spans) == {"headgate-gateway"}


def roots(spans: list[ReceivedSpan]) -> set[str]:
    """Who began what hangs under nothing else that came."""
    ids = {span.span_id for span in spans}
    return {span.service for span in spans if span.parent_id not in ids}


def check(spans: list[ReceivedSpan], trace_id: str) -> None:
    for span in spans:
        if span.name == "process sonnet":
            assert span.links == (trace_id,)
        assert SECRET_WORDS not in repr(span)
        assert "hg_" not in repr(span)
    chat = next(span for span in spans if span.name.startswith("chat"))
    assert chat.attributes["gen_ai.operation.name"] == "chat"
    assert chat.attributes["gen_ai.usage.output_tokens"] > 0


def test_one_trace_from_the_http_call_to_the_settlement(stacks: Stacks, receiver: OtlpReceiver) -> None:
    often = {"OTEL_METRIC_EXPORT_INTERVAL": "1000", "HEADGATE_EMULATOR_TOKENS_PER_SECOND": "2000"}
    stack = stacks.start(OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint, **often)
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    request_id = submit(stack, trace_id)
    eventually(lambda: state(stack, request_id) == "completed", within_s=30, what="the diagram")
    eventually(lambda: expected(receiver.spans(trace_id), 1), within_s=20, what=f"{names(receiver.spans(trace_id))}")
    check(receiver.spans(trace_id), trace_id)
    eventually(lambda: "headgate.limit.use_ratio" in receiver.metrics, within_s=20, what="metrics")


def test_the_trace_goes_on_after_a_kill(stacks: Stacks, receiver: OtlpReceiver) -> None:
    stack = stacks.start(OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint, HEADGATE_EMULATOR_TOKENS_PER_SECOND="20")
    trace_id = "5bf92f3577b34da6a3ce929d0e0e4737"
    request_id = submit(stack, trace_id)
    eventually(lambda: state(stack, request_id) == "processing", within_s=30, what="an attempt")
    stack.restarted("generator-1", stack.kill("generator-1"))
    eventually(lambda: state(stack, request_id) == "completed", within_s=60, what="the diagram")
    eventually(lambda: expected(receiver.spans(trace_id), 2), within_s=20, what="both attempts in one trace")
    check(receiver.spans(trace_id), trace_id)
