"""Accepting requests and answering about them: what the servicer asks for, in the domain's words."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from services.clock import Clock
from services.pricing import PriceList
from services.scheduler.life import CHARACTERS_A_TOKEN, LineUnavailable, Refused, Request, State, Submission, TierTerms
from services.scheduler.line import ValkeyLine
from services.scheduler.places import Places
from services.scheduler.ports import Requests
from services.scheduler.providers import Provider
from services.scheduler.sameness import Sameness
from services.scheduler.spend import Spend
from services.scheduler.waits import Place, PoolView
from services.sql import StoreUnavailable

log = logging.getLogger(__name__)

PROMPT_CHARACTERS = 100_000
MAX_TOKENS = 32_768
TEMPLATE_TOKENS = 400
"""What a prompt template adds to the user's words, roughly; settled to the real figure afterwards."""
FIRST_OUTPUT_TOKENS = 600
"""Length of a diagram before the first was seen; never max_tokens, which would starve the pool."""
_KINDS = "flowchart sequence class state er gantt mindmap pie journey timeline quadrant gitgraph c4 block"
DIAGRAM_TYPES = frozenset([*_KINDS.split(), "architecture", "sankey", "mermaid"])
LOOKS_LONG = 2
"""A backlog of so small a part of the longest wait calls for an exact look: others may leave us half of the key."""
STORAGE = "storage"
UNKNOWN_WAIT_MS = 10_000
"""Told, with `paused`, while the store of the order is away."""


CountTokens = Callable[[str, str, str], Awaitable[int | None]]
"""(model, diagram type, prompt) to the provider's count; None if it cannot be had."""


@dataclass(frozen=True)
class Rules:
    """What is configured."""

    provider: Provider
    prices: PriceList
    default_model: str
    queue_length: int
    longest_wait_ms: int
    """Nothing more is accepted while a request would wait longer."""
    sameness: Sameness


@dataclass(frozen=True)
class Work:
    """What is asked for, unchecked."""

    prompt: str
    diagram_type: str
    model: str
    max_tokens: int


@dataclass(frozen=True)
class Models:
    """Which models a tier may name beside the default one."""

    named: frozenset[str]
    every: bool


