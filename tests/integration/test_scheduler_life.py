"""A request's life through the whole scheduler: real gRPC, real SQL, a real Valkey."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import redis.asyncio as redis
from grpc_health.v1 import health_pb2, health_pb2_grpc
from headgate.generator.v1 import generator_pb2 as gen
from headgate.scheduler.v1 import scheduler_pb2 as pb

from services.rpc.status import refusal_of
from tests.servers.scheduler import (
    SOURCE,
    Scheduler,
    asked,
    delta,
    drawn,
    draws,
    running_scheduler,
    sqlite_url,
    started,
    upstream,
    used,
    within,
)
from tests.servers.valkey import ValkeyServer


@pytest.fixture
async def scheduler(tmp_path: Path, valkey: ValkeyServer) -> AsyncIterator[Scheduler]:
    async with running_scheduler(sqlite_url(tmp_path), valkey.url) as running:
        yield running


async def test_a_request_is_drawn_counted_once_and_priced(scheduler: Scheduler) -> None:
    request_id = await scheduler.submit()
    ended, kinds = await scheduler.end(request_id)
    assert (ended.state, ended.result, ended.has_svg) == (pb.STATE_COMPLETED, SOURCE, True)
    assert [k for k in kinds if k != "status"] == ["processing", "delta", "ended"]
    settlement = await scheduler.quota.end(request_id)
    assert settlement.counted
    assert [(c.attempt, c.turn, c.cost_nano_usd, c.estimated) for c in settlement.charges] == [
        (1, 1, 100 * 2000 + 50 * 10000, False)
    ]
    assert (await scheduler.get(request_id)).cost_nano_usd == 700_000


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("REJECTED", pb.FAILURE_CODE_PROVIDER_REJECTED),
        ("REFUSED", pb.FAILURE_CODE_REFUSED),
        ("INVALID_DIAGRAM", pb.FAILURE_CODE_INVALID_DIAGRAM),
    ],
)
async def test_what_cannot_succeed_fails_at_once_uncounted(scheduler: Scheduler, kind: str, code: int) -> None:
    async def steps(_: gen.GenerateRequest) -> AsyncIterator[gen.GenerateResponse]:
        yield started()
        yield used()
        raise upstream(kind)

    scheduler.generator.steps = steps
    request_id = await scheduler.submit()
    ended, _ = await scheduler.end(request_id)
    assert (ended.state, ended.code, ended.attempts) == (pb.STATE_FAILED, code, 1)
    settlement = await scheduler.quota.end(request_id)
    assert not settlement.counted
    assert len(settlement.charges) == 1, "its cost is in the ledger all the same"


async def test_a_429_is_waited_out_by_the_whole_pool(scheduler: Scheduler) -> None:
    loop, times = asyncio.get_running_loop(), []

    async def steps(request: gen.GenerateRequest) -> AsyncIterator[gen.GenerateResponse]:
        times.append(loop.time())
        if len(times) == 1:
            raise upstream("RATE_LIMITED", retry_after_ms=1000)
        async for step in draws(request):
            yield step

    scheduler.generator.steps = steps
    first = await scheduler.submit()
    await scheduler.generator.until(lambda: len(scheduler.generator.asked) == 1, "a first try")
    others = [await scheduler.submit() for _ in range(3)]
    ended, kinds = await scheduler.end(first)
    assert (ended.state, ended.attempts) == (pb.STATE_COMPLETED, 2)
    assert "retrying" in kinds
    for request_id in others:
        await scheduler.end(request_id)
    assert min(t - times[0] for t in times[1:]) >= 0.9, "nothing was sent while the pause was in force"


async def test_an_outage_is_retried_and_said_so(scheduler: Scheduler) -> None:
    async def steps(request: gen.GenerateRequest) -> AsyncIterator[gen.GenerateResponse]:
        if request.attempt < 3:
            raise upstream("UNAVAILABLE")
        async for step in draws(request):
            yield step

    scheduler.generator.steps = steps
    ended, kinds = await scheduler.end(await scheduler.submit())
    assert (ended.state, ended.attempts) == (pb.STATE_COMPLETED, 3)
    assert kinds.count("retrying") == 2


async def test_a_lost_worker_costs_nothing_but_the_retry_and_three_end_it(scheduler: Scheduler) -> None:
    async def steps(_: gen.GenerateRequest) -> AsyncIterator[gen.GenerateResponse]:
        yield started()
        yield delta("flow")
        raise RuntimeError("killed")

    scheduler.generator.steps = steps
    request_id = await scheduler.submit()
    ended, kinds = await scheduler.end(request_id)
    assert (ended.state, ended.code, ended.attempts) == (pb.STATE_FAILED, pb.FAILURE_CODE_WORKER_LOST, 3)
    assert kinds.count("retrying") == 2
    assert not (await scheduler.quota.end(request_id)).counted
    charges = [c for s in scheduler.quota.settlements for c in s.charges]
    assert {(c.attempt, c.estimated) for c in charges} == {(1, True), (2, True), (3, True)}


@pytest.mark.parametrize(
    ("told", "paid"),
    [
        ([], set()),
        ([asked(1)], {(1, 1, True)}),
        ([asked(1), started(), used(), asked(2)], {(1, 1, False), (1, 2, True)}),
    ],
)
async def test_what_was_asked_of_the_provider_is_paid_though_the_worker_was_lost(
    scheduler: Scheduler, told: list[gen.GenerateResponse], paid: set[tuple[int, int, bool]]
) -> None:
    async def steps(request: gen.GenerateRequest) -> AsyncIterator[gen.GenerateResponse]:
        for message in told if request.attempt == 1 else [started(), used(), drawn()]:
            yield message
        if request.attempt == 1:
            raise RuntimeError("killed")

    scheduler.generator.steps = steps
    request_id = await scheduler.submit()
    ended, _ = await scheduler.end(request_id)
    assert ended.state == pb.STATE_COMPLETED
    await scheduler.quota.end(request_id)
    charges = [c for s in scheduler.quota.settlements for c in s.charges]
    assert {(c.attempt, c.turn, c.estimated) for c in charges} == paid | {(2, 1, False)}


async def test_what_is_cancelled_before_its_worker_says_a_word_may_have_been_asked(scheduler: Scheduler) -> None:
    given = asyncio.Event()

    async def steps(_: gen.GenerateRequest) -> AsyncIterator[gen.GenerateResponse]:
        given.set()
        await asyncio.Event().wait()
        yield started()

    scheduler.generator.steps = steps
    request_id = await scheduler.submit()
    await within(given.wait(), "the worker gets it")
    await scheduler.stub.Cancel(pb.CancelRequest(request_id=request_id, user_id="ada"))
    async with scheduler.quota.changed:
        told = scheduler.quota.settlements
        await within(scheduler.quota.changed.wait_for(lambda: any(s.charges for s in told)), "its charge")
    (charge,) = [c for s in scheduler.quota.settlements for c in s.charges]
    assert (charge.turn, charge.output_tokens, charge.estimated) == (1, 1, True)


@pytest.mark.parametrize("shown", [False, True])
async def test_a_cancelled_request_stops_upstream_and_counts_if_output_was_shown(
    scheduler: Scheduler, shown: bool
) -> None:
    never = asyncio.Event()

    async def steps(_: gen.GenerateRequest) -> AsyncIterator[gen.GenerateResponse]:
        yield started()
        if shown:
            yield delta("flowchart TD")
        await never.wait()

    scheduler.generator.steps = steps
    request_id = await scheduler.submit()
    async with scheduler.watch(request_id) as following:
        awaited = "delta" if shown else "processing"
        replay = pb.ReplayRequest(items=[pb.ReplayItem(request_id=request_id, after=0)])
        seen = [e.WhichOneof("event") for e in (await scheduler.stub.Replay(replay)).replayed[0].events]
        while awaited not in seen:
            seen.append((await following()).WhichOneof("event"))
        answer = await scheduler.stub.Cancel(pb.CancelRequest(request_id=request_id, user_id="ada"))
        assert answer.request.state == pb.STATE_CANCELLED
        while (event := await following()).WhichOneof("event") != "ended":
            pass
        assert event.ended.code == pb.FAILURE_CODE_CANCELLED
    assert (await scheduler.quota.end(request_id)).counted is shown
    again = await scheduler.stub.Cancel(pb.CancelRequest(request_id=request_id, user_id="ada"))
    assert again.request.state == pb.STATE_CANCELLED
    assert len(scheduler.generator.asked) == 1
    await until(lambda: scheduler.generator.cancelled == [request_id])


async def until(condition: Any) -> None:
    async def poll() -> None:
        while not condition():
            await asyncio.sleep(0)

    await within(poll(), "a condition")


async def test_a_deadline_ends_what_is_queued_and_gives_the_place_back(scheduler: Scheduler) -> None:
    async def steps(_: gen.GenerateRequest) -> AsyncIterator[gen.GenerateResponse]:
        raise upstream("RATE_LIMITED", retry_after_ms=60_000)
        yield started()

    scheduler.generator.steps = steps
    request_id = await scheduler.submit(max_wait_ms=1_000)
    ended, _ = await scheduler.end(request_id)
    assert (ended.state, ended.code) == (pb.STATE_EXPIRED, pb.FAILURE_CODE_EXPIRED)
    assert not (await scheduler.quota.end(request_id)).counted


async def test_twenty_equal_submits_are_one_request(scheduler: Scheduler) -> None:
    submission = scheduler.submission(idempotent=True)
    answers = await asyncio.gather(*(scheduler.stub.Submit(submission) for _ in range(20)))
    assert sum(not a.replayed for a in answers) == 1
    await scheduler.end(submission.request_id)
    assert len(scheduler.generator.asked) == 1
    await scheduler.quota.end(submission.request_id)
    assert len(scheduler.quota.ends(submission.request_id)) == 1


async def test_settlements_wait_for_quota(scheduler: Scheduler) -> None:
    scheduler.quota.down = True
    request_id = await scheduler.submit()
    await scheduler.end(request_id)
    assert scheduler.quota.settlements == []
    scheduler.quota.down = False
    assert (await scheduler.quota.end(request_id)).counted


async def test_a_settlement_that_is_refused_holds_up_no_other(scheduler: Scheduler) -> None:
    scheduler.quota.refuses = {"eve"}
    scheduler.quota.down = True
    users = ("ada", "eve", "ada")
    ids = [await scheduler.submit(user_id=user) for user in users]
    for request_id, user in zip(ids, users, strict=True):
        await scheduler.end(request_id, user)
    scheduler.quota.down = False
    for request_id in (ids[0], ids[2]):
        assert (await scheduler.quota.end(request_id)).counted
    assert scheduler.quota.ends(ids[1]) == []


async def test_a_restart_puts_back_what_ran_and_nothing_is_lost(scheduler: Scheduler) -> None:
    held = asyncio.Event()

    async def steps(request: gen.GenerateRequest) -> AsyncIterator[gen.GenerateResponse]:
        yield started()
        if request.attempt == 1:
            await held.wait()
        for step in (used(), drawn()):
            yield step

    scheduler.generator.steps = steps
    ids = [await scheduler.submit() for _ in range(5)]
    await scheduler.generator.until(lambda: len(scheduler.generator.asked) == 5, "five attempts")
    await scheduler.stop()
    await scheduler.start()
    for request_id in ids:
        ended, _ = await scheduler.end(request_id)
        assert (ended.state, ended.attempts) == (pb.STATE_COMPLETED, 2)
        await scheduler.quota.end(request_id)
        assert len(scheduler.quota.ends(request_id)) == 1


async def test_valkey_may_lose_everything(tmp_path: Path, own_valkey: ValkeyServer) -> None:
    async with running_scheduler(sqlite_url(tmp_path), own_valkey.url, provider_rpm=600) as scheduler:
        ids = [await scheduler.submit() for _ in range(10)]
        own_valkey.kill()
        own_valkey.lose_data()
        while_away = await scheduler.stub.Submit(scheduler.submission())
        assert while_away.request.place.paused == pb.PAUSE_REASON_STORAGE
        assert while_away.request.place.position >= 1
        own_valkey.start()
        for request_id in [*ids, while_away.request.request_id]:
            ended, _ = await scheduler.end(request_id)
            assert ended.state == pb.STATE_COMPLETED
        for request_id in ids:
            await scheduler.quota.end(request_id)
            assert len(scheduler.quota.ends(request_id)) == 1


async def test_headers_change_the_limit_in_force(scheduler: Scheduler) -> None:
    async def steps(_: gen.GenerateRequest) -> AsyncIterator[gen.GenerateResponse]:
        for step in (started(requests=77), used(), drawn()):
            yield step

    scheduler.generator.steps = steps
    await scheduler.end(await scheduler.submit())
    pools = {p.pool: p for p in (await scheduler.stub.GetCapacity(pb.GetCapacityRequest())).pools}
    limits = {limit.dimension: limit for limit in pools["sonnet"].limits}
    assert (limits["requests"].limit, limits["requests"].source) == (77, "header")


async def test_places_are_told_and_fall(tmp_path: Path, valkey: ValkeyServer) -> None:
    async with running_scheduler(sqlite_url(tmp_path), valkey.url, provider_rpm=120) as scheduler:
        ids = [await scheduler.submit() for _ in range(8)]
        places = []
        async with scheduler.watch(ids[-1]) as following:
            while (event := await following()).WhichOneof("event") != "ended":
                if event.HasField("status"):
                    places.append((event.status.position, event.status.estimated_wait.ToMilliseconds()))
        assert len(places) >= 2
        assert places == sorted(places, reverse=True)
        assert all(position >= 1 and wait % 100 == 0 for position, wait in places)


async def test_an_upgrade_moves_what_is_queued(scheduler: Scheduler) -> None:
    scheduler.generator.steps = paused_for_long
    first = await scheduler.submit()
    await scheduler.generator.until(lambda: len(scheduler.generator.asked) == 1, "a pause")
    waiting = [await scheduler.submit(name="free", share=1) for _ in range(3)]
    change = pb.TierChange(user_id="ada", tier=pb.TierTerms(name="enterprise", version=9, share=8, outstanding=1000))
    older = pb.TierChange(user_id="ada", tier=pb.TierTerms(name="basic", version=8, share=2, outstanding=25))
    for changes in ([change], [older], [change]):
        await scheduler.stub.ApplyTiers(pb.ApplyTiersRequest(changes=changes))
        for request_id in [first, *waiting]:
            assert (await scheduler.get(request_id)).tier == "enterprise"
    queue = await scheduler.stub.GetQueue(pb.GetQueueRequest())
    tiers = {tier.tier: tier.queued for pool in queue.pools for tier in pool.tiers}
    assert tiers == {"enterprise": 4}


async def paused_for_long(_: gen.GenerateRequest) -> AsyncIterator[gen.GenerateResponse]:
    raise upstream("RATE_LIMITED", retry_after_ms=60_000)
    yield started()


BAD = [
    ("request_id", {"request_id": ""}, "INVALID_REQUEST"),
    ("user_id", {"user_id": ""}, "INVALID_REQUEST"),
    ("generation", {"generation": 0}, "INVALID_REQUEST"),
    ("day", {"day": ""}, "INVALID_REQUEST"),
    ("empty prompt", {"prompt": " \n"}, "INVALID_REQUEST"),
    ("huge prompt", {"prompt": "x" * 100_001}, "TOO_LARGE"),
    ("kind", {"diagram_type": "painting"}, "INVALID_REQUEST"),
    ("model", {"model": "gpt-9", "all_models": True}, "UNKNOWN_MODEL"),
    ("model of another tier", {"model": "claude-opus-5-5"}, "MODEL_NOT_ALLOWED"),
    ("too many tokens", {"max_tokens": 32_769}, "INVALID_REQUEST"),
    ("negative tokens", {"max_tokens": -1}, "INVALID_REQUEST"),
    ("priority", {"priority": 11}, "INVALID_REQUEST"),
    ("short wait", {"max_wait_ms": 999}, "INVALID_REQUEST"),
    ("long wait", {"max_wait_ms": 86_400_001}, "INVALID_REQUEST"),
    ("share", {"share": 0}, "INVALID_REQUEST"),
    ("cap", {"outstanding": 0}, "CONCURRENCY_LIMIT_EXCEEDED"),
    ("settled and unknown", {"settled": True}, "NOT_FOUND"),
]


async def test_bad_input_is_refused_with_its_reason_and_changes_nothing(scheduler: Scheduler) -> None:
    for name, changes, reason in BAD:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await scheduler.stub.Submit(scheduler.submission(**changes))
        refusal = refusal_of(refused.value)
        assert (name, refusal.reason, refusal.domain) == (name, reason, "scheduler.headgate")
    assert scheduler.generator.asked == []
    listed = await scheduler.stub.List(pb.ListRequest(user_id="ada"))
    assert list(listed.requests) == []


async def test_what_is_another_users_is_not_found(scheduler: Scheduler) -> None:
    request_id = await scheduler.submit()
    for call in (
        scheduler.stub.Get(pb.GetRequest(request_id=request_id, user_id="eve")),
        scheduler.stub.Cancel(pb.CancelRequest(request_id=request_id, user_id="eve")),
        scheduler.stub.Submit(scheduler.submission(request_id=request_id, user_id="eve")),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        assert refusal_of(refused.value).reason == "NOT_FOUND"
    bare = (await scheduler.stub.Get(pb.GetRequest(request_id=request_id))).request
    assert (bare.user_id, bare.prompt, bare.cost_nano_usd) == ("", "", 0)


@pytest.mark.parametrize("token", ["²", "9" * 30, "x", "-1", "1 OR 1"])
async def test_a_cursor_that_was_not_made_here_is_refused(scheduler: Scheduler, token: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await scheduler.stub.List(pb.ListRequest(user_id="ada", page_token=token))
    assert refusal_of(refused.value).reason == "INVALID_REQUEST"


async def test_what_is_erased_cannot_be_replayed(scheduler: Scheduler) -> None:
    request_id = await scheduler.submit()
    await scheduler.end(request_id)
    await scheduler.stub.Cancel(pb.CancelRequest(request_id=request_id, user_id="ada", erase=True))
    ask = pb.ReplayRequest(items=[pb.ReplayItem(request_id=request_id, after=0)])
    replayed = (await scheduler.stub.Replay(ask)).replayed[0]
    assert [event.WhichOneof("event") for event in replayed.events] == ["ended"]
    assert SOURCE not in str(replayed)


async def test_an_end_that_comes_while_the_state_is_read_is_not_hidden(
    scheduler: Scheduler, valkey: ValkeyServer
) -> None:
    scheduler.generator.steps = never_ends
    request_id = await scheduler.submit()
    await scheduler.generator.until(lambda: bool(scheduler.generator.asked), "the attempt")
    # As if the request had ended between the look at its row, which says running, and that at its log.
    async with redis.from_url(valkey.url) as client:
        await client.xadd(f"hg:{{sonnet}}:log:{request_id}", {"e": '{"type": "ended"}'}, "9-1")
    replay = pb.ReplayRequest(items=[pb.ReplayItem(request_id=request_id)])
    replayed = (await scheduler.stub.Replay(replay)).replayed[0]
    assert replayed.request.state == pb.STATE_RUNNING
    assert replayed.seq < 9


async def test_the_outstanding_cap_holds_under_concurrent_submits(tmp_path: Path, valkey: ValkeyServer) -> None:
    async with running_scheduler(sqlite_url(tmp_path), valkey.url) as scheduler:
        scheduler.generator.steps = never_ends
        submissions = [scheduler.submission(outstanding=10) for _ in range(50)]
        answers = await asyncio.gather(*(scheduler.stub.Submit(s) for s in submissions), return_exceptions=True)
        refused = [refusal_of(a) for a in answers if isinstance(a, grpc.aio.AioRpcError)]
        assert len(refused) == 40
        assert {r.reason for r in refused} == {"CONCURRENCY_LIMIT_EXCEEDED"}
        assert refused[0].metadata == {"outstanding": "10", "limit": "10"}


async def never_ends(_: gen.GenerateRequest) -> AsyncIterator[gen.GenerateResponse]:
    yield started()
    await asyncio.Event().wait()


async def test_health_is_served_for_the_service(scheduler: Scheduler) -> None:
    async with grpc.aio.insecure_channel(scheduler.environment["listen"]) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service="headgate.scheduler.v1.SchedulerService"))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
