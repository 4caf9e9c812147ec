"""Server-sent events, and the hub behind every watcher."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
from headgate.scheduler.v1 import scheduler_pb2 as sched

from tests.servers.gateway import DEADLINE_S, KEY, OTHER_KEY, Running, place, scheduler_refusal

ID = "req_0000000000000000000001"
PATH = f"/api/diagram/{ID}/events"


def delta(seq: int, text: str = "a") -> sched.Event:
    return sched.Event(request_id=ID, seq=seq, delta=sched.Delta(text=text, attempt=1))


class Events:
    """One stream as an EventSource reads it."""

    def __init__(self, response: Any) -> None:
        self.response = response
        self._lines = response.aiter_lines()
        self.comments = 0

    async def next(self) -> tuple[str, str, dict[str, Any]] | None:
        """The next event as (id, event, data); None at the end."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(DEADLINE_S):
            async for line in self._lines:
                name, _, value = line.partition(": ")
                if line.startswith(":"):
                    self.comments += 1
                elif line:
                    fields[name] = value
                elif "data" in fields:
                    return fields["id"], fields["event"], json.loads(fields["data"])
        return None

    async def seqs(self) -> list[int]:
        """The numbers of all that follows."""
        seqs = []
        while (event := await self.next()) is not None:
            assert event[0] == str(event[2]["seq"])
            seqs.append(event[2]["seq"])
        return seqs


@contextlib.asynccontextmanager
async def listening(gateway: Running, **headers: str) -> AsyncIterator[Events]:
    async with gateway.http.stream("GET", PATH, headers=headers) as response:
        yield Events(response)


