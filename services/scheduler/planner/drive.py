"""Runs the scheduler's own scripts in virtual time: what would happen if these requests came.

Everything but the provider is real: the order and the limits are the scripts on a Valkey, places and waits are what
production would tell. An attempt takes as long and costs as much as the `Provider` given says.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol

from services.pricing import PriceList, Tokens
from services.scheduler.course import Course
from services.scheduler.dispatcher import BATCH
from services.scheduler.intake import FIRST_OUTPUT_TOKENS
from services.scheduler.life import CHARACTERS_A_TOKEN, Request, State
from services.scheduler.line import Identity, ValkeyLine, base_key, connect
from services.scheduler.places import LOOK_MS, Places
from services.scheduler.waits import Place

PLACED = 500
"""By one call of the script."""
START_MS = 1_000_000_000_000
"""When virtual time begins: any moment does."""


@dataclass(frozen=True)
class Arrival:
    """A request that will be sent."""

    at_ms: int
    """Since the start."""
    user: str
    tier: str
    input_tokens: int
    priority: int = 0


@dataclass(frozen=True)
class Answer:
    """What an attempt turned out to be."""

    output_tokens: int
    took_ms: int


class Provider(Protocol):
    """Models the lengths of answers and how long they take."""

    def answer(self, arrival: Arrival) -> Answer:
        """How an attempt at that request goes. Called once for each, when it begins."""
        ...


@dataclass(frozen=True)
class Plan:
    """What is given."""

    limits: Mapping[str, int]
    """By dimension of the scripts; a minute, but for requests_day and concurrency."""
    shares: Mapping[str, int]
    """By tier."""
    slots: int = 64
    caps: Mapping[str, int] = field(default_factory=dict)
    """Requests that a user of a tier may have outstanding; none is refused where a tier has no cap."""

    def cost(self, input_tokens: int, output_tokens: int, took_ms: int) -> float:
        """What an attempt costs of the pool, in provider-seconds; as the scripts have it."""
        need = {"requests": 1, "tokens": input_tokens + output_tokens}
        need |= {"input_tokens": input_tokens, "output_tokens": output_tokens}
        whole = {name: 60 / limit * need[name] for name, limit in self.limits.items() if name in need}
        if "requests_day" in self.limits:
            whole["requests_day"] = 86_400 / self.limits["requests_day"]
        if "concurrency" in self.limits:
            whole["concurrency"] = took_ms / 1000 / self.limits["concurrency"]
        return max(whole.values())


@dataclass
class Journey:
    """What one request went through; times in ms since the start."""

    request_id: str
    arrival: Arrival
    told: Place | None = None
    begun_ms: int | None = None
    ended_ms: int | None = None
    output_tokens: int = 0
    took_ms: int = 0
    cost: float = 0.0
    """What it really cost, in provider-seconds."""

    @property
    def waited_ms(self) -> int | None:
        """From arrival to dispatch."""
        return None if self.begun_ms is None else self.begun_ms - self.arrival.at_ms


Respond = Callable[[Journey], Iterable[Arrival]]
"""What else is sent when a request begins: users who always have work are made of this."""


class _VirtualClock:
    def __init__(self, line: ValkeyLine) -> None:
        self._line = line

    def now_ms(self) -> int:
        return self._line.virtual_now_ms or 0

    async def sleep(self, delay_ms: float) -> None:
        raise AssertionError("nothing sleeps in virtual time")


@asynccontextmanager
async def virtual_line(url: str, pool: str) -> AsyncIterator[ValkeyLine]:
    """A line in virtual time on the Valkey at `url`, whose keys of that pool are deleted first."""
    client = connect(url, None)
    try:
        async for key in client.scan_iter(f"{base_key(pool)}*", count=1000):
            await client.unlink(key)
        await client.hset(f"{base_key(pool)}meta", "epoch", "1")
        yield ValkeyLine(client, Identity(1), virtual_now_ms=START_MS)
    finally:
        await client.aclose()


class Drive:
    """One run; `journeys` is its timeline, in order of arrival."""

    def __init__(self, line: ValkeyLine, pool: str, plan: Plan, provider: Provider) -> None:
        self.line = line
        self.journeys: dict[str, Journey] = {}
        self.refused: list[Arrival] = []
        self._pool = pool
        self._plan = plan
        self._provider = provider
        self.places = Places(line, slots=lambda: plan.slots, clock=_VirtualClock(line))
        self._coming: list[tuple[int, int, Arrival]] = []
        self._running: list[tuple[int, str]] = []
        self._growing: dict[str, Course] = {}
        self._outstanding: Counter[str] = Counter()
        self._sent = self._begun = 0
        self._looked_ms = -LOOK_MS

    async def run(
        self, arrivals: Iterable[Arrival], respond: Respond | None = None, *, until_ms: int | None = None
    ) -> list[Journey]:
        """Until everything has ended, or for so long."""
        await self.line.set_limits(self._pool, "plan", self._plan.limits)
        self._send(arrivals)
        while True:
            now_ms = self._now_ms()
            await self._end_due(now_ms)
            await self._place_due(now_ms)
            again_ms = await self._dispatch(now_ms, respond)
            await self._watch(now_ms)
            moments = [queue[0][0] for queue in (self._coming, self._running) if queue]
            moments += [now_ms + again_ms] if again_ms >= 0 and self._waiting else []
            if not moments or (until_ms is not None and now_ms >= until_ms):
                return list(self.journeys.values())
            self.line.virtual_now_ms = START_MS + max(now_ms + 1, min(moments))

    @property
    def _waiting(self) -> int:
        return len(self.journeys) - self._begun

    def _now_ms(self) -> int:
        return (self.line.virtual_now_ms or 0) - START_MS

    def _send(self, arrivals: Iterable[Arrival]) -> None:
        for arrival in arrivals:
            self._sent += 1
            heapq.heappush(self._coming, (arrival.at_ms, self._sent, arrival))

    async def _place_due(self, now_ms: int) -> None:
        """What comes at the same moment is placed together, and then told: as a commit for many calls does it."""
        due: list[Journey] = []
        while self._coming and self._coming[0][0] <= now_ms:
            _, number, arrival = heapq.heappop(self._coming)
            if self._outstanding[arrival.user] >= self._plan.caps.get(arrival.tier, math.inf):
                self.refused.append(arrival)
                continue
            self._outstanding[arrival.user] += 1
            due.append(Journey(f"req_{number:022d}", arrival))
        for i in range(0, len(due), PLACED):
            await self.line.place(self._pool, [self._row(journey) for journey in due[i : i + PLACED]])
        for journey in due:
            self.journeys[journey.request_id] = journey
            journey.told = (await self.places.of(self._pool, [journey.request_id]))[journey.request_id]

    async def _dispatch(self, now_ms: int, respond: Respond | None) -> int:
        free = self._plan.slots - len(self._running)
        if free <= 0:
            return LOOK_MS
        taken = await self.line.dispatch(self._pool, min(free, BATCH), self._plan.slots)
        for request_id, _ in taken.request_ids:
            journey = self.journeys[request_id]
            answer = self._provider.answer(journey.arrival)
            journey.begun_ms, journey.output_tokens, journey.took_ms = now_ms, answer.output_tokens, answer.took_ms
            self._begun += 1
            await self.line.start(self._pool, request_id, 1, {"type": "processing", "attempt": 1})
            heapq.heappush(self._running, (now_ms + answer.took_ms, request_id))
            self._growing[request_id] = Course(self._row(journey), _FREE)
            self._send(respond(journey) if respond else ())
        return min(taken.wait_ms, LOOK_MS) if taken.wait_ms > 0 else taken.wait_ms

    async def _watch(self, now_ms: int) -> None:
        """At most once a second: somebody watches what waits, and long answers say how they grow."""
        if now_ms - self._looked_ms < LOOK_MS:
            return
        self._looked_ms = now_ms
        if self._waiting:
            await self.places.look(self._pool)
        for request_id, journey in ((i, self.journeys[i]) for _, i in self._running):
            course = self._growing[request_id]
            written = journey.output_tokens * (now_ms - (journey.begun_ms or 0)) / max(1, journey.took_ms)
            course.characters = round(written * CHARACTERS_A_TOKEN)
            if output_tokens := course.growth():
                await self.line.grow(self._pool, request_id, output_tokens)

    async def _end_due(self, now_ms: int) -> None:
        while self._running and self._running[0][0] <= now_ms:
            _, request_id = heapq.heappop(self._running)
            journey = self.journeys[request_id]
            journey.ended_ms = now_ms
            self._outstanding[journey.arrival.user] -= 1
            del self._growing[request_id]
            journey.cost = self._plan.cost(journey.arrival.input_tokens, journey.output_tokens, journey.took_ms)
            await self.line.finish(self._row(journey), journey.arrival.input_tokens, journey.output_tokens)

    def _row(self, journey: Journey) -> Request:
        arrival = journey.arrival
        row = replace(
            _ROW, request_id=journey.request_id, user_id=arrival.user, tier=arrival.tier, pool=self._pool,
            share=self._plan.shares[arrival.tier], priority=arrival.priority,
            estimated_input_tokens=arrival.input_tokens, estimated_output_tokens=FIRST_OUTPUT_TOKENS,
        )  # fmt: skip
        if journey.begun_ms is None:
            return row
        ended_ms = START_MS + (journey.ended_ms or 0)
        return replace(row, attempt=1, state=State.COMPLETED, started_ms=START_MS + journey.begun_ms, ended_ms=ended_ms)


_ROW = Request(
    acceptance=1, request_id="", user_id="", tier="", share=1, pool="", model="", diagram_type="mermaid",
    max_tokens=32_768, priority=0, day="", state=State.QUEUED, attempt=0, failures=0, losses=0, charged_attempt=0,
    delivered=False, final_seq=None, accepted_ms=0, deadline_ms=0, not_before_ms=0, started_ms=None, ended_ms=None,
    has_svg=False, truncated=False, cached=False, error="", code=None, tokens=Tokens(), cost_nano_usd=0,
    cost_estimated=False, estimated_input_tokens=0, estimated_output_tokens=0, traceparent="", work_hash="",
)  # fmt: skip
_FREE = PriceList({})
