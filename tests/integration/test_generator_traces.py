"""The span around each upstream call."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from services import telemetry
from services.clock import SystemClock
from services.generator.attempt import Attempts, Result, Work
from services.generator.claude import Claude
from services.generator.diagrams import Board
from services.generator.outcomes import Failure
from services.generator.prompts import Prompts
from services.generator.pulse import with_heartbeats
from tests.servers.emulator import running_emulator

WORK = Work("Login of zanzibar: check, done", "flowchart", "claude-sonnet-5-5", 1000)


async def spans_of(monkeypatch: pytest.MonkeyPatch, fault: str) -> tuple[list[ReadableSpan], ReadableSpan]:
    """The spans of one attempt, and the one it ran under."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    monkeypatch.setattr(telemetry, "tracer", lambda: tracer)
    board = Board()
    async with running_emulator() as emulator:
        claude = Claude(None, emulator.base_url, 5_000, 4, SystemClock())
        await emulator.fault(fault)
        with tracer.start_as_current_span("incoming"):
            steps = with_heartbeats(Attempts(claude, board, Prompts.load()).run(WORK), 1_000)
            try:
                assert any([isinstance(step, Result) async for step in steps])
            except Failure:
                pass
        await claude.close()
    board.close()
    *calls, incoming = exporter.get_finished_spans()
    return calls, incoming


async def test_each_turn_is_a_client_span_under_the_incoming_one(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, incoming = await spans_of(monkeypatch, "bad_diagram")
    assert len(calls) == 2
    for span in calls:
        assert span.name == "chat claude-sonnet-5-5"
        assert span.kind is SpanKind.CLIENT
        assert span.parent is not None
        assert span.parent.span_id == incoming.context.span_id
        attributes = dict(span.attributes or {})
        assert attributes.pop("gen_ai.usage.input_tokens") > 100  # type: ignore[operator]
        assert attributes.pop("gen_ai.usage.output_tokens") > 1  # type: ignore[operator]
        assert attributes == {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "anthropic",
            "gen_ai.request.model": "claude-sonnet-5-5",
            "gen_ai.request.max_tokens": 1000,
            "gen_ai.response.model": "claude-sonnet-5-5",
            "gen_ai.response.finish_reasons": ("end_turn",),
            "gen_ai.usage.cache_read.input_tokens": 0,
        }


@pytest.mark.parametrize(("fault", "error"), [("529", "overloaded_error"), ("cut", "UNAVAILABLE")])
async def test_a_failed_call_says_why_and_nothing_private(
    monkeypatch: pytest.MonkeyPatch, fault: str, error: str
) -> None:
    (span,), _ = await spans_of(monkeypatch, fault)
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes is not None
    assert span.attributes["error.type"] == error
    assert "zanzibar" not in span.to_json()
    assert not span.events
