"""The limiter against a provider in virtual time: what is used of a limit, what is refused, what is followed."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from services.emulator.limits import INPUT, OUTPUT, REQUESTS, TOKENS, Rates
from services.scheduler.line import ValkeyLine
from tests.integration.limiter_model import Provider, provider
from tests.servers.line import POOL, START_MS, virtual_line
from tests.servers.valkey import ValkeyServer

SECOND_MS, MINUTE_MS = 1_000, 60_000
Open = Callable[..., AsyncIterator[ValkeyLine]]


def used(its: Provider, limit: float, from_s: float, to_s: float) -> float:
    """Calls served in that stretch, as a part of what a limit a minute allows."""
    served = sum(from_s <= (at - START_MS) / 1000 < to_s for at in its.served)
    return served / (limit * (to_s - from_s) / 60)


def refused(its: Provider, from_s: float = 0, to_s: float = 1e9) -> float:
    """429s as a part of all calls of that stretch."""
    no, yes = (sum(from_s <= (at - START_MS) / 1000 < to_s for at in moments) for moments in (its.refused, its.served))
    return no / max(1, no + yes)


@pytest.mark.parametrize(("per_minute", "minutes"), [(5, 20), (25, 6), (1_200, 1), (10_000, 0.2)])
async def test_a_plan_of_any_size_is_used_in_full_and_never_exceeded(
    valkey: ValkeyServer, per_minute: int, minutes: float
) -> None:
    async with virtual_line(valkey, requests=per_minute) as line:
        its = provider(line, {REQUESTS: per_minute})
        await its.run(START_MS + int(minutes * MINUTE_MS), keep_waiting=64)
    assert used(its, per_minute, 0, minutes * 60) >= 0.98
    assert its.refused == []


async def test_a_limit_is_found_lowered_and_raised_by_its_headers_alone(valkey: ValkeyServer) -> None:
    async with virtual_line(valkey, requests=50) as line:
        its = provider(line, {REQUESTS: 600})
        await its.run(START_MS + 30 * SECOND_MS, keep_waiting=50)
        its.limits.change(Rates({REQUESTS: 200}), its.now_ms)
        await its.run(START_MS + 60 * SECOND_MS, keep_waiting=50)
        its.limits.change(Rates({REQUESTS: 900}), its.now_ms)
        await its.run(START_MS + 90 * SECOND_MS, keep_waiting=50)
    assert used(its, 600, 10, 30) >= 0.98
    assert used(its, 200, 40, 60) >= 0.98
    assert used(its, 900, 70, 90) >= 0.98
    assert refused(its) <= 0.005


async def test_what_another_user_of_the_key_leaves_is_used(valkey: ValkeyServer) -> None:
    async with virtual_line(valkey, requests=1_200) as line:
        its = provider(line, {REQUESTS: 1_200}, foreign=(400, 100))
        await its.run(START_MS + 90 * SECOND_MS, keep_waiting=50)
        its.foreign = (0, 0)
        await its.run(START_MS + 145 * SECOND_MS, keep_waiting=50)
    assert used(its, 800, 30, 90) >= 0.9
    assert refused(its, 30, 90) <= 0.03
    assert used(its, 1_200, 131, 145) >= 0.98, "all of it again within 40 s, once they are gone"


async def test_scarce_output_of_unknown_heavy_tailed_length_is_used_in_full(valkey: ValkeyServer) -> None:
    def length(dice: random.Random) -> int:
        return min(16_000, int(200 + dice.paretovariate(1.3) * 250))

    async with virtual_line(valkey, requests=1_000, output_tokens=90_000) as line:
        its = provider(line, {REQUESTS: 1_000, OUTPUT: 90_000}, length=length)
        await its.run(START_MS + 240 * SECOND_MS, keep_waiting=100)
    written = sum(tokens for at, tokens in its.output if at >= START_MS + MINUTE_MS)
    assert written / (90_000 * 3) >= 0.97
    assert refused(its) <= 0.005


async def test_input_that_was_estimated_wrongly_is_learned_and_the_headers_correct_it(valkey: ValkeyServer) -> None:
    async with virtual_line(valkey, requests=1_000, input_tokens=60_000) as line:
        its = provider(line, {REQUESTS: 1_000, INPUT: 60_000}, input_tokens=900)
        for _ in range(4):
            await its.send(200, estimated_input_tokens=500)
        await its.run(START_MS + 120 * SECOND_MS)
        ratio = float((await line.view(POOL))["bucket"]["input_ratio"])
    assert ratio == pytest.approx(900 / 500)
    assert refused(its, 30) <= 0.005
    assert used(its, 60_000 / 900, 60, 120) >= 0.97


async def test_an_answer_longer_than_assumed_takes_more_while_it_is_written(valkey: ValkeyServer) -> None:
    async with virtual_line(valkey, output_tokens=6_000) as line:
        its = provider(line, {REQUESTS: 600}, length=lambda _: 9_000)
        line.virtual_now_ms = START_MS + 60_000
        await its.send(1)
        await its.run(line.virtual_now_ms + 20 * SECOND_MS)
        level = (await line.view(POOL))["levels"]["output_tokens"]
        assert its.waiting == 0
    # 100 were there, 2,000 came; some 1,600 are written, and with a fifth ahead more than 1,800 are taken.
    assert level < 300


@pytest.mark.parametrize("dimension", ["output_tokens", "input_tokens"])
async def test_only_input_and_requests_are_ever_raised_by_headers(valkey: ValkeyServer, dimension: str) -> None:
    async with virtual_line(valkey, **{dimension: 60_000}) as line:
        its = provider(line, {})
        await its.send(1)
        line.virtual_now_ms = START_MS + 1_000
        ((request_id, _),) = (await line.dispatch(POOL, 1, None)).request_ids
        await line.start(POOL, request_id, 1, {"type": "processing", "attempt": 1})
        await line.answer(POOL, request_id, 1, "begun", {dimension: (60_000, 59_000)})
        level = (await line.view(POOL))["levels"][dimension]
    assert (level >= 1_000) == (dimension == "input_tokens")


async def test_the_header_of_all_tokens_counts_only_where_it_is_clear_what_it_shows(valkey: ValkeyServer) -> None:
    async with virtual_line(valkey, requests=6_000) as line:
        await begin(line, "a")
        answered = await line.answer(POOL, "a", 1, "begun", {"tokens": (50_000, 40_000)})
        assert answered.limits == {}, "no such limit was declared"
        await line.set_limits(POOL, "plan", {"tokens": 800_000})
        both = {"tokens": (50_000, 40_000), "output_tokens": (50_000, 40_000)}
        assert (await line.answer(POOL, "a", 1, "begun", both)).limits == {"output_tokens": 50_000}
        alone = await line.answer(POOL, "a", 1, "begun", {"tokens": (700_000, 40_000)})
        assert alone.limits == {"tokens": 700_000}
        assert (await line.view(POOL))["limits"]["tokens"] == 700_000


async def begin(line: ValkeyLine, request_id: str, attempt: int = 1, **changes: object) -> None:
    """A request that is accepted, dispatched and begun."""
    its = provider(line, {TOKENS: 1})
    await its.send(1, request_id=request_id, **changes)
    for _ in range(200):
        taken = (await line.dispatch(POOL, 1, None)).request_ids
        if taken:
            assert taken[0][0] == request_id
            await line.start(POOL, request_id, attempt, {"type": "processing", "attempt": attempt})
            return
        line.virtual_now_ms = (line.virtual_now_ms or 0) + 100
    raise AssertionError(f"{request_id} did not go")


async def test_a_days_requests_end_at_midnight(valkey: ValkeyServer) -> None:
    async with virtual_line(valkey, requests=600, requests_day=50) as line:
        its = provider(line, {REQUESTS: 600})
        await its.send(70)
        await its.run(START_MS + 10 * MINUTE_MS)
        assert len(its.served) == 50
        view = await line.view(POOL)
        assert view["bucket"]["paused_why"] == "provider_limit"
        assert int(view["bucket"]["paused_until"]) % 86_400_000 == 0
        line.virtual_now_ms = int(view["bucket"]["paused_until"])
        await its.run(line.virtual_now_ms + MINUTE_MS)
        assert len(its.served) == 70


async def test_attempts_at_once_are_limited_and_their_seconds_cost(valkey: ValkeyServer) -> None:
    async with virtual_line(valkey, requests=6_000, concurrency=3) as line:
        its = provider(line, {REQUESTS: 6_000})
        await its.send(10)
        line.virtual_now_ms = START_MS + 10_000
        assert len((await line.dispatch(POOL, 9, None)).request_ids) == 3
        await line.set_limits(POOL, "override", {"concurrency": 5})
        assert (await line.dispatch(POOL, 9, None)).request_ids == (), "the smaller of both"


async def test_the_seconds_an_attempt_held_count_where_attempts_are_scarce(valkey: ValkeyServer) -> None:
    async with virtual_line(valkey, requests=6_000, concurrency=2) as line:
        await begin(line, "slow")
        before = float(valkey.client().hget(f"hg:{{{POOL}}}:user:free:u1", "F") or 0)
        row = replace(provider_row(line, "slow"), started_ms=1_000, ended_ms=9_000)
        await line.finish(row, 500, 600)
        after = float(valkey.client().hget(f"hg:{{{POOL}}}:user:free:u1", "F") or 0)
        assert after - before == pytest.approx(8 / 2 - 0.01), "eight seconds of one of two"


def provider_row(line: ValkeyLine, request_id: str) -> object:
    from services.scheduler.life import State
    from tests.unit.test_scheduler_outcomes import a_request

    return replace(a_request(), request_id=request_id, pool=POOL, attempt=1, state=State.COMPLETED)


async def test_a_ramp_limit_halves_the_pace_and_is_forgotten_in_a_minute(valkey: ValkeyServer) -> None:
    async with virtual_line(valkey, requests=6_000) as line:
        await begin(line, "a")
        await line.answer(POOL, "a", 1, "ramp", {}, 1_000)
        line.virtual_now_ms = (line.virtual_now_ms or 0) + 2_000
        cut_at_ms = line.virtual_now_ms
        assert (await line.view(POOL))["bucket"]["part"] == pytest.approx(0.505)
        line.virtual_now_ms = cut_at_ms + MINUTE_MS
        assert (await line.view(POOL))["bucket"]["part"] == 1


async def test_a_single_429_cuts_nothing(valkey: ValkeyServer) -> None:
    async with virtual_line(valkey, requests=6_000) as line:
        for n in range(3):
            await begin(line, f"r{n}")
            await line.answer(POOL, f"r{n}", 1, "refused", {}, 1_000)
            line.virtual_now_ms = (line.virtual_now_ms or 0) + 20_000
        assert (await line.view(POOL))["bucket"]["part"] == 1


async def test_a_request_is_to_blame_for_429s_only_if_others_are_served_in_between(valkey: ValkeyServer) -> None:
    async with virtual_line(valkey, requests=6_000) as line:
        await begin(line, "poison")
        counts = []
        for n in range(4):
            counts.append(await line.answer(POOL, "poison", 1, "refused", {}, 0))
            if n != 1:
                await begin(line, f"other{n}")
                await line.answer(POOL, f"other{n}", 1, "begun", {})
        assert [c.refusals for c in counts] == [1, 2, 2, 3]
        assert [c.denied for c in counts] == [1, 2, 3, 4]


async def test_the_breaker_opens_when_most_fail_and_closes_by_single_probes(valkey: ValkeyServer) -> None:
    async with virtual_line(valkey, requests=60_000) as line:
        for n in range(7):
            await begin(line, f"r{n}")
            answered = await line.answer(POOL, f"r{n}", 1, "failed", {})
            assert answered.broken == (n >= 2)
        its = provider(line, {})
        await its.send(5)
        assert (await line.dispatch(POOL, 9, None)).request_ids == ()
        assert (await line.view(POOL))["bucket"]["paused_why"] == "provider_down"
        line.virtual_now_ms = (line.virtual_now_ms or 0) + 1_001
        ((probe, _),) = (await line.dispatch(POOL, 9, None)).request_ids
        assert (await line.dispatch(POOL, 9, None)).request_ids == (), "a single one"
        await line.start(POOL, probe, 1, {"type": "processing", "attempt": 1})
        await line.answer(POOL, probe, 1, "failed", {})
        line.virtual_now_ms += 1_999
        assert (await line.dispatch(POOL, 9, None)).request_ids == (), "twice as long"
        line.virtual_now_ms += 2
        ((probe, _),) = (await line.dispatch(POOL, 9, None)).request_ids
        await line.start(POOL, probe, 1, {"type": "processing", "attempt": 1})
        await line.answer(POOL, probe, 1, "begun", {})
        assert len((await line.dispatch(POOL, 9, None)).request_ids) == 3, "closed"


async def test_a_probe_that_vanished_is_followed_by_another(valkey: ValkeyServer) -> None:
    async with virtual_line(valkey, requests=60_000) as line:
        for n in range(7):
            await begin(line, f"r{n}")
            await line.answer(POOL, f"r{n}", 1, "failed", {})
        its = provider(line, {})
        await its.send(2)
        line.virtual_now_ms = (line.virtual_now_ms or 0) + 1_001
        assert len((await line.dispatch(POOL, 9, None)).request_ids) == 1
        line.virtual_now_ms += 15_001
        assert len((await line.dispatch(POOL, 9, None)).request_ids) == 1


async def test_a_request_that_alone_fails_cannot_stop_the_pool(valkey: ValkeyServer) -> None:
    async with virtual_line(valkey, requests=60_000) as line:
        await begin(line, "poison")
        for _ in range(50):
            assert not (await line.answer(POOL, "poison", 1, "failed", {})).broken
        await begin(line, "other")


async def test_retries_are_a_tenth_of_the_traffic_and_wait_without_failing(valkey: ValkeyServer) -> None:
    async with virtual_line(valkey, requests=60) as line:
        its = provider(line, {})
        for n in range(30):
            await begin(line, f"r{n}")
        for n in range(30):
            row = replace(provider_row(line, f"r{n}"), attempt=1)
            assert await line.requeue(row, 0, 0, None, budgeted=True)
        await line.set_limits(POOL, "plan", {"requests": 60})
        line.virtual_now_ms = (line.virtual_now_ms or 0) + 1
        tried = await retried(line, 20 * SECOND_MS)
        assert 13 <= len(tried) <= 15, "what was saved, and one in five seconds"
        for request_id in tried[:6]:
            await line.start(POOL, request_id, 2, {"type": "processing", "attempt": 2})
            await line.answer(POOL, request_id, 2, "begun", {})
        more = await retried(line, 30 * SECOND_MS)
        assert len(more) == 30 - len(tried), "the provider is back: each success lets two more go"
        assert its.waiting == 0


async def retried(line: ValkeyLine, length_ms: int) -> list[str]:
    """What is dispatched in that time."""
    until_ms = (line.virtual_now_ms or 0) + length_ms
    taken: list[str] = []
    while (line.virtual_now_ms or 0) < until_ms:
        found = await line.dispatch(POOL, 9, None)
        taken += [request_id for request_id, _ in found.request_ids]
        line.virtual_now_ms = (line.virtual_now_ms or 0) + 250
    return taken
