"""Attempts over an upstream that follows a script."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from services.generator.attempt import (
    Attempts,
    Call,
    Delta,
    Drawing,
    Heartbeat,
    Opened,
    Result,
    Said,
    Started,
    Step,
    Tally,
    Usage,
    Work,
)
from services.generator.outcomes import Failure, FailureKind
from services.generator.prompts import Prompts
from services.generator.pulse import with_heartbeats

GOOD = "flowchart TD\n  a --> b"
WORK = Work("login", "flowchart", "claude-x", 1000)
Script = list[Opened | Said | Tally | Failure]


def answer(text: str, stop_reason: str = "end_turn") -> Script:
    start = Tally(Usage(0, "claude-x-1", 20, 1), False)
    end = Tally(Usage(0, "claude-x-1", 20, 9), True, stop_reason)
    return [Opened((), "req_p"), start, *(Said(char) for char in text), end]


class Scripted:
    """Says what it was told to, turn by turn."""

    def __init__(self, *turns: Script) -> None:
        self._turns = list(turns)
        self.calls: list[Call] = []

    async def stream(self, call: Call) -> AsyncGenerator[Opened | Said | Tally, None]:
        self.calls.append(call)
        for event in self._turns.pop(0):
            if isinstance(event, Failure):
                raise event
            yield event


class Paper:
    """A board that draws whatever does not hold "bad"."""

    async def draw(self, source: str) -> Drawing:
        if "undrawable" in source:
            return Drawing(problem="cannot", parses=True)
        return Drawing(problem="line 2 is bad") if "bad" in source else Drawing(svg="<svg/>")


async def run(upstream: Scripted, work: Work = WORK) -> tuple[list[Step], Failure | None]:
    steps: list[Step] = []
    try:
        async for step in Attempts(upstream, Paper(), Prompts.load()).run(work):
            steps.append(step)
    except Failure as failure:
        return steps, failure
    return steps, None


def deltas(steps: list[Step], turn: int) -> str:
    text = ""
    for step in steps:
        if isinstance(step, Delta) and step.turn == turn:
            assert step.offset == len(text)
            text += step.text
    return text


async def test_a_good_answer_is_done_in_one_turn() -> None:
    steps, failure = await run(Scripted(answer(f"Here:\n```mermaid\n{GOOD}\n```\nBye 👋")))
    assert failure is None
    assert steps[:2] == [Heartbeat(1), Started(1, (), "req_p")], "it is told before it is sent"
    assert deltas(steps, 1) == GOOD
    assert steps[-2] == Usage(1, "claude-x-1", 20, 9)
    assert steps[-1] == Result(GOOD, "<svg/>", False, "flowchart")


async def test_a_bad_diagram_is_repaired_in_the_same_conversation() -> None:
    upstream = Scripted(answer("flowchart TD\n  bad"), answer(GOOD))
    steps, failure = await run(upstream)
    assert failure is None
    assert [step.turn for step in steps if isinstance(step, Usage)] == [1, 2]
    assert [step.turn for step in steps if isinstance(step, Heartbeat)] == [1, 2]
    assert deltas(steps, 2) == GOOD
    asked, said, again = upstream.calls[1].messages
    assert asked == upstream.calls[0].messages[0]
    assert said == ("assistant", "flowchart TD\n  bad")
    assert again[0] == "user"
    assert "line 2 is bad" in again[1]


async def test_two_bad_diagrams_fail() -> None:
    steps, failure = await run(Scripted(answer("flowchart TD\n  bad"), answer("I give up.")))
    assert failure is not None
    assert failure.kind is FailureKind.INVALID_DIAGRAM
    assert failure.spent_tokens
    assert [step.turn for step in steps if isinstance(step, Usage)] == [1, 2]
    assert not any(isinstance(step, Result) for step in steps)


@pytest.mark.parametrize("first", ["", 'pie\n  "a" : 1', "kanban\n  a"])
async def test_another_kind_or_none_is_repaired(first: str) -> None:
    upstream = Scripted(answer(first), answer(GOOD))
    steps, failure = await run(upstream)
    assert failure is None
    assert all(text.strip() for _, text in upstream.calls[1].messages)


async def test_mermaid_takes_any_kind() -> None:
    steps, failure = await run(Scripted(answer('pie\n  "a" : 1')), Work("x", "mermaid", "claude-x", 10))
    assert failure is None
    assert steps[-1] == Result('pie\n  "a" : 1', "<svg/>", False, "pie")


async def test_what_parses_but_cannot_be_drawn_is_repaired_once_and_then_taken() -> None:
    upstream = Scripted(answer(f"{GOOD}\n undrawable"), answer(f"{GOOD}\n undrawable"))
    steps, failure = await run(upstream)
    assert failure is None
    assert steps[-1] == Result(f"{GOOD}\n undrawable", "", False, "flowchart")


async def test_a_cut_off_diagram_that_parses_is_truncated_and_one_that_does_not_is_repaired() -> None:
    steps, _ = await run(Scripted(answer(GOOD, "max_tokens")))
    assert steps[-1] == Result(GOOD, "<svg/>", True, "flowchart")
    upstream = Scripted(answer("flowchart TD\n bad", "max_tokens"), answer(GOOD))
    steps, _ = await run(upstream)
    assert steps[-1] == Result(GOOD, "<svg/>", False, "flowchart")
    assert "cut off" in upstream.calls[1].messages[2][1]


async def test_a_refusal_fails_and_is_paid() -> None:
    steps, failure = await run(Scripted(answer("", "refusal")))
    assert failure is not None
    assert failure.kind is FailureKind.REFUSED
    assert steps[-1] == Usage(1, "claude-x-1", 20, 9)


def cut() -> Failure:
    return Failure(FailureKind.UNAVAILABLE, "cut")


async def test_a_failure_before_the_answer_costs_nothing() -> None:
    steps, failure = await run(Scripted([cut()]))
    assert failure is not None
    assert steps == [Heartbeat(1)]
    assert not failure.spent_tokens


async def test_a_cut_answer_is_estimated_from_what_was_seen() -> None:
    steps, failure = await run(Scripted([*answer(GOOD * 2)[:-1], cut()]))
    assert failure is not None
    assert failure.spent_tokens
    assert steps[-1] == Usage(1, "claude-x-1", 20, 13, estimated=True)
    steps, failure = await run(Scripted([Opened((), ""), cut()]))
    assert failure is not None
    assert not failure.spent_tokens
    usage = steps[-1]
    assert isinstance(usage, Usage)
    assert (usage.model, usage.output_tokens, usage.estimated) == ("claude-x", 0, True)
    assert usage.input_tokens > 100


async def test_a_failed_repair_has_spent_tokens() -> None:
    steps, failure = await run(Scripted(answer("flowchart TD\n bad"), [cut()]))
    assert failure is not None
    assert failure.kind is FailureKind.UNAVAILABLE
    assert failure.spent_tokens
    assert [step.turn for step in steps if isinstance(step, Usage)] == [1]


async def test_heartbeats_fill_silence_and_closing_reaches_the_source() -> None:
    closed = asyncio.Event()
    go_on = asyncio.Event()

    async def steps() -> AsyncGenerator[Step, None]:
        try:
            yield Started(1, (), "")
            await go_on.wait()
            yield Delta("x", 0, 1)
            await asyncio.Event().wait()
        finally:
            closed.set()

    stream = with_heartbeats(steps(), 1)
    assert await anext(stream) == Started(1, (), "")
    assert await anext(stream) == Heartbeat()
    assert await anext(stream) == Heartbeat()
    go_on.set()
    while (step := await anext(stream)) == Heartbeat():
        pass
    assert step == Delta("x", 0, 1)
    assert await anext(stream) == Heartbeat()
    await stream.aclose()
    assert closed.is_set()


async def test_heartbeats_pass_failures_on() -> None:
    async def steps() -> AsyncGenerator[Step, None]:
        yield Started(1, (), "")
        raise cut()

    stream = with_heartbeats(steps(), 1000)
    assert await anext(stream) == Started(1, (), "")
    with pytest.raises(Failure):
        await anext(stream)
