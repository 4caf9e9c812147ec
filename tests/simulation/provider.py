"""The Claude API and the workers that call it, as strict as the real one: continuous buckets, a request bucket of a
second, 429 with retry-after, headers, overload, answers that are cut. Its book of calls is the checker's witness."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
from headgate.generator.v1 import generator_pb2 as pb
from headgate.generator.v1.generator_pb2_grpc import GeneratorServiceServicer

from services.rpc.status import Refusal
from services.templates import VERSION
from tests.simulation.faults import Faults
from tests.simulation.loop import Process

BURST_S = {"requests": 1.0}
"""What a full bucket holds; a minute's worth where it is not said."""
MODEL = "claude-sonnet-5-5"
AT_LENGTH, LONG = "at length", 8.0
"""Prompts that end so get answers that are so much longer."""
PIECES = 5
"""Parts that an answer comes in: few, for each is an event of the run."""
HEARTBEAT_S = 3.0
JITTER_S = (0.003, 0.010)
"""From the worker to the provider. At 60 a minute the pace leaves 15 ms: with 5 to 30 ms here 4 to 10% are refused."""
CHARACTERS_A_TOKEN = 3.5


@dataclass
class Call:
    """One call that reached the provider, as the provider remembers it."""

    request_id: str
    attempt: int
    worker: str
    at_s: float
    status: int
    input_tokens: int = 0
    output_tokens: int = 0
    ended_s: float | None = None
    complete: bool = False


@dataclass
class Answer:
    """What a prompt makes the model say; the same for every attempt at it."""

    input_tokens: int
    output_tokens: int
    first_token_s: float
    tokens_a_second: float

    @property
    def length_s(self) -> float:
        return self.first_token_s + self.output_tokens / self.tokens_a_second


@dataclass
class _Bucket:
    per_minute: float
    capacity: float
    level: float
    at_s: float

    def at(self, now_s: float) -> float:
        self.level = min(self.capacity, self.level + (now_s - self.at_s) * self.per_minute / 60)
        self.at_s = now_s
        return self.level

    def wait_s(self, need: float, now_s: float) -> float:
        return max(0.0, min(need, self.capacity) - self.at(now_s)) * 60 / self.per_minute


@dataclass
class Storm:
    """A time in which the provider answers badly: with this status, or by cutting answers, for that part of calls."""

    begin_s: float
    end_s: float
    status: int
    part: float


@dataclass
class ClaudeApi:
    """One key's limits and every call made with it."""

    faults: Faults
    dice: random.Random
    limits: dict[str, float]
    lengths: tuple[float, float, int]
    """Median output tokens, spread (sigma of a log-normal) and the longest."""
    storms: list[Storm] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    full: dict[str, float] = field(default_factory=dict)
    """Use counted by dimension, for the share of a limit that was used."""

    def __post_init__(self) -> None:
        self._buckets = {name: self._bucket(name, limit) for name, limit in self.limits.items()}

    def change(self, limits: dict[str, float]) -> None:
        """New limits, seen by callers in the headers alone."""
        for name, limit in limits.items():
            level, bucket = self._buckets[name].at(self.now_s), self._bucket(name, limit)
            bucket.level = min(level, bucket.capacity)
            self._buckets[name], self.limits[name] = bucket, limit

    @property
    def now_s(self) -> float:
        return self.faults.loop.time()

    def answer_to(self, prompt: str) -> Answer:
        """Random, but a function of the prompt."""
        dice = random.Random(f"{prompt}")
        median, sigma, longest = self.lengths
        median *= LONG if prompt.endswith(AT_LENGTH) else 1
        output = int(min(longest, max(20, median * math.exp(dice.gauss(0, sigma)))))
        read = 380 + int(len(prompt) / CHARACTERS_A_TOKEN * dice.uniform(0.8, 1.2))
        return Answer(read, output, dice.uniform(0.4, 1.6), dice.uniform(60, 120))

    def admit(self, call: Call, read: int) -> float | None:
        """Seconds to wait if the call is refused for a limit; None if it was let in."""
        needs = {"requests": 1, "tokens": read, "input_tokens": read, "output_tokens": 1}
        waits = [bucket.wait_s(needs[name], self.now_s) for name, bucket in self._buckets.items()]
        if max(waits) > 1e-6:
            call.status = 429
            return max(waits)
        for name, bucket in self._buckets.items():
            bucket.level -= 0 if name == "output_tokens" else needs[name]
        return None

    def produce(self, tokens: int) -> None:
        """Output counts as it is made; a bucket may go into debt."""
        for name in ("tokens", "output_tokens"):
            if name in self._buckets:
                self._buckets[name].at(self.now_s)
                self._buckets[name].level -= tokens

    def storm(self) -> int:
        """The status this call ends with if a storm strikes it (200: the answer will be cut), else 0."""
        for storm in self.storms:
            if storm.begin_s <= self.now_s < storm.end_s and self.dice.random() < storm.part:
                return storm.status
        return 0

    def headers(self) -> list[pb.ProviderLimit]:
        """`anthropic-ratelimit-*` as of now."""
        told = []
        for name, bucket in self._buckets.items():
            level = max(0.0, bucket.at(self.now_s))
            remaining = math.floor(level) if name == "requests" else 1000 * math.floor(level / 1000 + 0.5)
            limit = pb.ProviderLimit(
                dimension=f"DIMENSION_{name.upper()}", limit_per_minute=int(bucket.per_minute), remaining=remaining
            )
            limit.reset_after.FromMilliseconds(int(bucket.wait_s(bucket.capacity, self.now_s) * 1000))
            told.append(limit)
        return told

    def _bucket(self, name: str, limit: float) -> _Bucket:
        capacity = max(1.0, limit * BURST_S.get(name, 60.0) / 60)
        return _Bucket(limit, capacity, capacity, self.now_s)