class Intake:
    """The requests' front desk."""

    def __init__(
        self,
        requests: Requests,
        line: ValkeyLine,
        rules: Rules,
        places: Places,
        count_tokens: CountTokens,
        spend: Spend,
        *,
        clock: Clock,
    ) -> None:
        self._requests = requests
        self._line = line
        self._rules = rules
        self._places = places
        self._count_tokens = count_tokens
        self._spend = spend
        self._clock = clock
        self._placing: set[asyncio.Task[None]] = set()

    def check(self, work: Work, models: Models) -> tuple[Work, str]:
        """The work with its defaults filled in, and its pool. `Refused` says which field is wrong."""
        model = work.model or self._rules.default_model
        pool = self._rules.provider.pool_of(model)
        if pool is None or model not in self._rules.prices.models:
            raise Refused("UNKNOWN_MODEL", f"There is no model '{model}' here.", figures={"field": "options.model"})
        if not (models.every or model == self._rules.default_model or model in models.named):
            raise Refused("MODEL_NOT_ALLOWED", f"Your plan does not include the model '{model}'.")
        if not work.prompt.strip():
            raise _invalid("prompt", "Say what should be drawn.")
        if len(work.prompt) > PROMPT_CHARACTERS:
            raise Refused("TOO_LARGE", f"The prompt may have at most {PROMPT_CHARACTERS} characters.")
        if work.diagram_type not in DIAGRAM_TYPES:
            raise _invalid("diagramType", f"'{work.diagram_type}' is not a kind of diagram.")
        if not 1 <= work.max_tokens <= MAX_TOKENS:
            raise _invalid("options.maxTokens", f"It must be from 1 to {MAX_TOKENS}.")
        return replace(work, model=model), pool

    def estimate(self, work: Work, pool: str) -> tuple[int, int]:
        """Tokens in and out that a request will probably use."""
        view = self._places.known(pool)
        output = min(work.max_tokens, round((view.mean_output if view else None) or FIRST_OUTPUT_TOKENS))
        return TEMPLATE_TOKENS + round(len(work.prompt) / CHARACTERS_A_TOKEN), output

    def cache_key(self, user_id: str, work: Work) -> str | None:
        """What a request has in common with its equals; None: it has none."""
        return self._rules.sameness.key(user_id, work.prompt, work.diagram_type, work.model, work.max_tokens)

    async def submit(self, submission: Submission) -> tuple[Request, Place, bool]:
        """Accepts a request for good; (request, place, whether it was accepted before)."""
        await self._fits(submission)
        full = await self._no_room(submission)
        request, replayed = await self._requests.submit(submission, self._clock.now_ms(), full)
        if replayed:
            return request, await self.place(request), True
        if request.state.ended:
            await self._tell(request)
            return request, Place(0, 0), False
        try:
            await self._spend.accepted(self._line, request.user_id, submission.tier)
            await self._line.place(request.pool, [request])
        except LineUnavailable:
            # Accepted all the same: a placer tries again by itself, and the sweep after it.
            self._place_later(request)
        return request, await self.place(request), False

    async def _tell(self, request: Request) -> None:
        """Sends the final event of one whose answer was known; what fails here a sweep repeats."""
        with suppress(LineUnavailable, StoreUnavailable):
            await self._requests.tell([(request.request_id, await self._line.finish(request))])

    async def settled(self, submission: Submission) -> tuple[Request, Place, bool]:
        """The request of a reservation that is settled already; nothing is inserted."""
        request = await self._requests.get(submission.request_id)
        if request is None or request.user_id != submission.user_id:
            raise Refused("NOT_FOUND", "This request was erased or never accepted; send it with a new key.")
        if submission.idempotent and request.work_hash != submission.work_hash:
            raise Refused("IDEMPOTENCY_CONFLICT", "This Idempotency-Key was used for a different request.")
        return request, await self.place(request), True

    async def place(self, request: Request) -> Place:
        """Where a request stands now."""
        if request.state is not State.QUEUED:
            return Place(0, 0)
        places = await self.places(request.pool, [request.request_id])
        # Already taken from the line, its attempt not begun in SQL: next by any measure.
        return places.get(request.request_id, Place(1, 0))

    async def places(self, pool: str, request_ids: Sequence[str]) -> dict[str, Place]:
        """Where those of the requests stand that are queued."""
        try:
            return await self._places.of(pool, request_ids)
        except LineUnavailable:
            return await self._places_by_count(pool, request_ids)

    async def would_be(self, user_id: str, tier: str, model: str) -> Place:
        """The place a request sent now would get."""
        work, pool = self.check(Work("x", "mermaid", model, 2048), Models(frozenset(), True))
        try:
            return await self._places.would_be(pool, user_id, tier, *self.estimate(work, pool))
        except LineUnavailable:
            return Place(1, UNKNOWN_WAIT_MS, STORAGE)

    async def views(self) -> dict[str, PoolView]:
        """Every pool at a glance; a pool that cannot be read is left out."""
        views = {}
        for pool in self._rules.provider.pools:
            with suppress(LineUnavailable):
                views[pool] = await self._places.look(pool)
        return views

    async def retier(self, changes: Sequence[tuple[str, TierTerms]]) -> None:
        """Keeps users' newest tiers and moves what they have waiting; after `LineUnavailable` to be repeated."""
        for terms, requests in await self._requests.apply_tiers(changes):
            for pool in self._rules.provider.pools:
                if mine := [r.request_id for r in requests if r.pool == pool]:
                    await self._line.retier(pool, terms, mine)
        await self._spend.changed(self._line, changes)

    async def _places_by_count(self, pool: str, request_ids: Sequence[str]) -> dict[str, Place]:
        """While Valkey is away: the number accepted before, and `paused`."""
        with suppress(StoreUnavailable):
            queued = sum(count for its_pool, _, count, _ in await self._requests.queue() if its_pool == pool)
            return {i: Place(max(1, queued), UNKNOWN_WAIT_MS, STORAGE) for i in request_ids}
        return {i: Place(1, UNKNOWN_WAIT_MS, STORAGE) for i in request_ids}

    async def _fits(self, s: Submission) -> None:
        """Refuses what needs more input than the provider allows in a whole minute: it could never be served."""
        view = self._places.known(s.pool)
        limits = view.limits if view else {}
        limit = min(limits.get("tokens", math.inf), limits.get("input_tokens", math.inf))
        # A character can be a token of its own; only where even that would not fit the provider is asked.
        if TEMPLATE_TOKENS + len(s.prompt) <= limit:
            return
        counted = await self._count_tokens(s.model, s.diagram_type, s.prompt)
        if counted is not None and counted > limit:
            message = f"This needs {counted} input tokens; the provider allows {round(limit)} a minute. Shorten it."
            raise Refused("TOO_LARGE", message)

    async def _no_room(self, submission: Submission) -> Refused | None:
        if not self._crowded(submission):
            return None
        s, place = submission, Place(0, UNKNOWN_WAIT_MS)
        # What is known may be old: nobody else may look while everybody is refused.
        with suppress(LineUnavailable):
            estimate = (s.estimated_input_tokens, s.estimated_output_tokens)
            place = await self._places.would_be(s.pool, s.user_id, s.tier.name, *estimate)
        if not (self._full(submission) or place.wait_ms > self._rules.longest_wait_ms):
            return None
        message = "The queue is full at the moment. Nothing was accepted; please try again a little later."
        figures = {"estimated_wait_ms": str(place.wait_ms)}
        return Refused("QUEUE_FULL", message, retry_after_ms=min(place.wait_ms, 60_000), figures=figures)

    def _crowded(self, submission: Submission) -> bool:
        """Whether it is worth a look if there is room."""
        view = self._places.known(submission.pool)
        long = view is not None and view.backlog_s * 1000 > self._rules.longest_wait_ms / LOOKS_LONG
        return long or self._full(submission)

    def _full(self, submission: Submission) -> bool:
        view = self._places.known(submission.pool)
        tier = view.tiers.get(submission.tier.name) if view else None
        return tier is not None and tier.queued >= self._rules.queue_length

    def _place_later(self, request: Request) -> None:
        if len(self._placing) < 1_000:
            task = asyncio.create_task(self._place_again(request))
            self._placing.add(task)
            task.add_done_callback(self._placing.discard)

    async def _place_again(self, request: Request) -> None:
        for delay_ms in (250, 500, 1_000, 2_000, 4_000):
            await self._clock.sleep(delay_ms)
            with suppress(LineUnavailable):
                await self._line.place(request.pool, [request])
                return
        log.warning("%s waits for the sweep to be placed", request.request_id)


def work_hash(work: Work, priority: int, max_wait_ms: int) -> str:
    """SHA-256 of everything that was asked for."""
    parts = (work.prompt, work.diagram_type, work.model, work.max_tokens, priority, max_wait_ms)
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _invalid(field: str, message: str) -> Refused:
    return Refused("INVALID_REQUEST", message, figures={"field": field})


def checked(terms: TierTerms) -> TierTerms:
    """A tier's terms, if they make sense, else `Refused`."""
    spends = (terms.user_spend_nano_usd_per_day, terms.tier_spend_nano_usd_per_day)
    if not terms.name or terms.share < 1 or terms.outstanding < 0 or any(s is not None and s < 0 for s in spends):
        raise _invalid("tier", "A tier needs a name, a share of at least 1, a cap, and no spend limit below 0.")
    return terms
