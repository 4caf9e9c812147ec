"""One attempt: from a prompt to a checked diagram, in at most two turns of one conversation."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Protocol

from services.generator.outcomes import Failure, FailureKind, Limit, sentence
from services.generator.prompts import Prompts
from services.generator.source import KINDS, Extractor, harmless, kind_of

LAST_TURN = 2
CHARACTERS_PER_TOKEN = 3.5
"""As the limiter estimates them."""


@dataclass(frozen=True)
class Work:
    """What is asked for."""

    prompt: str
    kind: str
    """"mermaid" for whatever kind fits, or one of KINDS."""
    model: str
    max_tokens: int


@dataclass(frozen=True)
class Started:
    """The provider's answer has begun."""

    turn: int
    limits: tuple[Limit, ...]
    provider_request_id: str


@dataclass(frozen=True)
class Delta:
    """A piece of the source; the offset counts code points of this turn's source."""

    text: str
    offset: int
    turn: int


@dataclass(frozen=True)
class Usage:
    """What one turn used."""

    turn: int
    model: str
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_write_5m_input_tokens: int = 0
    cache_write_1h_input_tokens: int = 0
    estimated: bool = False


@dataclass(frozen=True)
class Heartbeat:
    """Nothing new, or the turn that is sent to the provider now."""

    turn: int = 0


@dataclass(frozen=True)
class Result:
    """A checked diagram."""

    source: str
    svg: str
    truncated: bool
    kind: str


Step = Started | Delta | Usage | Heartbeat | Result


@dataclass(frozen=True)
class Call:
    """One turn upstream."""

    model: str
    max_tokens: int
    system: str
    messages: tuple[tuple[str, str], ...]
    """Role and text."""

    @property
    def characters(self) -> int:
        """Length of all that is sent."""
        return len(self.system) + sum(len(text) for _, text in self.messages)


@dataclass(frozen=True)
class Opened:
    """The provider answered 200."""

    limits: tuple[Limit, ...]
    provider_request_id: str


@dataclass(frozen=True)
class Said:
    """A piece of the answer."""

    text: str


@dataclass(frozen=True)
class Tally:
    """The provider's figures so far (`turn` is not filled in); final only if `final`."""

    usage: Usage
    final: bool
    stop_reason: str | None = None


class Upstream(Protocol):
    """The model's side of a conversation."""

    def stream(self, call: Call) -> AsyncGenerator[Opened | Said | Tally, None]:
        """One answer, to its proper end; raises Failure. Closing the generator closes the connection."""
        ...

    async def count(self, call: Call) -> int:
        """Input tokens of a call that is not made; raises Failure."""
        ...


@dataclass(frozen=True)
class Drawing:
    """A picture, or what is wrong with its source."""

    svg: str = ""
    problem: str = ""
    parses: bool = False
    """Only the drawing failed."""


class Board(Protocol):
    """Who checks and draws a source."""

    async def draw(self, source: str) -> Drawing:
        """Never raises for what the source holds."""
        ...


@dataclass
class _Turn:
    """What is known of a turn while it runs."""

    number: int
    extractor: Extractor
    answer: list[str]
    opened: bool = False
    tally: Tally | None = None

    def usage(self, call: Call) -> Usage:
        """The provider's figures, or an estimate from what was sent and received."""
        said = sum(len(text) for text in self.answer)
        if self.tally and self.tally.final:
            return replace(self.tally.usage, turn=self.number)
        counted = math.ceil(said / CHARACTERS_PER_TOKEN)
        if self.tally:
            least = max(counted, self.tally.usage.output_tokens)
            return replace(self.tally.usage, turn=self.number, output_tokens=least, estimated=True)
        return Usage(
            self.number, call.model, math.ceil(call.characters / CHARACTERS_PER_TOKEN), counted, estimated=True
        )


class Attempts:
    """Runs attempts."""

    def __init__(self, upstream: Upstream, board: Board, prompts: Prompts) -> None:
        self._upstream = upstream
        self._board = board
        self._prompts = prompts

    async def run(self, work: Work) -> AsyncGenerator[Step, None]:
        """The attempt's steps, a Result last; raises Failure after the usage of whatever was paid for."""
        call = self._first_call(work)
        for number in range(1, LAST_TURN + 1):
            turn = _Turn(number, Extractor(), [])
            async with aclosing(self._speak(turn, call)) as steps:
                async for step in steps:
                    yield step
            stop_reason = turn.tally.stop_reason if turn.tally else None
            if stop_reason == "refusal":
                raise Failure(FailureKind.REFUSED, sentence(FailureKind.REFUSED), 200, spent_tokens=bool(turn.answer))
            source = harmless(turn.extractor.source)
            kind, drawing = await self._check(source, work.kind)
            if kind and (not drawing.problem or (drawing.parses and number == LAST_TURN)):
                yield Result(source, drawing.svg, stop_reason == "max_tokens", kind)
                return
            again = self._prompts.repair(work.kind, drawing.problem, cut=stop_reason == "max_tokens")
            # The API refuses an empty turn.
            said = "".join(turn.answer).strip() or "(nothing)"
            call = replace(call, messages=(*call.messages[:1], ("assistant", said), ("user", again)))
        raise Failure(FailureKind.INVALID_DIAGRAM, f"No diagram came of it: {drawing.problem}", 200, spent_tokens=True)

    async def count(self, work: Work) -> int:
        """Input tokens of the first call, as the provider counts them. Raises Failure."""
        return await self._upstream.count(self._first_call(work))

    def _first_call(self, work: Work) -> Call:
        asked = (("user", self._prompts.ask(work.prompt)),)
        return Call(work.model, work.max_tokens, self._prompts.system(work.kind), asked)

    async def probe(self, model: str) -> tuple[Limit, ...]:
        """The smallest call there is, to its end; the limits that its headers named. Raises Failure."""
        limits: tuple[Limit, ...] = ()
        async with aclosing(self._upstream.stream(Call(model, 1, "", (("user", "ping"),)))) as events:
            async for event in events:
                if isinstance(event, Opened):
                    limits = event.limits
        return limits

    async def _speak(self, turn: _Turn, call: Call) -> AsyncGenerator[Step, None]:
        given = 0
        # Told before: whatever becomes of this process, what the provider was asked for is known.
        yield Heartbeat(turn.number)
        try:
            async with aclosing(self._upstream.stream(call)) as events:
                async for event in events:
                    if isinstance(event, Opened):
                        turn.opened = True
                        yield Started(turn.number, event.limits, event.provider_request_id)
                    elif isinstance(event, Said):
                        turn.answer.append(event.text)
                        text = turn.extractor.feed(event.text)
                        if text:
                            yield Delta(text, given, turn.number)
                            given += len(text)
                    else:
                        turn.tally = event
        except Failure as failure:
            if turn.opened:
                yield turn.usage(call)
            failure.spent_tokens = bool(turn.answer) or turn.number > 1
            raise
        text = turn.extractor.finish()
        if text:
            yield Delta(text, given, turn.number)
        yield turn.usage(call)

    async def _check(self, source: str, asked: str) -> tuple[str | None, Drawing]:
        kind = kind_of(source)
        if kind is None:
            return None, Drawing(problem=f"Its first line names none of these kinds: {', '.join(KINDS)}.")
        if asked not in ("mermaid", kind):
            return None, Drawing(problem=f"It is a diagram of the kind {kind}, not {asked}.")
        return kind, await self._board.draw(source)
