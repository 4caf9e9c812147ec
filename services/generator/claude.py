"""The Claude API as the upstream of an attempt: the only module that knows the SDK."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import Any

import anthropic
import httpx2
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from services import telemetry
from services.clock import Clock
from services.generator.attempt import Call, Opened, Said, Tally, Usage
from services.generator.outcomes import (
    Failure,
    FailureKind,
    classify,
    limits_of,
    retry_after_ms,
    sentence,
    told,
)

CONNECT_S = 10.0
WRITE_S = 30.0
PLACEHOLDER_KEY = "headgate-emulator"
"""A stand-in reads no key, but the SDK will not start without one."""


class Claude:
    """One client for the whole process. One layer retries, and it is not this one."""

    def __init__(
        self, api_key: str | None, base_url: str | None, silence_ms: int, connections: int, clock: Clock
    ) -> None:
        """`silence_ms` bounds the time between two bytes of an answer."""
        # At its debug level the SDK logs whole requests, prompts and all.
        logging.getLogger("anthropic").setLevel(logging.WARNING)
        timeout = httpx2.Timeout(connect=CONNECT_S, read=silence_ms / 1000, write=WRITE_S, pool=CONNECT_S)
        limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
        self._client = anthropic.AsyncAnthropic(
            api_key=api_key or PLACEHOLDER_KEY,
            base_url=base_url,
            max_retries=0,
            timeout=timeout,
            http_client=anthropic.DefaultAsyncHttpxClient(timeout=timeout, limits=limits),
            open_telemetry=False,
        )
        self._clock = clock

    async def close(self) -> None:
        """Closes every connection."""
        await self._client.close()

    async def stream(self, call: Call) -> AsyncGenerator[Opened | Said | Tally, None]:
        """One answer; raises Failure for whatever keeps it from its proper end."""
        span = telemetry.tracer().start_span(f"chat {call.model}", kind=SpanKind.CLIENT, attributes=_asked(call))
        try:
            async with aclosing(self._events(call)) as events:
                async for event in events:
                    if isinstance(event, Tally):
                        _note(span, event)
                    yield event
        except Failure as failure:
            span.set_attribute("error.type", failure.error_type or str(failure.http_status or failure.kind.value))
            span.set_status(Status(StatusCode.ERROR, failure.kind.value))
            raise
        finally:
            span.end()

    async def count(self, call: Call) -> int:
        """Input tokens of a call that is not made; raises Failure."""
        with self._translated(call):
            counted = await self._client.messages.count_tokens(model=call.model, **_words(call))
            return int(counted.input_tokens)

    async def _events(self, call: Call) -> AsyncGenerator[Opened | Said | Tally, None]:
        with self._translated(call):
            stream: Any = await self._client.messages.create(
                model=call.model, max_tokens=call.max_tokens, stream=True, **_words(call)
            )
            async with stream:
                headers = stream.response.headers
                yield Opened(limits_of(headers, self._clock.now_ms()), headers.get("request-id", ""))
                async for event in _read(stream):
                    yield event

    @contextmanager
    def _translated(self, call: Call) -> Generator[None]:
        """The SDK's errors as failures."""
        try:
            yield
        except anthropic.APIStatusError as error:
            raise self._failure(error, call) from None
        except (anthropic.AnthropicError, httpx2.HTTPError, httpx2.StreamError) as error:
            # A connection that fails, stalls or is cut.
            raise _unavailable(type(error).__name__) from None
        except (ValueError, TypeError, AttributeError, LookupError) as error:
            # An event that is not JSON, or not of the provider's form.
            raise _unavailable(type(error).__name__, 200) from None

    def _failure(self, error: anthropic.APIStatusError, call: Call) -> Failure:
        headers: Mapping[str, str] = error.response.headers
        now_ms = self._clock.now_ms()
        delay_ms = retry_after_ms(headers, now_ms)
        status, code, text = error.status_code, error.error_code or "", str(error.api_message or "")
        kind = classify(status, code, text, named_delay=delay_ms is not None)
        private = (call.system, *(text for _, text in call.messages), self._client.api_key or "")
        limits = limits_of(headers, now_ms) if status != 200 else ()
        return Failure(kind, told(kind, text, private), status, str(error.type or ""), code, delay_ms, limits)


def _words(call: Call) -> dict[str, Any]:
    messages = [{"role": role, "content": text} for role, text in call.messages]
    return {"system": call.system or anthropic.omit, "messages": messages}


async def _read(stream: Any) -> AsyncGenerator[Said | Tally, None]:
    used, stop_reason, finished = Usage(0, ""), None, False
    async for event in stream:
        if event.type == "message_start":
            used = _updated(replace(used, model=event.message.model), event.message.usage)
            yield Tally(used, final=False)
        elif event.type == "content_block_delta" and event.delta.type == "text_delta":
            yield Said(str(event.delta.text))
        elif event.type == "message_delta":
            stop_reason = event.delta.stop_reason or stop_reason
            used = _updated(used, event.usage)
            yield Tally(used, True, stop_reason)
        elif event.type == "message_stop":
            finished = True
    # A stream that just ends raises nothing in the SDK.
    if not finished or stop_reason is None:
        raise _unavailable("the stream ended without message_stop", 200)


def _updated(used: Usage, usage: Any) -> Usage:
    """The figures of a usage object; those it leaves out stay as they were."""

    def known(value: Any, before: int) -> int:
        return before if value is None else int(value)

    written_5m, written_1h = _written(usage)
    if written_1h is None and not used.cache_write_1h_input_tokens:
        # Without a split all that was written to the cache is there for the default of five minutes.
        written_5m = usage.cache_creation_input_tokens
    return replace(
        used,
        input_tokens=known(usage.input_tokens, used.input_tokens),
        output_tokens=known(usage.output_tokens, used.output_tokens),
        cache_read_input_tokens=known(usage.cache_read_input_tokens, used.cache_read_input_tokens),
        cache_write_5m_input_tokens=known(written_5m, used.cache_write_5m_input_tokens),
        cache_write_1h_input_tokens=known(written_1h, used.cache_write_1h_input_tokens),
    )


def _written(usage: Any) -> tuple[Any, Any]:
    split = getattr(usage, "cache_creation", None)
    # The SDK knows the split in the first event only; elsewhere it hands it on as plain JSON.
    fields = split if isinstance(split, dict) else vars(split) if split else {}
    return fields.get("ephemeral_5m_input_tokens"), fields.get("ephemeral_1h_input_tokens")


def _unavailable(what: str, status: int = 0) -> Failure:
    return Failure(FailureKind.UNAVAILABLE, f"{sentence(FailureKind.UNAVAILABLE)} ({what})", status)


def _asked(call: Call) -> dict[str, str | int]:
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "anthropic",
        "gen_ai.request.model": call.model,
        "gen_ai.request.max_tokens": call.max_tokens,
    }


def _note(span: Span, tally: Tally) -> None:
    used = tally.usage
    cached = used.cache_read_input_tokens + used.cache_write_5m_input_tokens + used.cache_write_1h_input_tokens
    span.set_attribute("gen_ai.response.model", used.model)
    span.set_attribute("gen_ai.usage.input_tokens", used.input_tokens + cached)
    span.set_attribute("gen_ai.usage.output_tokens", used.output_tokens)
    span.set_attribute("gen_ai.usage.cache_read.input_tokens", used.cache_read_input_tokens)
    if tally.stop_reason:
        span.set_attribute("gen_ai.response.finish_reasons", [tally.stop_reason])
