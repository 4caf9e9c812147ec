"""The release before this one and today's, on the same stores and under load: each takes over what the other leaves."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from headgate.generator.v1 import generator_pb2 as gen
from headgate.scheduler.v1 import scheduler_pb2 as pb

from services.templates import VERSION
from tests.servers.leftovers import leftovers, numbers_fall, odd_levels
from tests.servers.postgres import PostgresServer
from tests.servers.replicas import released, replica
from tests.servers.scheduler import Scheduler, draws, migrate, running_scheduler, sqlite_url, started, used
from tests.servers.valkey import ValkeyServer

WITHIN_S = 60.0


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield sqlite_url(tmp_path)
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = server.cloned("scheduler_template", migrate)
    yield server.url(name)
    server.drop(name)


class Load:
    """Sends one after the other, to whichever replica answers, every third like others; cancels some."""

    def __init__(self, replicas: list[Scheduler]) -> None:
        self.replicas = replicas
        self.accepted: dict[str, str] = {}
        """Whose each is."""
        self._random = random.Random(4)

    async def run(self, over: asyncio.Event) -> None:
        number = 0
        while not over.is_set():
            number += 1
            prompt = f"The same {number // 30}" if number % 3 == 0 else f"Another {number}"
            user = f"user-{number % 5}"
            await self._until_accepted(f"req_{number:022d}", prompt, user)
            if number % 10 == 0:
                await self._cancel(f"req_{number:022d}", user)
            await asyncio.sleep(0.02)

    async def _until_accepted(self, request_id: str, prompt: str, user: str) -> None:
        submission = self.replicas[0].submission(request_id=request_id, user_id=user, prompt=prompt, max_tokens=500)
        while True:
            try:
                await self._random.choice(self.replicas).stub.Submit(submission, timeout=5)
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.05)
                continue
            self.accepted[request_id] = user
            return

    async def _cancel(self, request_id: str, user: str) -> None:
        for one in self._random.sample(self.replicas, len(self.replicas)):
            try:
                await one.stub.Cancel(pb.CancelRequest(request_id=request_id, user_id=user), timeout=5)
                return
            except grpc.aio.AioRpcError:
                continue

    async def more(self, count: int) -> None:
        """Returns once that many more were accepted."""
        wanted, deadline = len(self.accepted) + count, time.monotonic() + WITHIN_S
        while len(self.accepted) < wanted:
            assert time.monotonic() < deadline, f"only {len(self.accepted)} of {wanted} were accepted"
            await asyncio.sleep(0.05)


async def slowly(request: gen.GenerateRequest) -> AsyncIterator[gen.GenerateResponse]:
    """As long as an answer takes: half a second."""
    async for step in draws(request):
        yield step
        await asyncio.sleep(0.15)


async def test_both_releases_serve_the_same_line(database_url: str, tmp_path: Path, valkey: ValkeyServer) -> None:
    settings = {"provider_rpm": 1200, "cache_scope": "global", "generator_slots": 8, "drain_ms": 500}
    before = released(tmp_path / "before")
    async with running_scheduler(database_url, valkey.url, **settings) as today:
        # It has brought the schema up; the processes do the rest.
        await today.stop()
        today.generator.steps = slowly
        async with replica(today, tmp_path, "old", before) as old, replica(today, tmp_path, "new") as new:
            events = valkey.client().pubsub()
            events.psubscribe("hg:*:events")
            load, over = Load([old, new]), asyncio.Event()
            sending = asyncio.create_task(load.run(over))
            for leaver in (old, new):
                for leave in (leaver.kill, leaver.stop):
                    await load.more(25)
                    await leave()
                    await load.more(10)
                    await leaver.start()
            await load.more(20)
            over.set()
            await sending
            await nothing_is_left(database_url, valkey)
            await all_ended_once(new, load)
            assert odd_levels(valkey) == []
            assert numbers_fall(published(events)) == []


async def nothing_is_left(database_url: str, valkey: ValkeyServer) -> None:
    deadline = time.monotonic() + WITHIN_S
    while rest := leftovers(database_url, valkey):
        assert time.monotonic() < deadline, rest
        await asyncio.sleep(0.2)


async def all_ended_once(asked: Scheduler, load: Load) -> None:
    attempts = Counter((request.request_id, request.attempt) for request in asked.generator.asked)
    assert {key: times for key, times in attempts.items() if times > 1} == {}, "the fence let two through"
    for request_id, user_id in load.accepted.items():
        row = await asked.stub.Get(pb.GetRequest(request_id=request_id, user_id=user_id))
        assert row.request.state in (pb.STATE_COMPLETED, pb.STATE_CANCELLED)
        # It may be delivered twice, and says the same.
        assert len({s.counted for s in asked.quota.ends(request_id)}) == 1


def published(events: Any) -> list[str]:
    messages = []
    while (message := events.get_message(timeout=0.2)) is not None:
        if message["type"] == "pmessage":
            messages.append(message["data"])
    return messages


async def test_an_answer_cut_short_that_the_release_before_kept_is_given_to_nobody(
    tmp_path: Path, valkey: ValkeyServer
) -> None:
    """It leaves the key that today's put on the row, whatever the answer is like."""

    async def cut_short(_: gen.GenerateRequest) -> AsyncIterator[gen.GenerateResponse]:
        yield started()
        yield used()
        yield gen.GenerateResponse(result=gen.Result(source="flowchart", truncated=True, template_version=VERSION))

    nobody = (f"unix:{tmp_path}/nobody.sock",)
    settings = {"cache_scope": "global", "generator_addresses": nobody}
    async with running_scheduler(sqlite_url(tmp_path), valkey.url, **settings) as today:
        today.generator.steps = cut_short
        first = await today.submit()
        workers = (today.environment["quota_address"].replace("quota", "generator"),)
        async with replica(today, tmp_path, "old", released(tmp_path), generator_addresses=workers) as old:
            ended, _ = await old.end(first)
            assert (ended.state, ended.truncated) == (pb.STATE_COMPLETED, True)
        again = await today.stub.Submit(today.submission())
        assert again.request.state == pb.STATE_QUEUED
