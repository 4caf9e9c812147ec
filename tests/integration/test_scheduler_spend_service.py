"""Spend limits through the whole scheduler: what users are told, what is let go, what a cancelled attempt costs.

Broken on purpose, and red here: what a cancelled attempt cost is not told; ApplyTiers tells nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from headgate.generator.v1 import generator_pb2 as gen
from headgate.scheduler.v1 import scheduler_pb2 as pb

from services.clock import DAY_MS
from services.scheduler import spend
from tests.servers.scheduler import Scheduler, delta, running_scheduler, second_replica, sqlite_url, started, within
from tests.servers.valkey import ValkeyServer

EACH = 700_000
"""What an answer of `draws` costs."""


def terms(
    user_cap: int | None = None, tier_cap: int | None = None, name: str = "pro", version: int = 1
) -> pb.TierTerms:
    return pb.TierTerms(
        name=name, version=version, share=4, outstanding=1_000, all_models=True,
        user_spend_nano_usd_per_day=user_cap, tier_spend_nano_usd_per_day=tier_cap,
    )  # fmt: skip


async def seen(ask: Callable[[], Awaitable[Any]], wanted: Callable[[Any], bool], what: str) -> None:
    """Returns once the answer is as wanted."""

    async def asking() -> None:
        while not wanted(await ask()):
            await asyncio.sleep(0.05)

    await within(asking(), what)


async def ended(scheduler: Scheduler, ids: list[str]) -> int:
    """How many of them."""
    rows = await asyncio.gather(*(scheduler.get(request_id) for request_id in ids))
    return sum(row.state != pb.STATE_QUEUED and row.state != pb.STATE_RUNNING for row in rows)


async def waits(scheduler: Scheduler, request_id: str) -> bool:
    """For a spend limit, and is told until when and how long."""
    row = await scheduler.get(request_id)
    place = row.place
    if row.state != pb.STATE_QUEUED or place.paused != pb.PAUSE_REASON_SPEND_LIMIT:
        return False
    until_ms, left_ms = place.paused_until.ToMilliseconds(), place.estimated_wait.ToMilliseconds()
    return until_ms % DAY_MS == 0 and 0 < left_ms <= DAY_MS + 60_000 and place.position >= 1


async def test_the_site_waits_in_every_pool_and_goes_on_when_its_limit_is_raised(
    database_url: str, valkey: ValkeyServer, tmp_path: Path
) -> None:
    settings = {"max_spend_nano_usd_per_day": 3 * EACH - 1, "generator_slots": 1}
    async with (
        running_scheduler(database_url, valkey.url, provider_rpm=6000, **settings) as one,
        second_replica(one, tmp_path) as two,
    ):
        ids = [await (one, two)[n % 2].submit(request_id=f"req_{n}") for n in range(8)]
        await seen(lambda: ended(one, ids), lambda done: done == 3, "three are served")
        waiting = [i for i in ids if (await one.get(i)).state == pb.STATE_QUEUED]
        dear = await two.submit(request_id="req_opus", model="claude-opus-5-5", tier=terms())
        for request_id in [*waiting, dear]:
            await seen(lambda i=request_id: waits(two, i), bool, f"{request_id} waits")
        assert await ended(one, [*ids, dear]) == 3
        await one.stop()
        await two.stop()
        for replica in (one, two):
            replica.environment["max_spend_nano_usd_per_day"] = 99 * EACH
            await replica.start()
        await seen(lambda: ended(one, [*ids, dear]), lambda done: done == 9, "all are served")
        assert len(one.generator.asked) == 9, "nothing was cut"


@pytest.mark.parametrize("of", ["user", "tier"])
async def test_a_users_and_a_tiers_limit_stop_nobody_else_and_may_be_raised(
    tmp_path: Path, valkey: ValkeyServer, of: str
) -> None:
    def its(cap: int) -> pb.TierTerms:
        return terms(**{f"{of}_cap": cap})

    async with running_scheduler(sqlite_url(tmp_path), valkey.url, provider_rpm=6000, generator_slots=1) as scheduler:
        ids = [await scheduler.submit(request_id=f"req_{n}", tier=its(2 * EACH)) for n in range(5)]
        await seen(lambda: ended(scheduler, ids), lambda done: done == 2, "two are served")
        assert await waits(scheduler, ids[4])
        asked = pb.GetWaitRequest(user_id="ada", tier=its(2 * EACH))
        assert (await scheduler.stub.GetWait(asked)).place.paused == pb.PAUSE_REASON_SPEND_LIMIT
        other = await scheduler.submit(request_id="req_other", user_id="bob", tier=terms(name="free"))
        await scheduler.end(other, "bob")
        assert await ended(scheduler, ids) == 2
        change = pb.TierChange(user_id="ada", tier=terms(**{f"{of}_cap": 4 * EACH}, version=2))
        await scheduler.stub.ApplyTiers(pb.ApplyTiersRequest(changes=[change]))
        await seen(lambda: ended(scheduler, ids), lambda done: done == 4, "two more are served")
        await seen(lambda: waits(scheduler, ids[4]), bool, "the last waits")
        change.tier.CopyFrom(terms(version=3))
        await scheduler.stub.ApplyTiers(pb.ApplyTiersRequest(changes=[change]))
        await seen(lambda: ended(scheduler, ids), lambda done: done == 5, "all are served")


async def test_what_a_cancelled_attempt_cost_counts_at_once(
    tmp_path: Path, valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def steps(_: gen.GenerateRequest) -> AsyncIterator[gen.GenerateResponse]:
        yield started()
        yield delta("flowchart TD")
        await asyncio.Event().wait()

    # Nobody else tells of it meanwhile.
    monkeypatch.setattr(spend, "LOOK_MS", 3_600_000)
    async with running_scheduler(sqlite_url(tmp_path), valkey.url, max_spend_nano_usd_per_day=1) as scheduler:
        scheduler.generator.steps = steps
        running = await scheduler.submit()
        await seen(
            lambda: scheduler.stub.Replay(replay(running)), lambda told: len(told.replayed[0].events) >= 2, "output"
        )
        assert await paused(scheduler) == set()
        await scheduler.stub.Cancel(pb.CancelRequest(request_id=running, user_id="ada"))
        await seen(lambda: paused(scheduler), {"opus", "sonnet", "haiku"}.__eq__, "a stop in every pool")


async def paused(scheduler: Scheduler) -> set[str]:
    """Pools that stand still for the site's limit."""
    pools = (await scheduler.stub.GetQueue(pb.GetQueueRequest())).pools
    return {pool.pool for pool in pools if pool.paused == pb.PAUSE_REASON_SPEND_LIMIT}


def replay(request_id: str) -> pb.ReplayRequest:
    return pb.ReplayRequest(items=[pb.ReplayItem(request_id=request_id, after=0, user_id="ada")])


@pytest.mark.parametrize("of", ["user", "tier"])
async def test_a_limit_below_nothing_is_refused(tmp_path: Path, valkey: ValkeyServer, of: str) -> None:
    async with running_scheduler(sqlite_url(tmp_path), valkey.url) as scheduler:
        with pytest.raises(Exception, match="no spend limit below 0"):
            await scheduler.submit(tier=terms(**{f"{of}_cap": -1}))
        assert (await scheduler.stub.GetQueue(pb.GetQueueRequest())).pools[0].tiers == []
