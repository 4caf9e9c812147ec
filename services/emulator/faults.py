"""Faults on demand: what goes wrong, how often, and for whom."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

STATUSES = {
    "400": (400, "invalid_request_error", "This request cannot be processed."),
    "401": (401, "authentication_error", "invalid x-api-key"),
    "402": (402, "billing_error", "Your credit balance is too low to access the Claude API."),
    "403": (403, "permission_error", "Your API key does not have permission to use this resource."),
    "404": (404, "not_found_error", "Not found."),
    "408": (408, "timeout_error", "Request timeout."),
    "413": (413, "request_too_large", "Request exceeds the maximum allowed number of bytes."),
    "429": (429, "rate_limit_error", "This request would exceed your organization's rate limit."),
    "429_ramp": (429, "rate_limit_error", "Your usage rises too fast. Please ramp up more slowly."),
    "spend_cap": (429, "rate_limit_error", "You have reached the monthly spend limit of your usage tier."),
    "spend_limit": (400, "invalid_request_error", "You have reached your specified API usage limits."),
    "500": (500, "api_error", "Internal server error"),
    "502": (502, "api_error", "Bad gateway"),
    "503": (503, "api_error", "Service unavailable"),
    "504": (504, "timeout_error", "The request took too long."),
    "529": (529, "overloaded_error", "Overloaded"),
}
"""Refusals before an answer begins: status, type, message."""
CODES = {"429_ramp": "ramp_limit_exceeded", "spend_cap": "enforced_spend_limit_reached"}
ANSWERS = {
    "cut", "silence", "mute", "error_event", "not_json", "no_stop", "refusal", "bad_diagram", "bad_diagram_always",
    "max_tokens", "slow",
}  # fmt: skip
"""Faults of an answer. `silence` stops inside the stream, `mute` never answers at all."""
ASKED_FAULT = re.compile(r"\[emulate (\w+)\]")
"""How a prompt asks for a fault, to show one in the studio."""
MOST_FAULTS = 100
MOST_PROMPTS = 1_000


@dataclass
class Fault:
    """One fault that was asked for."""

    name: str
    times: int = 1
    probability: float = 1.0
    match: str = ""
    """Only requests whose text contains this."""
    retry_after_s: float | None = None
    after_tokens: int = 5
    tokens_per_second: float = 2.0
    """Of `slow`."""

    @property
    def refuses(self) -> bool:
        """Whether it refuses the request before an answer begins."""
        return self.name in STATUSES


class Faults:
    """Those still to come."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._waiting: list[Fault] = []
        self._met: dict[str, None] = {}

    def add(self, fault: Fault) -> None:
        """ValueError if there is no such fault, its figures make no sense, or there are too many."""
        if fault.name not in STATUSES and fault.name not in ANSWERS:
            raise ValueError(f"fault: one of {', '.join(sorted({*STATUSES, *ANSWERS}))}")
        figures = (
            fault.times,
            fault.probability,
            fault.after_tokens,
            fault.tokens_per_second,
            fault.retry_after_s or 0,
        )
        if (
            not all(isinstance(figure, int | float) and figure >= 0 for figure in figures)
            or not fault.tokens_per_second
        ):
            raise ValueError(
                "times, probability, retry_after, after_tokens and tokens_per_second are numbers from 0 up"
            )
        if len(self._waiting) >= MOST_FAULTS:
            raise ValueError(f"fault: at most {MOST_FAULTS} at a time")
        self._waiting.append(fault)

    def clear(self) -> None:
        """Nothing goes wrong any more."""
        self._waiting.clear()
        self._met.clear()

    def next(self, text: str) -> Fault | None:
        """The fault that this request meets, if any."""
        for fault in self._waiting:
            if fault.match in text and self._rng.random() < fault.probability:
                fault.times -= 1
                if fault.times <= 0:
                    self._waiting.remove(fault)
                return fault
        return self._asked_for(text)

    def _asked_for(self, text: str) -> Fault | None:
        """ "[emulate 529]" in a prompt fails every other time, so that a retry is seen to succeed."""
        asked = ASKED_FAULT.search(text)
        if asked is None or (asked[1] not in STATUSES and asked[1] not in ANSWERS):
            return None
        if text in self._met:
            del self._met[text]
            return None
        if len(self._met) >= MOST_PROMPTS:
            del self._met[next(iter(self._met))]
        self._met[text] = None
        return Fault(asked[1])
