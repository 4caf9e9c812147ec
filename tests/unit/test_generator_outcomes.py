"""Which failure an upstream answer means, and what people are told."""

from __future__ import annotations

import pytest

from services.generator.outcomes import FailureKind as K
from services.generator.outcomes import Limit, classify, limits_of, retry_after_ms, told

NOW_MS = 1_800_000_000_000


@pytest.mark.parametrize(
    ("status", "code", "message", "named_delay", "kind"),
    [
        (429, "", "rate limit", True, K.RATE_LIMITED),
        (429, "", "rate limit", False, K.RATE_LIMITED),
        (429, "ramp_limit_exceeded", "", True, K.RAMP_LIMITED),
        (429, "enforced_spend_limit_reached", "", False, K.ACCOUNT),
        (429, "", "You have reached the monthly spend limit", False, K.ACCOUNT),
        (400, "", "You have reached your specified API usage limits. You will regain access", False, K.ACCOUNT),
        (401, "", "invalid x-api-key", False, K.ACCOUNT),
        (402, "", "", False, K.ACCOUNT),
        (403, "", "", False, K.ACCOUNT),
        (400, "", "max_tokens: too large", False, K.REJECTED),
        (404, "", "model: x", False, K.REJECTED),
        (409, "", "", False, K.REJECTED),
        (413, "", "", False, K.REJECTED),
        (422, "", "", False, K.REJECTED),
        (408, "", "", False, K.UNAVAILABLE),
        (500, "", "", False, K.UNAVAILABLE),
        (502, "", "", False, K.UNAVAILABLE),
        (503, "", "", True, K.UNAVAILABLE),
        (504, "", "", False, K.UNAVAILABLE),
        (529, "", "Overloaded", False, K.UNAVAILABLE),
        (200, "", "Overloaded", False, K.UNAVAILABLE),
        (304, "", "", False, K.UNAVAILABLE),
    ],
)
def test_classify(status: int, code: str, message: str, named_delay: bool, kind: K) -> None:
    assert classify(status, code, message, named_delay=named_delay) is kind


@pytest.mark.parametrize(
    ("header", "delay_ms"),
    [
        ("7", 7_000), ("0.5", 500), ("0", 0), ("-3", 0), ("9" * 12, 86_400_000), ("nan", None), ("soon", None),
        ("Fri, 15 Jan 2027 08:00:05 GMT", 5_000), ("inf", 86_400_000),
    ],
)  # fmt: skip
def test_retry_after(header: str, delay_ms: int | None) -> None:
    assert retry_after_ms({"retry-after": header}, NOW_MS) == delay_ms


def test_no_retry_after_names_no_delay() -> None:
    assert retry_after_ms({}, NOW_MS) is None


def test_limits_are_read_and_malformed_ones_left_out() -> None:
    headers = {
        "anthropic-ratelimit-requests-limit": "100",
        "anthropic-ratelimit-requests-remaining": "42",
        "anthropic-ratelimit-requests-reset": "2027-01-15T08:00:30Z",
        "anthropic-ratelimit-input-tokens-limit": "many",
        "anthropic-ratelimit-input-tokens-remaining": "1",
        "anthropic-ratelimit-input-tokens-reset": "2027-01-15T08:00:30Z",
        "anthropic-ratelimit-output-tokens-limit": "100",
    }
    assert limits_of(headers, NOW_MS) == (Limit("requests", 100, 42, 30_000),)


def test_people_are_told_the_providers_words_without_prompt_or_key() -> None:
    prompt = "draw my  secret plan"
    text = told(K.REJECTED, "messages.0: draw my secret plan is bad for sk-ant-abc_1-2", (prompt, ""))
    assert text == "The provider rejected this request: messages.0: … is bad for …"
    assert "secret" not in told(K.UNAVAILABLE, "draw my secret plan", ())
    assert len(told(K.REJECTED, "x" * 9_999, ())) < 400
