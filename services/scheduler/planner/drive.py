"""Runs the scheduler's own scripts in virtual time: what would happen if these requests came.

Everything but the provider is real: the order and the limits are the scripts on a Valkey, places and waits are what
production would tell. An attempt takes as long and costs as much as the `Provider` given says.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from services.clock import DAY_MS
from services.pricing import PriceList, Tokens
from services.scheduler.course import Course
from services.scheduler.dispatcher import BATCH
from services.scheduler.intake import FIRST_OUTPUT_TOKENS
from services.scheduler.life import CHARACTERS_A_TOKEN, Request, State
from services.scheduler.places import LOOK_MS, Places
from services.scheduler.planner.virtual import START_MS, VirtualLine
from services.scheduler.waits import Place, read_view

PLACED = 500
"""By one call of the script."""
LEARNED = 20
"""Endings after which it is asked again how long answers are in the mean: finish.lua weighs the last twenty."""
OUTSTANDING, DAY = "outstanding", "requests_per_day"
"""Why a request is refused."""


@dataclass(frozen=True)
class Answer:
    """What an attempt turned out to be."""

    output_tokens: int
    took_ms: int


@dataclass(frozen=True)
class Arrival:
    """A request that will be sent."""

    at_ms: int
    """Since the start."""
    user: str
    tier: str
    input_tokens: int
    priority: int = 0
    kind: str = "mermaid"
    answer: Answer | None = None
    """How it will go, where that is known before."""


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
    daily: Mapping[str, int] = field(default_factory=dict)
    """Requests that a user of a tier may have completed in a day."""
    max_wait_ms: int | None = None
    """After which a request that still waits expires."""

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
    def __init__(self, line: VirtualLine) -> None:
        self._line = line

    def now_ms(self) -> int:
        return self._line.virtual_now_ms or 0

    async def sleep(self, delay_ms: float) -> None:
        raise AssertionError("nothing sleeps in virtual time")


class Drive:
    """One run; `journeys` is its timeline, in order of arrival."""

    def __init__(
        self, line: VirtualLine, pool: str, plan: Plan, provider: Provider, *, watched: bool = True
    ) -> None:  # fmt: skip
        """`watched`: each is told its place when it comes, and somebody looks along the line each second."""
        self.line = line
        self.journeys: dict[str, Journey] = {}
        self.refused: Counter[tuple[str, str]] = Counter()
        """By tier and why."""
        self._pool = pool
        self._plan = plan
        self._provider = provider
        self.places = Places(line, slots=lambda: plan.slots, clock=_VirtualClock(line))
        self._watched = watched
        self._coming: list[tuple[int, int, Arrival]] = []
        self._running: list[tuple[int, str]] = []
        self._growing: list[tuple[int, str]] = []
        self._expiring: list[tuple[int, str]] = []
        self._rows: dict[str, Request] = {}
        """Of those that have not ended."""
        self._courses: dict[str, Course] = {}
        self._waiting: Counter[str] = Counter()
        """By tier."""
        self._outstanding: Counter[str] = Counter()
        self._places_taken: Counter[tuple[str, int]] = Counter()
        """By user and day."""
        self._again_ms = math.inf
        """When to dispatch again."""
        self._sent = self._ended = 0
        self._mean_output = FIRST_OUTPUT_TOKENS
        self._looked_ms = -LOOK_MS

    async def run(
        self, arrivals: Iterable[Arrival], respond: Respond | None = None, *, until_ms: int | None = None
    ) -> list[Journey]:
        """Until everything has ended, or for so long."""
        with self.line.hurrying():
            await self.line.set_limits(self._pool, "plan", self._plan.limits)
            # The first look at a bucket starts its clock.
            await self.line.dispatch(self._pool, 0, self._plan.slots)
            self._send(arrivals)
            while True:
                now_ms = self._now_ms()
                await self._end_due(now_ms)
                await self._expire_due(now_ms)
                await self._place_due(now_ms)
                await self._grow_due(now_ms)
                if self._again_ms <= now_ms:
                    await self._dispatch(now_ms, respond)
                if self._watched:
                    await self._look(now_ms)
                moments = [queue[0][0] for queue in self._queues if queue]
                moments += [int(self._again_ms)] if self._again_ms < math.inf else []
                if not moments or (until_ms is not None and now_ms >= until_ms):
                    return list(self.journeys.values())
                self.line.virtual_now_ms = START_MS + max(now_ms + 1, min(moments))

    @property
    def _queues(self) -> tuple[list[tuple[int, int, Arrival]] | list[tuple[int, str]], ...]:
        return self._coming, self._running, self._growing, self._expiring

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
            if self._accept(arrival):
                due.append(Journey(f"req_{number:022d}", arrival))
        for journey in due:
            tier = journey.arrival.tier
            self.journeys[journey.request_id] = journey
            self._rows[journey.request_id] = self._row(journey)
            # Behind another one of its tier: when to look again is known already.
            if not self._waiting[tier]:
                self._again_ms = now_ms
            self._waiting[tier] += 1
            if self._plan.max_wait_ms is not None:
                heapq.heappush(self._expiring, (journey.arrival.at_ms + self._plan.max_wait_ms, journey.request_id))
        parts = [due[i : i + PLACED] for i in range(0, len(due), PLACED)]
        for part in parts:
            await self.line.place(self._pool, [self._rows[journey.request_id] for journey in part])
        for part in parts if self._watched else ():
            told = await self.places.of(self._pool, [journey.request_id for journey in part])
            for journey in part:
                journey.told = told[journey.request_id]

    def _accept(self, arrival: Arrival) -> bool:
        """Takes a place of the user's day and one of those they may have outstanding, or none."""
        today = (arrival.user, arrival.at_ms // DAY_MS)
        for taken, limit, why in (
            (self._places_taken[today], self._plan.daily.get(arrival.tier), DAY),
            (self._outstanding[arrival.user], self._plan.caps.get(arrival.tier), OUTSTANDING),
        ):
            if limit is not None and taken >= limit:
                self.refused[arrival.tier, why] += 1
                return False
        self._places_taken[today] += 1
        self._outstanding[arrival.user] += 1
        return True

    async def _dispatch(self, now_ms: int, respond: Respond | None) -> None:
        """As long as something may go now."""
        self._again_ms = math.inf
        while (free := self._plan.slots - len(self._running)) > 0:
            taken = await self.line.dispatch(self._pool, min(free, BATCH), self._plan.slots)
            for request_id, _ in taken.request_ids:
                await self._begin(self.journeys[request_id], now_ms, respond)
            if taken.wait_ms > 0:
                self._again_ms = now_ms + taken.wait_ms
            if taken.wait_ms != 0:
                return

    async def _begin(self, journey: Journey, now_ms: int, respond: Respond | None) -> None:
        answer, request_id = self._provider.answer(journey.arrival), journey.request_id
        journey.begun_ms, journey.output_tokens, journey.took_ms = now_ms, answer.output_tokens, answer.took_ms
        self._waiting[journey.arrival.tier] -= 1
        heapq.heappush(self._running, (now_ms + answer.took_ms, request_id))
        self._courses[request_id] = Course(self._rows[request_id], _FREE)
        if self._grows(journey):
            # It opens the log, which nobody reads here; but only what is open can grow.
            await self.line.start(self._pool, request_id, 1, {"type": "processing", "attempt": 1})
        self._send(respond(journey) if respond else ())

    def _strains_tokens(self, journey: Journey) -> bool:
        """Whether it needs more of a limit of tokens than of requests. If not, it costs the same however long it gets,
        and what it gives back lets nobody go: a third of all scripts would be run for nothing."""
        return self._plan.cost(journey.arrival.input_tokens, journey.output_tokens, 0) > self._plan.cost(0, 0, 0)

    def _grows(self, journey: Journey) -> bool:
        """Whether it will be (once more) notably longer than assumed; written evenly, it is known when."""
        if not self._strains_tokens(journey):
            return False
        part = self._courses[journey.request_id].grows_at / max(1, journey.output_tokens)
        if part < 1:
            at_ms = (journey.begun_ms or 0) + math.ceil(part * journey.took_ms)
            heapq.heappush(self._growing, (at_ms, journey.request_id))
        return part < 1

    async def _grow_due(self, now_ms: int) -> None:
        while self._growing and self._growing[0][0] <= now_ms:
            _, request_id = heapq.heappop(self._growing)
            if course := self._courses.get(request_id):
                course.characters = math.ceil(course.grows_at * CHARACTERS_A_TOKEN)
                await self.line.grow(self._pool, request_id, course.growth() or 0)
                self._grows(self.journeys[request_id])

    async def _look(self, now_ms: int) -> None:
        """At most once a second: somebody watches what waits."""
        if now_ms - self._looked_ms >= LOOK_MS:
            self._looked_ms = now_ms
            if self._waiting.total():
                await self.places.look(self._pool)

    async def _end_due(self, now_ms: int) -> None:
        while self._running and self._running[0][0] <= now_ms:
            _, request_id = heapq.heappop(self._running)
            journey, row = self.journeys[request_id], self._rows.pop(request_id)
            journey.ended_ms = now_ms
            self._outstanding[journey.arrival.user] -= 1
            del self._courses[request_id]
            used = (journey.arrival.input_tokens, journey.output_tokens)
            journey.cost = self._plan.cost(*used, journey.took_ms)
            began_ms = START_MS + (journey.begun_ms or 0)
            row = replace(row, attempt=1, state=State.COMPLETED, started_ms=began_ms, ended_ms=START_MS + now_ms)
            await self.line.finish(row, *used)
            self._ended += 1
            if self._ended % LEARNED == 0:
                self._mean_output = round(read_view(await self.line.view(self._pool)).mean_output or self._mean_output)
            # It gave back what it did not use, and the slot that it took.
            if self._again_ms == math.inf or "concurrency" in self._plan.limits or self._strains_tokens(journey):
                self._again_ms = now_ms if self._waiting.total() else math.inf

    async def _expire_due(self, now_ms: int) -> None:
        while self._expiring and self._expiring[0][0] <= now_ms:
            _, request_id = heapq.heappop(self._expiring)
            journey = self.journeys[request_id]
            if journey.begun_ms is not None:
                continue
            journey.ended_ms = now_ms
            self._waiting[journey.arrival.tier] -= 1
            self._outstanding[journey.arrival.user] -= 1
            # What did not complete is not counted.
            self._places_taken[journey.arrival.user, journey.arrival.at_ms // DAY_MS] -= 1
            await self.line.finish(replace(self._rows.pop(request_id), state=State.EXPIRED))

    def _row(self, journey: Journey) -> Request:
        arrival = journey.arrival
        return replace(
            _ROW, request_id=journey.request_id, user_id=arrival.user, tier=arrival.tier, pool=self._pool,
            share=self._plan.shares[arrival.tier], priority=arrival.priority, diagram_type=arrival.kind,
            estimated_input_tokens=arrival.input_tokens, estimated_output_tokens=self._mean_output,
        )  # fmt: skip


_ROW = Request(
    acceptance=1, request_id="", user_id="", tier="", share=1, pool="", model="", diagram_type="mermaid",
    max_tokens=32_768, priority=0, day="", state=State.QUEUED, attempt=0, failures=0, losses=0, charged_attempt=0,
    delivered=False, final_seq=None, accepted_ms=0, deadline_ms=0, not_before_ms=0, started_ms=None, ended_ms=None,
    has_svg=False, truncated=False, cached=False, error="", code=None, tokens=Tokens(), cost_nano_usd=0,
    cost_estimated=False, estimated_input_tokens=0, estimated_output_tokens=0, traceparent="", work_hash="",
)  # fmt: skip
_FREE = PriceList({})
