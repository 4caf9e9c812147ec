"""Positions are the order in which the scripts dispatch: the first hundred to the last one, the rest nearly.

Broken once on purpose: with ties between tiers broken otherwise than by name, or with times and costs as JSON's 14
digits, the first hundred differ; without the strata of view.lua (the mean alone) the crowd of single requests fails.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from services.scheduler.line import ValkeyLine
from services.scheduler.places import Places
from services.scheduler.planner.virtual import START_MS, virtual_line
from tests.servers.valkey import ValkeyServer
from tests.unit.test_scheduler_outcomes import a_request

POOL = "sonnet"
SHARES = {"free": 1, "basic": 2, "pro": 4, "enterprise": 8}
CROWD = {"free": 0.5, "basic": 0.25, "pro": 0.15, "enterprise": 0.1}


class Moment:
    """A clock that stands still until it is moved."""

    now = START_MS

    def now_ms(self) -> int:
        return self.now

    async def sleep(self, delay_ms: float) -> None:
        raise AssertionError("nobody sleeps here")


@pytest.fixture
async def line(valkey: ValkeyServer) -> AsyncIterator[ValkeyLine]:
    async with virtual_line(valkey.url, POOL) as line:
        await line.set_limits(POOL, "plan", {"requests": 600_000, "tokens": 10_000_000})
        await line.dispatch(POOL, 0, None)
        yield line


async def crowd(line: ValkeyLine, dice: random.Random, many: int, users: int, *, alike: bool = False) -> list[str]:
    """Places so many requests with heavy-tailed prompts (or all alike), some of each user's with a priority."""
    rows = []
    for number in range(many):
        tier = dice.choices(list(CROWD), list(CROWD.values()))[0]
        tokens = 1_000 if alike else 1_000 + min(28_500, round(114 * dice.lognormvariate(0, 1.5)))
        rows.append(
            replace(
                a_request(),
                request_id=f"req_{number:06d}",
                tier=tier,
                share=SHARES[tier],
                pool=POOL,
                user_id=f"{tier}{int(users * dice.random() ** 2)}",
                priority=dice.choice((0, 0, 0, 5, -5)),
                estimated_input_tokens=tokens - 600,
                estimated_output_tokens=600,
            )  # fmt: skip
        )
    for i in range(0, many, 500):
        await line.place(POOL, rows[i : i + 500])
    return [row.request_id for row in rows]


async def dispatched(line: ValkeyLine, many: int, at_once: int) -> list[str]:
    order: list[str] = []
    while len(order) < many:
        taken = await line.dispatch(POOL, at_once, None)
        order += [request_id for request_id, _ in taken.request_ids]
        line.virtual_now_ms = (line.virtual_now_ms or 0) + max(0, taken.wait_ms)
    return order


@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize("seed", range(5))
async def test_the_first_hundred_are_dispatched_as_they_were_told(line: ValkeyLine, seed: int, alike: bool) -> None:
    """Nearly all ties where all cost alike; tags and times out of their round numbers where not."""
    dice, places = random.Random(seed), Places(line, slots=lambda: 64, clock=Moment())
    ids = await crowd(line, dice, 600, users=30, alike=alike)
    await dispatched(line, 40 * seed, 32)
    for request_id in ids[: 40 * seed : 3]:
        # What ended otherwise than estimated has moved tags and tiers' times.
        await line.finish(replace(a_request(), request_id=request_id, pool=POOL, attempt=1), 300, dice.randint(1, 3000))
    told = await places.of(POOL, ids)
    order = await dispatched(line, 100, 1)
    assert order == sorted(told, key=lambda i: told[i].position)[:100]
    assert [told[i].position for i in order] == list(range(1, 101))


@pytest.mark.parametrize("users", [200_000, 400], ids=["one request each", "many each"])
async def test_positions_far_behind_are_nearly_right(line: ValkeyLine, users: int) -> None:
    """10,000 in four tiers: within max(5, 5%) for 95%."""
    ids = await crowd(line, random.Random(users), 10_000, users)
    places, told = Places(line, slots=lambda: 64, clock=Moment()), {}
    for i in range(0, len(ids), 500):
        told |= await places.of(POOL, ids[i : i + 500])
    order = await dispatched(line, len(ids), 32)
    near = [abs(told[i].position - had) <= max(5, 0.05 * had) for had, i in enumerate(order, 1)]
    assert sum(near) >= 0.95 * len(near)


async def test_one_that_backs_off_counts_at_its_tag(line: ValkeyLine) -> None:
    ids = await crowd(line, random.Random(1), 200, users=20, alike=True)
    places = Places(line, slots=lambda: 64, clock=Moment())
    first = (await dispatched(line, 1, 1))[0]
    later_ms = (line.virtual_now_ms or 0) + 30_000
    row = replace(a_request(), request_id=first, pool=POOL, attempt=0, not_before_ms=later_ms)
    assert await line.requeue(row, None, None, None)
    told = await places.of(POOL, ids)
    assert told[first].position <= 4, "first of its tier"
    assert told[first].wait_ms == 30_000


async def test_who_only_asks_is_told_the_place_that_they_would_get(line: ValkeyLine) -> None:
    await crowd(line, random.Random(2), 2_000, users=400)
    places = Places(line, slots=lambda: 64, clock=Moment())
    for user, tier in (("new", "free"), ("free1", "free"), ("pro3", "pro"), ("enterprise0", "enterprise")):
        would = await places.would_be(POOL, user, tier, 400, 600)
        row = replace(
            a_request(), request_id=f"req_{user}", tier=tier, share=SHARES[tier], user_id=user, pool=POOL,
            estimated_input_tokens=400, estimated_output_tokens=600,
        )  # fmt: skip
        await line.place(POOL, [row])
        had = (await places.of(POOL, [row.request_id]))[row.request_id]
        assert abs(would.position - had.position) <= max(2, 0.05 * had.position)
        assert would.wait_ms == pytest.approx(had.wait_ms, abs=200, rel=0.05)


async def test_the_whole_line_is_looked_along_once_a_second(line: ValkeyLine) -> None:
    looks: list[bool] = []

    class Counted:
        async def view(self, pool: str, request_ids: object = (), *, whole: bool = False, asker: object = ()) -> object:
            looks.append(whole)
            return await line.view(pool, request_ids, whole=whole, asker=asker)  # type: ignore[arg-type]

    ids, moment = await crowd(line, random.Random(3), 300, users=20), Moment()
    places = Places(Counted(), slots=lambda: 64, clock=moment)  # type: ignore[arg-type]
    for at_ms in (0, 10, 999, 1_000, 1_001, 2_500):
        moment.now = START_MS + at_ms
        await places.of(POOL, ids[:5])
    assert looks == [True, False, False, True, False, True]
