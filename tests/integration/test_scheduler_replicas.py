"""Two schedulers on the same stores: each request is attempted once, watched from either, and one may go.

Broken on purpose, and red here: the sweep of leases left out, no bound by all slots in dispatch.lua, no rounds to wait
after a standstill.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
from headgate.generator.v1 import generator_pb2 as gen
from headgate.scheduler.v1 import scheduler_pb2 as pb

from services import sql
from services.rpc.status import Refusal
from services.scheduler.life import Retry
from services.scheduler.line import LEASE_MS, Identity, ValkeyLine, base_key, connect
from services.scheduler.store import SqlRequests
from tests.servers.crowd import Load, crowd, slowly, until
from tests.servers.replicas import replica
from tests.servers.scheduler import (
    Scheduler,
    drawn,
    draws,
    running_scheduler,
    second_replica,
    sqlite_url,
    started,
    used,
)
from tests.servers.valkey import ValkeyServer

POOL = "sonnet"


async def test_two_replicas_share_the_work(database_url: str, tmp_path: Path, valkey: ValkeyServer) -> None:
    async with (
        running_scheduler(database_url, valkey.url, provider_rpm=6000) as one,
        second_replica(one, tmp_path) as two,
    ):
        submissions = [(one, two)[n % 2].stub.Submit(one.submission()) for n in range(40)]
        ids = [answer.request.request_id for answer in await asyncio.gather(*submissions)]
        # Each watches from the replica that did not accept it.
        ends = await asyncio.gather(*((two, one)[n % 2].end(request_id) for n, request_id in enumerate(ids)))
        assert {ended.state for ended, _ in ends} == {pb.STATE_COMPLETED}
        assert [ended.attempts for ended, _ in ends] == [1] * 40
        assert Counter(request.request_id for request in one.generator.asked) == Counter(ids)
        for request_id in ids:
            await one.quota.end(request_id)
            # Both may deliver the same row of the outbox; it says the same.
            assert {s.counted for s in one.quota.ends(request_id)} == {True}


async def test_whoever_watches_sees_everything(database_url: str, tmp_path: Path, valkey: ValkeyServer) -> None:
    """At the replica that accepted it, at the one that attempts it, and at any other."""
    async with (
        running_scheduler(database_url, valkey.url, provider_rpm=6000) as one,
        second_replica(one, tmp_path) as two,
    ):
        door = asyncio.Event()

        async def steps(request: gen.GenerateRequest) -> AsyncIterator[gen.GenerateResponse]:
            await door.wait()
            async for step in draws(request):
                yield step

        one.generator.steps = steps
        ids = [await (one, two)[n % 2].submit(request_id=f"req_{n}") for n in range(12)]
        watching = [asyncio.create_task(replica.end(i)) for i in ids for replica in (one, two)]
        await one.generator.until(lambda: len(one.generator.asked) == len(ids), "all attempts")
        door.set()
        for ended, kinds in await asyncio.gather(*watching):
            assert (ended.state, ended.attempts) == (pb.STATE_COMPLETED, 1)
            assert [kind for kind in kinds if kind != "status"] == ["processing", "delta", "ended"]
        assert Counter(request.request_id for request in one.generator.asked) == Counter(ids)


async def test_what_a_replica_leaves_the_other_takes_over(tmp_path: Path, valkey: ValkeyServer) -> None:
    door = asyncio.Event()

    async def steps(request: gen.GenerateRequest) -> AsyncIterator[gen.GenerateResponse]:
        yield started()
        if request.attempt == 1:
            await door.wait()
        yield used()
        yield drawn()

    async with running_scheduler(sqlite_url(tmp_path), valkey.url) as one:
        one.generator.steps = steps
        async with second_replica(one, tmp_path) as two:
            ids = [await two.submit() for _ in range(12)]
            await one.generator.until(lambda: len(one.generator.asked) == 12, "twelve attempts, on both")
        one.generator.steps = draws
        door.set()
        for request_id in ids:
            ended, _ = await one.end(request_id)
            assert ended.state == pb.STATE_COMPLETED
            assert ended.attempts <= 2
            assert (await one.quota.end(request_id)).counted


async def test_two_replicas_never_ask_more_of_the_workers_than_they_have(tmp_path: Path, valkey: ValkeyServer) -> None:
    """Each sees the same four slots; together they use them all and are refused by none."""
    running, most, refused = 0, 0, 0

    async def steps(request: gen.GenerateRequest) -> AsyncIterator[gen.GenerateResponse]:
        nonlocal running, most, refused
        if running >= 4:
            refused += 1
            raise Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "BUSY", "No slot.", "generator.headgate")
        running += 1
        most = max(most, running)
        try:
            async for step in draws(request):
                await asyncio.sleep(0.01)
                yield step
        finally:
            running -= 1

    async with (
        running_scheduler(sqlite_url(tmp_path), valkey.url, provider_rpm=60_000, generator_slots=4) as one,
        second_replica(one, tmp_path) as two,
    ):
        one.generator.steps = steps
        submissions = [(one, two)[n % 2].stub.Submit(one.submission()) for n in range(60)]
        ids = [answer.request.request_id for answer in await asyncio.gather(*submissions)]
        ends = await asyncio.gather(*((one, two)[n % 2].end(request_id) for n, request_id in enumerate(ids)))
        assert {ended.attempts for ended, _ in ends} == {1}
        assert (most, refused) == (4, 0)


async def test_a_cancel_at_one_stops_the_attempt_of_the_other(tmp_path: Path, valkey: ValkeyServer) -> None:
    async def steps(_: gen.GenerateRequest) -> AsyncIterator[gen.GenerateResponse]:
        yield started()
        await asyncio.Event().wait()

    async with (
        running_scheduler(sqlite_url(tmp_path), valkey.url) as one,
        second_replica(one, tmp_path) as two,
    ):
        one.generator.steps = steps
        ids = [await one.submit() for _ in range(6)]
        await one.generator.until(lambda: len(one.generator.asked) == 6, "six attempts")
        for request_id in ids:
            await two.stub.Cancel(pb.CancelRequest(request_id=request_id, user_id="ada"))
        await one.generator.until(lambda: sorted(one.generator.cancelled) == sorted(ids), "all stopped upstream")


async def test_one_rebuilds_and_both_go_on(tmp_path: Path, own_valkey: ValkeyServer) -> None:
    async with (
        running_scheduler(sqlite_url(tmp_path), own_valkey.url, provider_rpm=600) as one,
        second_replica(one, tmp_path) as two,
    ):
        ids = [await (one, two)[n % 2].submit() for n in range(10)]
        own_valkey.kill()
        own_valkey.lose_data()
        own_valkey.start()
        for request_id in ids:
            ended, _ = await two.end(request_id)
            assert ended.state == pb.STATE_COMPLETED
        for request_id in ids:
            assert (await one.quota.end(request_id)).counted


async def test_replicas_join_leave_and_die_under_load(database_url: str, tmp_path: Path, valkey: ValkeyServer) -> None:
    """Processes of their own: one joins, leaves as a rollout has it, joins again and is killed at its work."""
    settings = {"provider_rpm": 1200, "cache_scope": "global", "drain_ms": 2_000}
    async with (
        running_scheduler(database_url, valkey.url, **settings) as stays,
        replica(stays, tmp_path, "comes-and-goes") as goes,
        crowd([stays, goes], database_url, valkey) as load,
    ):
        stays.generator.steps = slowly
        await load.more(30)
        await goes.stop()
        assert broken(stays, load) == {}, "what it had begun it saw to its end"
        await load.more(10)
        await goes.start()
        await load.more(30)
        await goes.kill()
        await stays.generator.until(lambda: bool(broken(stays, load)), "the end of its streams")
        await until(
            lambda: all(goes_on(stays, request_id, times) for request_id, times in broken(stays, load).items()),
            "what it had begun is begun again",
            # A lease, a sweep for it, and what a busy machine takes.
            within_s=LEASE_MS / 1000 + 5,
        )


def broken(one: Scheduler, load: Load) -> Counter[str]:
    """How many attempts at each request broke off, though nobody had cancelled it."""
    return Counter(request_id for request_id in one.generator.cancelled if request_id not in load.cancelled)


def goes_on(one: Scheduler, request_id: str, broken_off: int) -> bool:
    """It is attempted again, or ended with an equal one."""
    attempts = sum(request.request_id == request_id for request in one.generator.asked)
    return attempts > broken_off or bool(one.quota.ends(request_id))


async def test_no_running_attempt_is_lost_while_valkey_stands_still(tmp_path: Path, own_valkey: ValkeyServer) -> None:
    """All leases run out at once, and whoever sweeps first must not take them for the other's dead."""
    door = asyncio.Event()

    async def steps(_: gen.GenerateRequest) -> AsyncIterator[gen.GenerateResponse]:
        yield started()
        while not door.is_set():
            yield gen.GenerateResponse(heartbeat=gen.Heartbeat())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(door.wait(), 3)
        yield used()
        yield drawn()

    async with (
        running_scheduler(sqlite_url(tmp_path), own_valkey.url, provider_rpm=6000) as one,
        second_replica(one, tmp_path) as two,
    ):
        one.generator.steps = steps
        ids = [await (one, two)[n % 2].submit(request_id=f"req_{n}") for n in range(30)]
        await one.generator.until(lambda: len(one.generator.asked) == 30, "all attempts, on both")
        own_valkey.pause()
        await asyncio.sleep((LEASE_MS + 1_000) / 1000)
        own_valkey.resume()
        client = own_valkey.client()

        def overdue() -> int:
            return client.zcount(f"{base_key(POOL)}leases", "-inf", client.time()[0] * 1000 + LEASE_MS // 2)

        await until(lambda: not overdue(), "leases that last again")
        door.set()
        for request_id in ids:
            ended, _ = await one.end(request_id)
            assert (ended.state, ended.attempts) == (pb.STATE_COMPLETED, 1)


async def test_an_attempt_that_another_gave_up_ends_where_the_next_one_runs(
    tmp_path: Path, valkey: ValkeyServer
) -> None:
    """The first one's end took the second one's name off the list of what runs, and nobody renewed its lease."""

    async def steps(_: gen.GenerateRequest) -> AsyncIterator[gen.GenerateResponse]:
        yield started()
        while True:
            yield gen.GenerateResponse(heartbeat=gen.Heartbeat())
            await asyncio.sleep(1)

    url = sqlite_url(tmp_path)
    async with running_scheduler(url, valkey.url, provider_rpm=6000) as one:
        one.generator.steps = steps
        request_id = await one.submit()
        await one.generator.until(lambda: len(one.generator.asked) == 1, "an attempt")
        await give_up(url, valkey, request_id)
        await one.generator.until(lambda: len(one.generator.asked) == 2, "another one")
        await one.generator.until(lambda: one.generator.cancelled == [request_id], "the end of the first")
        leases, client = f"{base_key(POOL)}leases", valkey.client()
        lease_ms = client.zscore(leases, request_id)
        await until(lambda: client.zscore(leases, request_id) != lease_ms, "a renewal", within_s=LEASE_MS / 1000)


async def give_up(url: str, valkey: ValkeyServer, request_id: str) -> None:
    """What a replica does that takes a first attempt for lost."""
    database = sql.connect(url)
    identity = Identity(1, valkey.client().info("server")["run_id"])
    client = connect(valkey.url, identity)
    queued = await SqlRequests(database).requeue(request_id, 1, Retry(0, "Lost."), [], 0)
    assert queued
    assert await ValkeyLine(client, identity).requeue(queued, None, None, None)
    await client.aclose()
    await database.close()
