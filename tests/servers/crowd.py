"""Many requests sent to several schedulers while these come and go, and what must hold of them afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc
from headgate.generator.v1 import generator_pb2 as gen
from headgate.quota.v1 import quota_pb2 as quota
from headgate.scheduler.v1 import scheduler_pb2 as pb

from tests.servers.leftovers import leftovers, numbers_fall, odd_levels
from tests.servers.scheduler import DEADLINE_S, Scheduler, draws
from tests.servers.valkey import ValkeyServer

WITHIN_S = 60.0


async def until(condition: Callable[[], bool], what: str, within_s: float = WITHIN_S) -> None:
    """Returns once that can be seen."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        await asyncio.sleep(0.1)


class Load:
    """Sends one after the other, to whichever replica answers, every third like others; cancels some."""

    def __init__(self, replicas: list[Scheduler]) -> None:
        self.replicas = replicas
        self.accepted: dict[str, str] = {}
        """Whose each is."""
        self.cancelled: set[str] = set()
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
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            try:
                await self._random.choice(self.replicas).stub.Submit(submission, timeout=5)
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.05)
            else:
                self.accepted[request_id] = user
                return
        raise AssertionError(f"nobody accepts {request_id}")

    async def _cancel(self, request_id: str, user: str) -> None:
        self.cancelled.add(request_id)
        for one in self._random.sample(self.replicas, len(self.replicas)):
            try:
                await one.stub.Cancel(pb.CancelRequest(request_id=request_id, user_id=user), timeout=5)
                return
            except grpc.aio.AioRpcError:
                continue

    async def more(self, count: int) -> None:
        """Returns once that many more were accepted."""
        wanted = len(self.accepted) + count
        await until(lambda: len(self.accepted) >= wanted, f"{count} more accepted")


async def slowly(request: gen.GenerateRequest) -> AsyncIterator[gen.GenerateResponse]:
    """As long as an answer takes: half a second."""
    async for step in draws(request):
        yield step
        await asyncio.sleep(0.15)


@contextlib.asynccontextmanager
async def crowd(replicas: list[Scheduler], database_url: str, valkey: ValkeyServer) -> AsyncIterator[Load]:
    """Sends to the replicas as long as the block runs. Afterwards every request has ended once, was settled once and
    holds nothing; the first replica must be there to be asked."""
    load, over = Load(replicas), asyncio.Event()
    with valkey.client().pubsub() as events:
        events.psubscribe("hg:*:events")
        sending = asyncio.create_task(load.run(over))
        try:
            yield load
        finally:
            over.set()
            await sending
        with contextlib.suppress(AssertionError):
            await until(lambda: not leftovers(database_url, valkey), "nothing held")
        assert leftovers(database_url, valkey) == []
        await _all_ended_once(replicas[0], load)
        _settled_once(replicas[0].quota.settlements, set(load.accepted))
        assert odd_levels(valkey) == []
        assert numbers_fall(_published(events)) == []


async def _all_ended_once(asked: Scheduler, load: Load) -> None:
    attempts = Counter((request.request_id, request.attempt) for request in asked.generator.asked)
    assert {key: times for key, times in attempts.items() if times > 1} == {}, "the fence let two through"
    for request_id, user_id in load.accepted.items():
        row = await asked.stub.Get(pb.GetRequest(request_id=request_id, user_id=user_id))
        assert row.request.state in (pb.STATE_COMPLETED, pb.STATE_CANCELLED)


def _settled_once(settlements: Sequence[quota.Settlement], accepted: set[str]) -> None:
    """Each may be delivered twice, and then says the same."""
    ends: dict[str, set[bool]] = defaultdict(set)
    charges: dict[tuple[str, int, int], set[bytes]] = defaultdict(set)
    for s in settlements:
        if s.final:
            ends[s.request_id].add(s.counted)
        for charge in s.charges:
            charges[s.request_id, charge.attempt, charge.turn].add(charge.SerializeToString(deterministic=True))
    assert {request_id: counted for request_id, counted in ends.items() if len(counted) != 1} == {}
    assert {key: said for key, said in charges.items() if len(said) != 1} == {}
    assert ends.keys() == accepted


def _published(events: Any) -> list[str]:
    messages = []
    while (message := events.get_message(timeout=0.2)) is not None:
        if message["type"] == "pmessage":
            messages.append(message["data"])
    return messages
