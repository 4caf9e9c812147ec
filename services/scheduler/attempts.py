"""Attempts under way: from the SQL guard that begins one to the SQL guard that ends it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, Protocol

from opentelemetry.trace import Link, SpanKind, get_current_span

from services import telemetry
from services.clock import Clock
from services.pricing import PriceList
from services.scheduler.account import Account
from services.scheduler.course import Course, merged
from services.scheduler.equals import Equals
from services.scheduler.generators import Asked, AttemptFailed, Delta, Drawn, Started, Step, Used
from services.scheduler.life import End, LineUnavailable, Request, Retry, State, Turn
from services.scheduler.line import Answered, Named
from services.scheduler.outcomes import Failure, Trouble, Witness, decide, rest_ms
from services.scheduler.ports import Requests
from services.sql import StoreUnavailable

log = logging.getLogger(__name__)

DELTA_MS = 100
"""Pieces of an answer are merged to ten a second."""
LAST_WRITES_S = 5.0
"""How long a stop waits for the ends of attempts to be written."""
ANSWERS = {
    Trouble.RATE_LIMITED: "refused",
    Trouble.RAMP_LIMITED: "ramp",
    Trouble.UNAVAILABLE: "failed",
    Trouble.ACCOUNT: "other",
    Trouble.REJECTED: "other",
}
"""What the order is told of a failure; it is not asked about the others."""
STORE_RETRY_MS = 500
STORE_PATIENCE_MS = 60_000
"""How long the end of an attempt waits for SQL before it is left to the sweep."""


class Line(Protocol):
    """What an attempt needs of the order."""

    async def start(self, pool: str, request_id: str, attempt: int, event: Mapping[str, Any]) -> int: ...
    async def append(self, pool: str, request_id: str, attempt: int, events: Iterable[Mapping[str, Any]]) -> int: ...
    async def answer(
        self,
        pool: str,
        request_id: str,
        attempt: int,
        kind: str,
        limits: Named,
        rest_ms: int = 0,
    ) -> Answered: ...
    async def requeue(
        self, request: Request, input_tokens: int | None, output_tokens: int | None, event: Mapping[str, Any] | None,
        *, budgeted: bool = False,
    ) -> bool: ...  # fmt: skip
    async def finish(
        self, request: Request, input_tokens: int | None = None, output_tokens: int | None = None
    ) -> int: ...
    async def parked(self, pool: str, request_id: str) -> list[str]: ...
    async def take_turn(self, pool: str, request_id: str) -> None: ...
    async def grow(self, pool: str, request_id: str, output_tokens: int) -> None: ...
    async def count_spent(self, request: Request) -> None: ...


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


class Attempts:
    """Runs attempts as tasks of this process."""

    def __init__(
        self,
        requests: Requests,
        line: Line,
        workers: Workers,
        account: Account,
        prices: PriceList,
        *,
        clock: Clock,
        random_fraction: Callable[[], float],
        timeout_ms: int,
        on_settlement: Callable[[], None],
        on_refusal: Callable[[str], None],
    ) -> None:
        """`on_refusal` hears of each 429 and its pool."""
        self._requests = requests
        self._on_refusal = on_refusal
        self._equals = Equals(requests, line, clock)
        self._line = line
        self._workers = workers
        self._account = account
        self._prices = prices
        self._clock = clock
        self._random_fraction = random_fraction
        self._timeout_ms = timeout_ms
        self._on_settlement = on_settlement
        self._beginning: set[asyncio.Task[None]] = set()
        self._running: dict[str, _Running] = {}
        self._stopping = False

    @property
    def beginning(self) -> int:
        """Attempts that were dispatched and do not use a worker yet."""
        return len(self._beginning) - sum(running.working for running in self._running.values())

    def begin(self, request_id: str, attempts_so_far: int, send_after_ms: int = 0) -> None:
        """Starts an attempt at a request that was just taken from the line; it is sent no sooner than that."""
        task = asyncio.create_task(self._run(request_id, attempts_so_far, self._clock.now_ms() + send_after_ms))
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

    async def _run(self, request_id: str, attempts_so_far: int, send_at_ms: int) -> None:
        try:
            request = await self._stored(
                lambda: self._requests.begin(request_id, attempts_so_far, self._clock.now_ms())
            )
        except StoreUnavailable:
            log.warning("%s could not begin: the database is away; its lease will run out", request_id)
            return
        if request is None:
            return
        if request.state.ended:
            # An equal one completed since it was taken from the line; nothing is sent, nothing was used.
            self._on_settlement()
            await self._equals.tell([request], End(request.state), (0, 0))
            return
        task = asyncio.current_task()
        assert task is not None
        # One that was lost without our knowing it, and that begins anew right here.
        self.abandon(request_id)
        running = self._running[request_id] = _Running(request, task)
        if self._stopping:
            task.cancel()
        try:
            with telemetry.tracer().start_as_current_span(
                f"process {request.pool}", context=telemetry.context_of(request.traceparent), kind=SpanKind.CONSUMER,
                links=_links(request.traceparent), attributes=_attributes(request),
            ):  # fmt: skip
                await self._attempt(request, send_at_ms)
        except Exception:
            # The lease runs out and the sweep puts the request back: nothing is lost, but somebody must see why.
            log.exception("attempt %d of %s broke", request.attempt, request.request_id)
        finally:
            if self._running.get(request_id) is running:
                del self._running[request_id]

    async def _attempt(self, request: Request, send_at_ms: int) -> None:
        course = Course(request, self._prices)
        try:
            with suppress(LineUnavailable):
                event = {"type": "processing", "attempt": request.attempt}
                await self._line.start(request.pool, request.request_id, request.attempt, event)
            await self._clock.sleep(send_at_ms - self._clock.now_ms())
            drawn = await self._follow(course)
            end = End(State.COMPLETED, None, "", drawn.source, drawn.svg, drawn.truncated, drawn.reusable)
            await self._end(course, end)
        except AttemptFailed as failed:
            self._write_end(request)
            if failed.failure.trouble is Trouble.LOST:
                course.cut(by_us=False)
            await self._after_failure(course, failed.failure, failed.limits)
        except _Superseded:
            course.cut(by_us=True)
            await self._charge(course)
        except asyncio.CancelledError:
            course.cut(by_us=True)
            if self._stopping:
                await self._after_failure(course, Failure(Trouble.STOPPED, "The service restarts."))
            else:
                await self._charge(course)
        finally:
            if course.flushing:
                course.flushing.cancel()

    async def _follow(self, course: Course) -> Drawn:
        if running := self._running.get(course.request.request_id):
            running.working = True
        course.given = True
        async with aclosing(self._workers.generate(course.request, self._timeout_ms)) as steps:  # type: ignore[type-var]
            async for step in steps:
                match step:
                    case Asked():
                        course.asked_turn = step.turn
                    case Started():
                        await self._on_started(course, step)
                    case Delta():
                        self._on_delta(course, step)
                    case Used():
                        course.end_turn(step, self._clock.now_ms())
                    case Drawn():
                        if course.flushing:
                            await course.flushing
                        await self._flush(course)
                        return step
        raise AttemptFailed(Failure(Trouble.LOST, "The worker ended without an answer."))

    async def _on_started(self, course: Course, step: Started) -> None:
        course.start(step.turn)
        with suppress(LineUnavailable):
            if step.turn > 1:
                await self._line.take_turn(course.request.pool, course.request.request_id)
            await self._answered(course.request, "begun", step.limits)

    async def _answered(self, request: Request, kind: str, limits: Named, rest_ms: int = 0) -> Answered:
        found = await self._line.answer(request.pool, request.request_id, request.attempt, kind, limits, rest_ms)
        if found.limits:
            log.info("the provider's limits for pool %s: %s a minute", request.pool, dict(found.limits))
        return found

    def _on_delta(self, course: Course, step: Delta) -> None:
        course.characters += len(step.text)
        course.pending.append(step)
        if course.flushing is None or course.flushing.done():
            course.flushing = asyncio.create_task(self._flush_later(course))

    async def _flush_later(self, course: Course) -> None:
        while course.pending:
            await self._clock.sleep(DELTA_MS)
            try:
                await self._flush(course)
            except _Superseded:
                self.abandon(course.request.request_id)
            except StoreUnavailable:
                log.warning("a part of %s is not shown: the database is away", course.request.request_id)

    async def _flush(self, course: Course) -> None:
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
                for text, offset in merged(pieces)
            ]
            await self._line.append(request.pool, request.request_id, request.attempt, events)
            if output_tokens := course.growth():
                await self._line.grow(request.pool, request.request_id, output_tokens)

    async def _end(self, course: Course, end: End) -> None:
        request, turns = course.request, course.all_turns(self._clock.now_ms())
        self._write_end(request)
        parked = await self._equals.parked(request, end)
        ended = await self._stored(
            lambda: self._requests.finish(request.request_id, request.attempt, end, turns, self._clock.now_ms(), parked)
        )
        if not ended:
            await self._charge(course)
            return
        self._on_settlement()
        await self._equals.tell(ended, end, course.used())

    async def _after_failure(self, course: Course, failure: Failure, limits: Named | None = None) -> None:
        request = course.request
        get_current_span().set_attribute("headgate.outcome", failure.trouble.value)
        log.info("attempt %d of %s: %s", request.attempt, request.request_id, failure.trouble.value)
        witness = await self._ask_pool(request, failure, limits or {})
        now_ms = self._clock.now_ms()
        then = decide(request, failure, witness, now_ms, self._random_fraction())
        if isinstance(then, End):
            await self._end(course, then)
        else:
            await self._retry(course, then, max(0, then.not_before_ms - now_ms, rest_ms(failure)))

    async def _ask_pool(self, request: Request, failure: Failure, limits: Named) -> Witness:
        works = failure.trouble is Trouble.ACCOUNT and await self._account.works(request.pool, request.model)
        kind = ANSWERS.get(failure.trouble)
        if kind in ("refused", "ramp"):
            self._on_refusal(request.pool)
        if kind:
            with suppress(LineUnavailable):
                saw = await self._answered(request, kind, limits, rest_ms(failure))
                return Witness(saw.refusals, saw.denied, saw.broken, works)
        return Witness(account_works=works)

    async def _retry(self, course: Course, retry: Retry, delay_ms: int) -> None:
        request, turns = course.request, course.all_turns(self._clock.now_ms())
        self._write_end(request)
        queued = await self._stored(
            lambda: self._requests.requeue(request.request_id, request.attempt, retry, turns, self._clock.now_ms())
        )
        if queued is None:
            await self._charge(course)
            return
        event = {"type": "retrying", "reason": retry.reason, "delay": delay_ms, "attempt": request.attempt}
        used = course.used() if turns else (0, 0)
        with suppress(LineUnavailable):
            await self._line.requeue(queued, *used, event, budgeted=retry.budgeted)

    async def _charge(self, course: Course) -> None:
        """Pays for the turns of an attempt that SQL no longer knows as running."""
        turns: Sequence[Turn] = course.all_turns(self._clock.now_ms())
        request = course.request
        self._write_end(request)
        # Also where there are none: else the sweep would take them for unpaid.
        await self._stored(lambda: self._requests.charge(request.request_id, request.attempt, turns))
        if turns:
            self._on_settlement()
            with suppress(LineUnavailable):
                await self._line.count_spent(course.request)

    def _write_end(self, request: Request) -> None:
        running = self._running.get(request.request_id)
        if running and running.request.attempt == request.attempt:
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
