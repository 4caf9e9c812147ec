"""The provider's forms on the wire: events, messages, errors, and what it refuses to read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

MODELS = {
    "claude-opus-5-5": ("opus", "Claude Opus 5.5"),
    "claude-sonnet-5-5": ("sonnet", "Claude Sonnet 5.5"),
    "claude-haiku-5-5": ("haiku", "Claude Haiku 5.5"),
    "claude-haiku-4-5": ("haiku", "Claude Haiku 4.5"),
    "claude-sonnet-4-5": ("sonnet", "Claude Sonnet 4.5"),
}
"""Model id to the class that shares its limits, and its name."""
MOST_BODY_BYTES = 32 * 1024 * 1024


class Refused(Exception):
    """The request is answered with an error of the provider's."""

    def __init__(self, status: int, error_type: str, message: str, code: str = "", retry_after_s: float = 0) -> None:
        super().__init__(message)
        self.status = status
        self.error_type = error_type
        self.code = code
        self.retry_after_s = retry_after_s

    def body(self, request_id: str) -> dict[str, Any]:
        """The provider's error body."""
        error: dict[str, Any] = {"type": self.error_type, "message": str(self)}
        if self.code:
            error["details"] = {"error_code": self.code}
        return {"type": "error", "error": error, "request_id": request_id}


def read(headers: Mapping[str, str], raw: bytes) -> dict[str, Any]:
    """The checked body of a request, or Refused as the provider would refuse it."""
    authorization = headers.get("authorization", "")
    key = headers.get("x-api-key") or (authorization[7:] if authorization.lower().startswith("bearer ") else "")
    if not key or "invalid" in key:
        raise Refused(401, "authentication_error", "invalid x-api-key" if key else "x-api-key header is required")
    if not headers.get("anthropic-version"):
        raise _wrong("anthropic-version: header is required")
    if len(raw) > MOST_BODY_BYTES:
        raise Refused(413, "request_too_large", "Request exceeds the maximum allowed number of bytes.")
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise _wrong("The request body is not valid JSON.") from error
    if not isinstance(body, dict):
        raise _wrong("The request body is not a JSON object.")
    return body


def check(body: dict[str, Any], *, counting: bool = False) -> None:
    """Refused if the body is not one of the Messages API."""
    for name in ("model", "messages") if counting else ("model", "max_tokens", "messages"):
        if name not in body:
            raise _wrong(f"{name}: Field required")
    most = body.get("max_tokens", 1)
    if not isinstance(most, int) or isinstance(most, bool) or most < 1:
        raise _wrong("max_tokens: Input should be greater than or equal to 1")
    for name in ("temperature", "top_p", "top_k"):
        if name in body:
            raise _wrong(f"{name}: Extra inputs are not permitted")
    if not isinstance(body["model"], str):
        raise _wrong("model: Input should be a valid string")
    messages = body["messages"]
    if not isinstance(messages, list) or not messages:
        raise _wrong("messages: at least one message is required")
    for i, message in enumerate(messages):
        if not isinstance(message, dict) or message.get("role") not in ("user", "assistant"):
            raise _wrong(f"messages.{i}.role: Input should be 'user' or 'assistant'")
        _check_content(message.get("content"), f"messages.{i}.content")
    if messages[0]["role"] != "user":
        raise _wrong("messages: first message must use the user role")
    if body.get("system"):
        _check_content(body["system"], "system")
    if body["model"] not in MODELS:
        raise Refused(404, "not_found_error", f"model: {body['model']}")


def _check_content(content: Any, path: str) -> None:
    blocks = isinstance(content, list) and bool(content) and all(isinstance(block, dict) for block in content)
    if not blocks and not (isinstance(content, str) and content):
        raise _wrong(f"{path}: Input should be a non-empty string or a list of content blocks")


def _wrong(message: str) -> Refused:
    return Refused(400, "invalid_request_error", message)


def usage(input_tokens: int, output_tokens: int) -> dict[str, Any]:
    """The provider's usage object."""
    return {
        "input_tokens": input_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        "output_tokens": output_tokens,
        "service_tier": "standard",
    }


def message(message_id: str, model: str, text: str | None, stop_reason: str | None, used: Any) -> dict[str, Any]:
    """The provider's message object; without a text, as a stream begins."""
    content = [] if text is None else [{"type": "text", "text": text}]
    head = {"id": message_id, "type": "message", "role": "assistant", "model": model, "content": content}
    return {**head, "stop_reason": stop_reason, "stop_sequence": None, "usage": used}


def event(name: str, **fields: Any) -> bytes:
    """One server-sent event."""
    return f"event: {name}\ndata: {json.dumps({'type': name, **fields}, ensure_ascii=False)}\n\n".encode(
        "utf-8", "surrogatepass"
    )


def opening(message_id: str, model: str, input_tokens: int) -> bytes:
    """The events before the first text."""
    start = message(message_id, model, None, None, usage(input_tokens, 1))
    return (
        event("message_start", message=start)
        + event("content_block_start", index=0, content_block={"type": "text", "text": ""})
        + event("ping")
    )


def delta(text: str) -> bytes:
    """A piece of text."""
    return event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})


def closing(stop_reason: str, input_tokens: int, output_tokens: int) -> bytes:
    """The events after the last text."""
    return (
        event("content_block_stop", index=0)
        + event(
            "message_delta",
            delta={"stop_reason": stop_reason, "stop_sequence": None},
            usage=usage(input_tokens, output_tokens),
        )
        + event("message_stop")
    )
