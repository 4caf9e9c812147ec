"""A provider in virtual time behind the real scripts: what the limiter sends, what is refused, what is left unused.

The provider's buckets are the emulator's; between them and the scripts lie a way there, a first byte and an answer.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from services.emulator.limits import INPUT, OUTPUT, REQUESTS, TOKENS, Limits, Rates
from services.scheduler.life import Request, State
from services.scheduler.line import ValkeyLine
from tests.unit.test_scheduler_outcomes import a_request

POOL = "sonnet"
NAMES = {REQUESTS: "requests", TOKENS: "tokens", INPUT: "input_tokens", OUTPUT: "output_tokens"}


@dataclass
class Call:
    """One call at the provider."""

    request: Request
    attempt: int
    input_tokens: int
    output_tokens: int


@dataclass
class Provider:
    """The provider, its clock, and the loop that works against it. Everything happens in `run`."""

    line: ValkeyLine
    limits: Limits
    seed: int = 1
    way_ms: tuple[int, int] = (5, 40)
    first_byte_ms: tuple[int, int] = (300, 900)
    tokens_per_second: float = 80.0
    length: Callable[[random.Random], int] = lambda dice: dice.randint(200, 1_000)
    input_tokens: int = 500
    slots: int = 10_000
    foreign: tuple[float, int] = (0.0, 0)
    """Calls a minute of somebody else with the same key, and output tokens of each."""
    served: list[int] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    output: list[tuple[int, int]] = field(default_factory=list)
    """(when, tokens) as produced."""
    waiting: int = 0
    _events: list[tuple[int, int, Callable[[], object]]] = field(default_factory=list)
    _count: int = 0
    _requests: dict[str, Request] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)

    @property
    def now_ms(self) -> int:
        return int(self.line.virtual_now_ms or 0)

    def at(self, moment_ms: float, what: Callable[[], object]) -> None:
        """Something that happens then."""
        self._count += 1
        heapq.heappush(self._events, (int(moment_ms), self._count, what))

    async def send(self, many: int, **changes: object) -> None:
        """So many requests are accepted now."""
        for _ in range(many):
            self._count += 1
            row = replace(
                a_request(), request_id=f"req_{self._count:06d}", user_id=f"u{self._count % 40}", pool=POOL,
                max_tokens=32_000, estimated_input_tokens=self.input_tokens, estimated_output_tokens=600,
            )  # fmt: skip
            row = replace(row, **changes)  # type: ignore[arg-type]
            self._requests[row.request_id] = row
            await self.line.place(POOL, [row])
        self.waiting += many

    async def run(self, until_ms: int, *, keep_waiting: int = 0) -> None:
        """Goes on until then, or until everything is served."""
        if self.foreign[0] and not self._count_foreign():
            self.at(self.now_ms, self._foreign_call)
        while self.now_ms < until_ms:
            if self.waiting < keep_waiting:
                await self.send(keep_waiting - self.waiting)
            taken = await self.line.dispatch(POOL, 64, self.slots)
            for request_id, attempts in taken.request_ids:
                self.waiting -= 1
                await self._begin(self._requests[request_id], attempts + 1)
            if taken.wait_ms == 0:
                continue
            moments = [self._events[0][0]] if self._events else []
            moments += [self.now_ms + taken.wait_ms] if taken.wait_ms > 0 else []
            if not moments:
                return
            self.line.virtual_now_ms = max(self.now_ms, min(*moments, until_ms) if len(moments) > 1 else moments[0])
            while self._events and self._events[0][0] <= self.now_ms:
                happened = heapq.heappop(self._events)[2]()
                if happened is not None:
                    await happened  # type: ignore[misc]

    def _count_foreign(self) -> bool:
        started, self._foreign_started = getattr(self, "_foreign_started", False), True
        return started

    def _foreign_call(self) -> None:
        per_minute, output = self.foreign
        if self.limits.admit(POOL, self.input_tokens, self.now_ms) is None:
            self.limits.produced(POOL, output, self.now_ms)
        if per_minute:
            self.at(self.now_ms + self.dice.expovariate(per_minute / 60_000), self._foreign_call)

    async def _begin(self, request: Request, attempt: int) -> None:
        await self.line.start(POOL, request.request_id, attempt, {"type": "processing", "attempt": attempt})
        call = Call(request, attempt, self.input_tokens, min(request.max_tokens, self.length(self.dice)))
        self.at(self.now_ms + self.dice.randint(*self.way_ms), lambda: self._arrive(call))

    def _arrive(self, call: Call) -> None:
        exceeded = self.limits.admit(POOL, call.input_tokens, self.now_ms)
        headers = self._headers()
        if exceeded:
            self.refused.append(self.now_ms)
            rest_ms = exceeded.retry_after_s * 1000
            self.at(self.now_ms + self.dice.randint(*self.way_ms), lambda: self._refuse(call, headers, rest_ms))
            return
        self.served.append(self.now_ms)
        self.at(self.now_ms + self.dice.randint(*self.first_byte_ms), lambda: self._answer(call, headers))

    async def _refuse(self, call: Call, headers: Mapping[str, tuple[int, int]], rest_ms: int) -> None:
        row = call.request
        await self.line.answer(POOL, row.request_id, call.attempt, "refused", headers, rest_ms)
        await self.line.requeue(replace(row, attempt=call.attempt), 0, 0, None)
        self.waiting += 1

    async def _answer(self, call: Call, headers: Mapping[str, tuple[int, int]]) -> None:
        await self.line.answer(POOL, call.request.request_id, call.attempt, "begun", headers)
        self._write(call, 0)

    def _write(self, call: Call, written: int) -> None:
        piece = min(call.output_tokens - written, max(1, round(self.tokens_per_second)))
        self.limits.produced(POOL, piece, self.now_ms)
        self.output.append((self.now_ms, piece))
        written += piece
        after_ms = self.now_ms + piece / self.tokens_per_second * 1000
        if written >= call.output_tokens:
            self.at(after_ms, lambda: self._end(call))
        else:
            self.at(after_ms, lambda: self._grow(call, written))

    async def _grow(self, call: Call, written: int) -> None:
        if written > 1.25 * 600:
            await self.line.grow(POOL, call.request.request_id, round(1.2 * written))
        self._write(call, written)

    async def _end(self, call: Call) -> None:
        row = replace(call.request, attempt=call.attempt, state=State.COMPLETED, started_ms=1, ended_ms=8_001)
        await self.line.finish(row, call.input_tokens, call.output_tokens)

    def _headers(self) -> dict[str, tuple[int, int]]:
        sent = self.limits.headers(POOL, self.now_ms)
        prefix = "anthropic-ratelimit-"
        return {
            name: (int(sent[f"{prefix}{header}-limit"]), int(sent[f"{prefix}{header}-remaining"]))
            for header, name in NAMES.items()
            if f"{prefix}{header}-limit" in sent
        }


def provider(line: ValkeyLine, per_minute: Mapping[str, int], *, burst_ms: int = 1_000, **changes: object) -> Provider:
    """A provider with these limits and nobody there yet."""
    rates = Rates(dict(per_minute), request_burst_ms=burst_ms)
    return Provider(line, Limits(rates), **changes)  # type: ignore[arg-type]
