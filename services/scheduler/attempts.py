"""Attempts under way: from the SQL guard that begins one to the SQL guard that ends it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from opentelemetry.trace import Link, SpanKind, get_current_span

from services import telemetry
from services.clock import Clock
from services.pricing import PriceList, Tokens
from services.scheduler.generators import AttemptFailed, Delta, Drawn, Started, Step, Used
from services.scheduler.life import End, LineUnavailable, Request, Requests, Retry, State, Turn, add
from services.scheduler.outcomes import Failure, Trouble, decide
from services.sql import StoreUnavailable

log = logging.getLogger(__name__)

DELTA_MS = 100
"""Pieces of an answer are merged to ten a second."""
CHARACTERS_A_TOKEN = 3.5
LAST_WRITES_S = 5.0
"""How long a stop waits for the ends of attempts to be written."""
STORE_RETRY_MS = 500
STORE_PATIENCE_MS = 60_000
"""How long the end of an attempt waits for SQL before it is left to the sweep."""


class Line(Protocol):
    """What an attempt needs of the order."""

    async def start(self, pool: str, request_id: str, attempt: int, event: Mapping[str, Any]) -> int: ...
    async def append(self, pool: str, request_id: str, attempt: int, events: Iterable[Mapping[str, Any]]) -> int: ...
    async def requeue(
        self, request: Request, input_tokens: int | None, output_tokens: int | None, event: Mapping[str, Any] | None
    ) -> bool: ...
    async def finish(
        self, request: Request, input_tokens: int | None = None, output_tokens: int | None = None
    ) -> int: ...
    async def pause(self, pool: str, length_ms: int, reason: str) -> None: ...
    async def set_limits(self, pool: str, kind: str, limits: Mapping[str, int | None]) -> None: ...
    async def spend(self, pool: str, request_id: str, input_tokens: int, output_tokens: int) -> None: ...


class Workers(Protocol):
    """Whoever can run an attempt."""

    def generate(self, request: Request, timeout_ms: int) -> AsyncIterator[Step]: ...


class _Superseded(Exception):
    """SQL says that this attempt is over; its turns are still paid."""


@dataclass
class _Running:
    request: Request
    task: asyncio.Task[None]
    working: bool = False
    """It was given to a worker, who counts it from then on."""
    ending: bool = False
    """Its end is being written: no longer to be cancelled."""


@dataclass
class _Course:
    """What an attempt has seen so far."""

    request: Request
    turns: list[Turn] = field(default_factory=list)
    started_turn: int = 0
    characters: int = 0
    delivered: bool = False
    pending: list[Delta] = field(default_factory=list)
    flushing: asyncio.Task[None] | None = None

    def used(self) -> tuple[int | None, int | None]:
        """Tokens in and out over all turns; None where nothing was reported."""
        if not self.turns:
            return None, None
        total = Tokens()
        for turn in self.turns:
            total = add(total, turn.tokens)
        return total.input + total.cache_write_5m + total.cache_write_1h, total.output


class Attempts:
    """Runs attempts as tasks of this process."""

    def __init__(
        self,
        requests: Requests,
        line: Line,
        workers: Workers,
        prices: PriceList,
        *,
        clock: Clock,
        random_fraction: Callable[[], float],
        timeout_ms: int,
        on_settlement: Callable[[], None],
    ) -> None:
        self._requests = requests
        self._line = line
        self._workers = workers
        self._prices = prices
        self._clock = clock
        self._random_fraction = random_fraction
        self._timeout_ms = timeout_ms
        self._on_settlement = on_settlement
        self._beginning: set[asyncio.Task[None]] = set()
        self._running: dict[str, _Running] = {}
        self._limits: dict[tuple[str, str], int] = {}
        self._stopping = False

    @property
    def beginning(self) -> int:
        """Attempts that were dispatched and do not use a worker yet."""
        return len(self._beginning) - sum(running.working for running in self._running.values())

    def forget_limits(self) -> None:
        """The line is another one: what the provider's headers said must be said again."""
        self._limits.clear()

    def begin(self, request_id: str, attempts_so_far: int) -> None:
        """Starts an attempt at a request that was just taken from the line."""
        task = asyncio.create_task(self._run(request_id, attempts_so_far))
        self._beginning.add(task)
        task.add_done_callback(self._beginning.discard)

    def held(self, pool: str) -> list[tuple[str, int]]:
        """(id, attempt) of what runs here, for the renewal of leases."""
        return [(i, r.request.attempt) for i, r in self._running.items() if r.request.pool == pool]

    def runs(self, request_id: str) -> bool:
        """Whether this process has an attempt at that request under way."""
        return request_id in self._running

    def abandon(self, request_id: str) -> None:
        """Stops an attempt whose request has ended or moved on."""
        running = self._running.get(request_id)
        if running and not running.ending:
            running.task.cancel()

    async def drain(self, patience_ms: int) -> None:
        """Lets attempts finish for a while, then puts the rest back in line."""
        deadline_ms = self._clock.now_ms() + patience_ms
        while self._beginning and self._clock.now_ms() < deadline_ms:
            await asyncio.wait(self._beginning, timeout=0.2)
        self._stopping = True
        for request_id in list(self._running):
            self.abandon(request_id)
        if self._beginning:
            await asyncio.wait(self._beginning, timeout=LAST_WRITES_S)
        for task in self._beginning:
            # What the database did not take in that time the sweep mends.
            task.cancel()

    async def _run(self, request_id: str, attempts_so_far: int) -> None:
        try:
            request = await self._stored(
                lambda: self._requests.begin(request_id, attempts_so_far, self._clock.now_ms())
            )
        except StoreUnavailable:
            log.warning("%s could not begin: the database is away; its lease will run out", request_id)
            return
        if request is None:
            return
        task = asyncio.current_task()
        assert task is not None
        self._running[request_id] = _Running(request, task)
        if self._stopping:
            task.cancel()
        try:
            with telemetry.tracer().start_as_current_span(
                f"process {request.pool}", context=telemetry.context_of(request.traceparent), kind=SpanKind.CONSUMER,
                links=_links(request.traceparent), attributes=_attributes(request),
            ):  # fmt: skip
                await self._attempt(request)
        except Exception:
            # The lease runs out and the sweep puts the request back: nothing is lost, but somebody must see why.
            log.exception("attempt %d of %s broke", request.attempt, request.request_id)
        finally:
            del self._running[request_id]

    async def _attempt(self, request: Request) -> None:
        course = _Course(request)
        try:
            with suppress(LineUnavailable):
                event = {"type": "processing", "attempt": request.attempt}
                await self._line.start(request.pool, request.request_id, request.attempt, event)
            drawn = await self._follow(course)
            end = End(State.COMPLETED, result=drawn.source, svg=drawn.svg, truncated=drawn.truncated)
            await self._end(course, end)
        except AttemptFailed as failed:
            self._write_end(request)
            await self._observe(request, failed.limits)
            await self._after_failure(course, failed.failure)
        except _Superseded:
            await self._charge(course)
        except asyncio.CancelledError:
            if self._stopping:
                await self._after_failure(course, Failure(Trouble.STOPPED, "The service restarts."))
            else:
                await self._charge(course)
        finally:
            if course.flushing:
                course.flushing.cancel()

    async def _follow(self, course: _Course) -> Drawn:
        if running := self._running.get(course.request.request_id):
            running.working = True
        async with aclosing(self._workers.generate(course.request, self._timeout_ms)) as steps:  # type: ignore[type-var]
            async for step in steps:
                match step:
                    case Started():
                        await self._on_started(course, step)
                    case Delta():
                        self._on_delta(course, step)
                    case Used():
                        course.turns.append(self._turn(course, step))
                    case Drawn():
                        if course.flushing:
                            await course.flushing
                        await self._flush(course)
                        return step
        raise AttemptFailed(Failure(Trouble.LOST, "The worker ended without an answer."))

    async def _on_started(self, course: _Course, step: Started) -> None:
        request, course.started_turn, course.characters = course.request, step.turn, 0
        await self._observe(request, step.limits)
        if step.turn > 1:
            estimate = (request.estimated_input_tokens, request.estimated_output_tokens)
            with suppress(LineUnavailable):
                await self._line.spend(request.pool, request.request_id, *estimate)

    async def _observe(self, request: Request, limits: Mapping[str, int]) -> None:
        """Puts limits that the provider's headers name in force, where they differ from what it named before."""
        news = {d: n for d, n in limits.items() if self._limits.get((request.pool, d)) != n and d != "tokens"}
        if news:
            with suppress(LineUnavailable):
                await self._line.set_limits(request.pool, "header", news)
                self._limits |= {(request.pool, dimension): limit for dimension, limit in news.items()}
                log.info("the provider's limits for pool %s: %s a minute", request.pool, news)

    def _on_delta(self, course: _Course, step: Delta) -> None:
        course.characters += len(step.text)
        course.pending.append(step)
        if course.flushing is None or course.flushing.done():
            course.flushing = asyncio.create_task(self._flush_later(course))

    async def _flush_later(self, course: _Course) -> None:
        while course.pending:
            await self._clock.sleep(DELTA_MS)
            try:
                await self._flush(course)
            except _Superseded:
                self.abandon(course.request.request_id)
            except StoreUnavailable:
                log.warning("a part of %s is not shown: the database is away", course.request.request_id)

    async def _flush(self, course: _Course) -> None:
        """Shows what has come, after noting in SQL that something is shown."""
        pieces, course.pending = course.pending, []
        if not pieces:
            return
        request = course.request
        if not course.delivered:
            course.delivered = await self._requests.deliver(request.request_id, request.attempt)
            if not course.delivered:
                raise _Superseded
        with suppress(LineUnavailable):
            events = [
                {"type": "delta", "text": text, "offset": offset, "attempt": request.attempt}
                for text, offset in _merged(pieces)
            ]
            await self._line.append(request.pool, request.request_id, request.attempt, events)

    def _turn(self, course: _Course, step: Used) -> Turn:
        model = step.model or course.request.model
        try:
            cost = self._prices.cost_nano_usd(model, step.tokens)
        except KeyError:
            model = course.request.model
            cost = self._prices.cost_nano_usd(model, step.tokens)
        now_ms = self._clock.now_ms()
        return Turn(course.request.attempt, step.turn, model, step.tokens, cost, step.estimated, now_ms)

    def _all_turns(self, course: _Course) -> list[Turn]:
        """The turns seen, and an estimate for one that began and whose usage was never told."""
        if course.started_turn > len(course.turns):
            output = max(1, round(course.characters / CHARACTERS_A_TOKEN))
            tokens = Tokens(input=course.request.estimated_input_tokens, output=output)
            step = Used(course.started_turn, course.request.model, tokens, estimated=True)
            course.turns.append(self._turn(course, step))
        return course.turns

    async def _end(self, course: _Course, end: End) -> None:
        request, turns = course.request, self._all_turns(course)
        self._write_end(request)
        ended = await self._stored(
            lambda: self._requests.finish(request.request_id, request.attempt, end, turns, self._clock.now_ms())
        )
        if ended is None:
            await self._charge(course)
            return
        self._on_settlement()
        with suppress(LineUnavailable, StoreUnavailable):
            seq = await self._line.finish(ended, *course.used())
            await self._requests.tell([(ended.request_id, seq)])

    async def _after_failure(self, course: _Course, failure: Failure) -> None:
        now_ms, request = self._clock.now_ms(), course.request
        decision = decide(request, failure, now_ms, self._random_fraction())
        get_current_span().set_attribute("headgate.outcome", failure.trouble.value)
        log.info("attempt %d of %s: %s", request.attempt, request.request_id, failure.trouble.value)
        if decision.pause_ms:
            with suppress(LineUnavailable):
                await self._line.pause(request.pool, decision.pause_ms, decision.pause_reason)
        if isinstance(decision.then, End):
            await self._end(course, decision.then)
        else:
            delay_ms = max(0, decision.then.not_before_ms - now_ms, decision.pause_ms or 0)
            await self._retry(course, decision.then, delay_ms)

    async def _retry(self, course: _Course, retry: Retry, delay_ms: int) -> None:
        request, turns = course.request, self._all_turns(course)
        self._write_end(request)
        queued = await self._stored(
            lambda: self._requests.requeue(request.request_id, request.attempt, retry, turns, self._clock.now_ms())
        )
        if queued is None:
            await self._charge(course)
            return
        event = {"type": "retrying", "reason": retry.reason, "delay": delay_ms, "attempt": request.attempt}
        with suppress(LineUnavailable):
            await self._line.requeue(queued, *(course.used() if turns else (0, 0)), event)

    async def _charge(self, course: _Course) -> None:
        """Pays for the turns of an attempt that SQL no longer knows as running."""
        turns: Sequence[Turn] = self._all_turns(course)
        self._write_end(course.request)
        if turns:
            await self._stored(lambda: self._requests.charge(course.request.request_id, turns))
            self._on_settlement()

    def _write_end(self, request: Request) -> None:
        if running := self._running.get(request.request_id):
            running.ending = True

    async def _stored(self, transaction: Callable[[], Any]) -> Any:
        """Runs a transaction, waiting out a database that is away: its guard makes repeating it safe."""
        give_up_ms = self._clock.now_ms() + STORE_PATIENCE_MS
        while True:
            try:
                return await transaction()
            except StoreUnavailable:
                if self._stopping or self._clock.now_ms() > give_up_ms:
                    raise
                await self._clock.sleep(STORE_RETRY_MS)


def _merged(pieces: Sequence[Delta]) -> list[tuple[str, int]]:
    """Joins pieces that follow each other; a repair begins a new one."""
    merged: list[tuple[str, int]] = []
    turn = 0
    for piece in pieces:
        if merged and piece.turn == turn:
            merged[-1] = (merged[-1][0] + piece.text, merged[-1][1])
        else:
            merged.append((piece.text, piece.offset))
        turn = piece.turn
    return merged


def _links(traceparent: str) -> list[Link]:
    context = get_current_span(telemetry.context_of(traceparent)).get_span_context()
    return [Link(context)] if context.is_valid else []


def _attributes(request: Request) -> dict[str, str | int]:
    return {
        "headgate.request_id": request.request_id,
        "headgate.attempt": request.attempt,
        "headgate.tier": request.tier,
        "messaging.operation.name": "process",
        "messaging.destination.name": request.pool,
    }
