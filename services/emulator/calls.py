"""The emulator's own book of calls: what an independent checker compares with."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import Any

MOST_CALLS = 100_000

COMPLETE, CUT, CLIENT_CLOSED = "complete", "cut", "client_closed"


@dataclass(slots=True)
class Call:
    """One call of POST /v1/messages, whatever became of it."""

    number: int
    time_ms: int
    model: str
    status: int
    prompt_digest: bytes
    """SHA-256 of the last user text."""
    input_tokens: int = 0
    output_tokens: int = 0
    """As reported to the client, or, if the stream ended before that, as produced."""
    conversation_digest: bytes = b""
    """SHA-256 of the first user text: a repair has that of what it repairs."""
    ended: str = ""
    """complete, cut or client_closed; empty while it runs."""
    fault: str = ""

    def view(self) -> dict[str, Any]:
        """As JSON."""
        names = ("number", "time_ms", "model", "status", "input_tokens", "output_tokens", "ended", "fault")
        hashes = {"prompt_hash": self.prompt_digest.hex(), "conversation_hash": self.conversation_digest.hex()}
        return {**{name: getattr(self, name) for name in names}, **hashes}


class Calls:
    """The last hundred thousand calls and totals of all."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forgets everything but what runs."""
        self._kept: deque[Call] = deque(maxlen=MOST_CALLS)
        self._statuses: Counter[int] = Counter()
        self._ends: Counter[str] = Counter()
        self._number = self._input = self._output = 0
        self.running = self.peak_running = getattr(self, "running", 0)

    def begin(self, time_ms: int, model: str, status: int, prompt_digest: bytes, fault: str) -> Call:
        """Notes a call whose status is known."""
        self._number += 1
        call = Call(self._number, time_ms, model, status, prompt_digest, fault=fault)
        self._kept.append(call)
        self._statuses[status] += 1
        self.running += 1
        self.peak_running = max(self.peak_running, self.running)
        return call

    def end(self, call: Call, ended: str) -> None:
        """Notes how it ended."""
        call.ended = ended
        self.running -= 1
        self._ends[ended] += 1
        self._input += call.input_tokens
        self._output += call.output_tokens

    def view(self, after: int, limit: int) -> dict[str, Any]:
        """Totals, and at most `limit` calls whose number is above `after`."""
        calls = [call.view() for call in self._kept if call.number > after][:limit]
        totals = {
            "count": self._number,
            "running": self.running,
            "peak_running": self.peak_running,
            "input_tokens": self._input,
            "output_tokens": self._output,
            "statuses": {str(status): count for status, count in self._statuses.items()},
            "ended": dict(self._ends),
        }
        return {"totals": totals, "calls": calls}