class Worker(GeneratorServiceServicer):
    """One generator process: slots, heartbeats, one call to the provider an attempt."""

    def __init__(self, api: ClaudeApi, owner: Process, slots: int) -> None:
        self._api = api
        self._owner = owner
        self._slots = slots
        self._running = 0
        self.frozen = False
        """It was stopped: its connections stay and it says nothing."""

    async def Probe(self, request: pb.ProbeRequest, context: Any) -> pb.ProbeResponse:
        call = Call("probe", 0, self._owner.name, self._api.now_s, 200)
        if self._api.admit(call, 10) is not None:
            raise _refusal("RATE_LIMITED", 429)
        return pb.ProbeResponse(limits=self._api.headers())

    async def CountTokens(self, request: pb.CountTokensRequest, context: Any) -> pb.CountTokensResponse:
        return pb.CountTokensResponse(input_tokens=self._api.answer_to(request.prompt).input_tokens)

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> AsyncIterator[pb.GenerateResponse]:
        if self._running >= self._slots:
            raise Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "BUSY", "All slots are taken.", "generator.headgate")
        self._running += 1
        try:
            async for step in self._attempt(request):
                while self.frozen:
                    await asyncio.sleep(1)
                yield step
        finally:
            self._running -= 1

    async def _attempt(self, request: pb.GenerateRequest) -> AsyncIterator[pb.GenerateResponse]:
        api = self._api
        await asyncio.sleep(api.dice.uniform(*JITTER_S))
        answer = api.answer_to(request.prompt)
        call = Call(request.request_id, request.attempt, self._owner.name, api.now_s, 200)
        api.calls.append(call)
        struck = api.storm()
        if struck not in (0, 200):
            call.status = struck
            raise _refusal("UNAVAILABLE", struck)
        wait_s = api.admit(call, answer.input_tokens)
        if wait_s is not None:
            api.faults.note(f"{self._owner.name} provider refuses {request.request_id}")
            raise _refusal("RATE_LIMITED", 429, retry_after_s=max(1, math.ceil(wait_s)), limits=api.headers())
        call.input_tokens = answer.input_tokens
        yield pb.GenerateResponse(started=pb.Started(turn=1, limits=api.headers()))
        try:
            async for step in self._speak(call, answer, cut=struck == 200):
                yield step
        finally:
            call.ended_s = api.now_s

    async def _speak(self, call: Call, answer: Answer, *, cut: bool) -> AsyncIterator[pb.GenerateResponse]:
        async for step in _heartbeats(answer.first_token_s):
            yield step
        at, text = 0, f"{call.request_id}.{call.attempt}:"
        for piece in range(1, PIECES + 1):
            if cut and piece == 3:
                raise _refusal("UNAVAILABLE", 200, spent=True)
            share = answer.output_tokens * piece // PIECES - call.output_tokens
            async for step in _heartbeats(share / answer.tokens_a_second):
                yield step
            call.output_tokens += share
            self._api.produce(share)
            part = f"{text}{piece};"
            yield pb.GenerateResponse(delta=pb.Delta(text=part, offset=at, turn=1))
            at += len(part)
        call.complete = True
        yield pb.GenerateResponse(
            usage=pb.Usage(turn=1, model=MODEL, input_tokens=call.input_tokens, output_tokens=call.output_tokens)
        )
        source = "".join(f"{text}{piece};" for piece in range(1, PIECES + 1))
        result = pb.Result(source=source, svg="<svg/>", diagram_type="flowchart", template_version=VERSION)
        yield pb.GenerateResponse(result=result)


async def _heartbeats(length_s: float) -> AsyncIterator[pb.GenerateResponse]:
    while length_s > HEARTBEAT_S:
        await asyncio.sleep(HEARTBEAT_S)
        length_s -= HEARTBEAT_S
        yield pb.GenerateResponse(heartbeat=pb.Heartbeat())
    await asyncio.sleep(length_s)


def _refusal(
    kind: str, status: int, *, retry_after_s: int = 0, spent: bool = False, limits: list[pb.ProviderLimit] | None = None
) -> Refusal:
    failure = pb.UpstreamFailure(
        kind=f"FAILURE_KIND_{kind}", http_status=status, message=f"It was {kind}.", spent_tokens=spent, limits=limits
    )
    if retry_after_s:
        failure.retry_after.FromSeconds(retry_after_s)
    return Refusal(grpc.StatusCode.UNAVAILABLE, kind, "It failed.", "generator.headgate", details=(failure,))