async def test_a_stream_tells_all_and_ends_with_the_last(gateway: Running) -> None:
    gateway.scheduler.add(ID)
    async with listening(gateway) as events:
        headers = events.response.headers
        assert (events.response.status_code, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        assert (headers["cache-control"], headers["x-accel-buffering"]) == ("no-cache, no-transform", "no")
        assert "content-encoding" not in headers
        told = [await events.next()]
        gateway.scheduler.emit(delta(3, "gr\nph"))
        gateway.scheduler.finish(ID, 4, result="graph")
        told += [await events.next(), await events.next()]
        assert await events.next() is None
    assert [(e[0], e[1]) for e in told if e] == [("0", "status"), ("3", "delta"), ("4", "completed")]
    assert told[1] is not None
    assert told[1][2] == {"type": "delta", "requestId": ID, "seq": 3, "text": "gr\nph", "attempt": 1, "offset": 0}


async def test_a_reconnect_resumes_and_after_the_last_event_ends(gateway: Running) -> None:
    gateway.scheduler.add(ID)
    gateway.scheduler.emit(delta(1), delta(2), delta(5))
    async with listening(gateway, **{"Last-Event-ID": "1"}) as events:
        assert [(await events.next() or ("",))[0] for _ in range(2)] == ["2", "5"]
    gateway.scheduler.finish(ID, 7)
    for last, seqs in (("0", [1, 2, 5, 7]), ("5", [7])):
        async with listening(gateway, **{"Last-Event-ID": last}) as events:
            assert await events.seqs() == seqs
    async with listening(gateway) as events:
        assert await events.seqs() == [7]
    for last in ("7", "8"):
        answer = await gateway.http.get(PATH, headers={"Last-Event-ID": last})
        assert (answer.status_code, answer.content) == (204, b"")


async def test_cost_is_for_the_owner(gateway: Running) -> None:
    gateway.scheduler.add(ID, sched.STATE_COMPLETED, cost_nano_usd=9)
    for headers, cost in (({}, None), ({"X-API-Key": KEY}, 9)):
        async with listening(gateway, **headers) as events:
            event = await events.next()
            assert event is not None
            assert event[2].get("costNanoUsd") == cost
    assert (await gateway.http.get(PATH, headers={"X-API-Key": OTHER_KEY})).status_code == 404
    assert (await gateway.http.get(PATH, headers={"X-API-Key": "hg_bad"})).status_code == 401


async def test_a_comment_every_15_s_keeps_it_alive(timed: Running) -> None:
    timed.scheduler.add(ID)
    async with listening(timed) as events:
        await events.next()
        for advance_ms, comments in ((14_999, 0), (1, 1), (14_999, 1), (1, 2)):
            timed.clock.advance(advance_ms)
            timed.gateway.pulse.beat()
            timed.scheduler.emit(sched.Event(request_id=ID, status=place(2)))
            await events.next()
            assert events.comments == comments


async def test_a_reader_that_goes_away_is_forgotten(gateway: Running) -> None:
    gateway.scheduler.add(ID)
    async with listening(gateway) as events:
        await events.next()
    await gateway.scheduler.until(lambda: not gateway.scheduler.watched)


async def test_a_drain_ends_streams_without_an_end_event(gateway: Running) -> None:
    gateway.scheduler.add(ID)
    async with listening(gateway) as events:
        await events.next()
        gateway.gateway.drain()
        assert await events.next() is None


async def test_a_scheduler_that_is_away_opens_a_stream_that_tells_when_it_is_back(timed: Running) -> None:
    timed.scheduler.add(ID)
    timed.scheduler.refusals["Replay"] = scheduler_refusal("UNAVAILABLE", grpc.StatusCode.INTERNAL)
    opening = asyncio.create_task(timed.http.send(timed.http.build_request("GET", PATH), stream=True))
    await timed.scheduler.until(lambda: bool(timed.scheduler.named("Watch")))
    while not opening.done():
        timed.clock.advance(1_000)
        await timed.http.get("/healthz")
    response = await opening
    assert response.status_code == 200
    del timed.scheduler.refusals["Replay"]
    events = Events(response)
    waiting = asyncio.create_task(events.next())
    while not waiting.done():
        timed.clock.advance(1_000)
        await timed.http.get("/healthz")
    assert (await waiting or ("", ""))[1] == "status"
    await response.aclose()


async def test_watchers_survive_a_broken_stream_and_hear_everything_once(gateway: Running) -> None:
    gateway.scheduler.add(ID, sched.STATE_RUNNING)
    async with listening(gateway, **{"Last-Event-ID": "0"}) as events:
        gateway.scheduler.emit(delta(1))
        assert (await events.next() or ("",))[0] == "1"
        gateway.scheduler.break_watch()
        gateway.scheduler.emit(delta(2), delta(3))
        await gateway.scheduler.until(lambda: ID in gateway.scheduler.watched)
        gateway.scheduler.emit(delta(4))
        gateway.scheduler.break_watch()
        gateway.scheduler.finish(ID, 6)
        assert await events.seqs() == [2, 3, 4, 6]


async def test_what_happens_between_confirmation_and_replay_is_told_once_and_in_order(gateway: Running) -> None:
    gateway.scheduler.add(ID, sched.STATE_RUNNING)
    gateway.scheduler.emit(delta(1))
    # Logged and sent live before the replay is read: it comes twice, and must be told once.
    gateway.scheduler.before_replay = lambda: (
        gateway.scheduler.emit(delta(2)) if len(gateway.scheduler.logs[ID]) == 1 else None
    )
    async with listening(gateway, **{"Last-Event-ID": "0"}) as events:
        assert [(await events.next() or ("",))[0] for _ in range(2)] == ["1", "2"]
        gateway.scheduler.finish(ID, 3)
        assert await events.seqs() == [3]


async def test_many_watchers_of_one_request_share_one_subscription(gateway: Running) -> None:
    gateway.scheduler.add(ID)
    async with contextlib.AsyncExitStack() as stack:
        all_events = [await stack.enter_async_context(listening(gateway)) for _ in range(20)]
        for events in all_events:
            await events.next()
        gateway.scheduler.finish(ID, 1)
        for events in all_events:
            assert await events.seqs() == [1]
    asked = [request_id for change in gateway.scheduler.named("Watch") for request_id in change.subscribe]
    assert asked == [ID]


async def test_a_request_taken_up_again_is_watched_again(gateway: Running) -> None:
    gateway.scheduler.add(ID)
    for number in range(1, 4):
        async with listening(gateway) as events:
            await events.next()
            gateway.scheduler.emit(delta(number))
            assert (await events.next() or ("",))[0] == str(number)
