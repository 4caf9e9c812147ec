"""The WebSocket, rule by rule, over real connections."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import websockets
from headgate.scheduler.v1 import scheduler_pb2 as sched
from websockets.asyncio.client import ClientConnection, connect

from tests.servers.gateway import (
    ADMIN_KEY,
    DEADLINE_S,
    KEY,
    NOW,
    OTHER_KEY,
    Running,
    place,
    quota_refusal,
    running_gateway,
)

ID, OTHER_ID = "req_0000000000000000000001", "req_0000000000000000000002"
NOT_ACCEPTED = {"error": "This request was not accepted.", "code": "NOT_FOUND", "status": "failed", "seq": 0}


class Client:
    """One socket."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def say(self, kind: str, **fields: Any) -> None:
        await self.connection.send(json.dumps({"type": kind, **fields}))

    async def hear(self) -> dict[str, Any]:
        async with asyncio.timeout(DEADLINE_S):
            message: dict[str, Any] = json.loads(await self.connection.recv())
            return message

    async def subscribe(self, request_id: str = ID, **fields: Any) -> None:
        await self.say("subscribe", requestId=request_id, **fields)
        assert await self.hear() == {"type": "subscribed", "requestId": request_id}

    async def close_code(self) -> int:
        async with asyncio.timeout(DEADLINE_S):
            with contextlib.suppress(websockets.ConnectionClosed):
                while True:
                    await self.connection.recv()
        assert self.connection.close_code is not None
        return self.connection.close_code


@contextlib.asynccontextmanager
async def client(gateway: Running, path: str = "/ws", **options: Any) -> AsyncIterator[Client]:
    async with connect(gateway.ws_url + path, max_size=None, close_timeout=1, **options) as connection:
        yield Client(connection)


def delta(seq: int, text: str = "a", request_id: str = ID) -> sched.Event:
    return sched.Event(request_id=request_id, seq=seq, delta=sched.Delta(text=text, attempt=1, offset=seq))


def processing(seq: int) -> sched.Event:
    return sched.Event(request_id=ID, seq=seq, processing=sched.Processing(attempt=1))


@pytest.mark.parametrize("path", ["/", "/ws"])
async def test_a_request_is_watched_to_its_end(gateway: Running, path: str) -> None:
    gateway.scheduler.add(ID)
    async with client(gateway, path) as socket:
        await socket.subscribe()
        told = [await socket.hear()]
        gateway.scheduler.emit(sched.Event(request_id=ID, status=place(1)), processing(3), delta(4, "graph"))
        retrying = sched.Retrying(reason="Busy.", attempt=1)
        retrying.delay.FromMilliseconds(1_500)
        gateway.scheduler.emit(sched.Event(request_id=ID, seq=5, retrying=retrying))
        usage = sched.TokenUsage(input_tokens=1)
        gateway.scheduler.finish(ID, 9, result="graph TD", has_svg=True, usage=usage, cost_nano_usd=5, truncated=True)
        told += [await socket.hear() for _ in range(5)]
    assert told[:5] == [
        {"type": "status", "requestId": ID, "seq": 0, "position": 5, "estimatedWait": 41_300},
        {"type": "status", "requestId": ID, "seq": 0, "position": 1, "estimatedWait": 0},
        {"type": "processing", "requestId": ID, "seq": 3, "attempt": 1},
        {"type": "delta", "requestId": ID, "seq": 4, "text": "graph", "attempt": 1, "offset": 4},
        {"type": "retrying", "requestId": ID, "seq": 5, "reason": "Busy.", "delay": 1_500, "attempt": 1},
    ]
    end = told[5]
    assert (end["type"], end["seq"], end["result"], end["cached"], end["truncated"]) == (
        "completed",
        9,
        "graph TD",
        False,
        True,
    )
    assert (end["svgUrl"], end["usage"]["inputTokens"]) == (f"{gateway.base_url}/api/diagram/{ID}/diagram.svg", 1)
    assert "costNanoUsd" not in end


@pytest.mark.parametrize(
    ("state", "code", "status", "said"),
    [
        (sched.STATE_FAILED, sched.FAILURE_CODE_INVALID_DIAGRAM, "failed", "INVALID_DIAGRAM"),
        (sched.STATE_EXPIRED, sched.FAILURE_CODE_EXPIRED, "expired", "EXPIRED"),
        (sched.STATE_CANCELLED, sched.FAILURE_CODE_CANCELLED, "cancelled", "CANCELLED"),
    ],
)
async def test_every_other_end_is_failed(gateway: Running, state: int, code: int, status: str, said: str) -> None:
    gateway.scheduler.add(ID, state, code=code, error="Why.")
    async with client(gateway) as socket:
        await socket.subscribe()
        told = await socket.hear()
    assert told == {"type": "failed", "requestId": ID, "seq": 0, "error": "Why.", "code": said, "status": status}


async def test_cost_is_told_to_sockets_that_sent_their_key(gateway: Running) -> None:
    gateway.scheduler.add(ID)
    async with contextlib.AsyncExitStack() as stack:
        options = [{}, {"additional_headers": {"X-API-Key": KEY}}, {}, {}, {}]
        sockets = [await stack.enter_async_context(client(gateway, **option)) for option in options]
        for number, key in ((2, KEY), (3, OTHER_KEY)):
            await sockets[number].say("auth", apiKey=key)
            assert (await sockets[number].hear())["type"] == "authenticated"
        for socket in (sockets[0], sockets[1], sockets[2], sockets[4]):
            await socket.subscribe()
        await sockets[4].say("auth", apiKey=OTHER_KEY)
        # Another user's request, asked for with a key, is as unknown as any.
        await sockets[3].say("subscribe", requestId=ID)
        assert (await sockets[3].hear())["code"] == "NOT_FOUND"
        for socket in (sockets[0], sockets[1], sockets[2], sockets[4]):
            await socket.hear()
        assert (await sockets[4].hear())["type"] == "authenticated"
        gateway.scheduler.finish(ID, 2, cost_nano_usd=77)
        ends = [await sockets[number].hear() for number in (0, 1, 2, 4)]
    assert [end.get("costNanoUsd") for end in ends] == [None, 77, 77, None]


async def test_a_cost_that_is_not_known_is_not_told_as_none(gateway: Running) -> None:
    gateway.scheduler.add(ID)
    async with client(gateway) as socket:
        await socket.subscribe()
        await socket.hear()
        await socket.say("auth", apiKey=KEY)
        await socket.hear()
        # What is replayed for a subscription made without a key comes without the cost.
        gateway.scheduler.break_watch()
        gateway.scheduler.finish(ID, 2, cost_nano_usd=77)
        end = await socket.hear()
    assert end["type"] == "completed"
    assert "costNanoUsd" not in end


async def test_who_comes_while_the_stream_is_broken_is_told_the_state_and_the_rest(timed: Running) -> None:
    timed.scheduler.add(ID)
    async with client(timed) as first, client(timed) as second:
        await first.subscribe()
        await first.hear()
        timed.scheduler.break_watch()
        await timed.scheduler.until(lambda: not timed.scheduler.watchers)
        await second.subscribe()
        assert (await second.hear())["type"] == "status"
        timed.scheduler.finish(ID, 5)
        ends = asyncio.gather(*(ended(socket) for socket in (first, second)))
        while not ends.done():
            timed.clock.advance(1_000)
            await timed.http.get("/healthz")
        assert [end["seq"] for end in await ends] == [5, 5]


async def ended(socket: Client) -> dict[str, Any]:
    while (told := await socket.hear())["type"] != "completed":
        pass
    return told


async def test_what_happened_after_a_number_is_told_once(gateway: Running) -> None:
    gateway.scheduler.add(ID, sched.STATE_RUNNING)
    gateway.scheduler.emit(processing(1), delta(2), delta(5), delta(6))
    async with client(gateway) as socket:
        await socket.subscribe(after=2)
        gateway.scheduler.emit(delta(6), delta(8), log=False)
        assert [(await socket.hear())["seq"] for _ in range(3)] == [5, 6, 8]


async def test_without_a_number_only_the_state_is_told(gateway: Running) -> None:
    gateway.scheduler.add(ID, sched.STATE_RUNNING, attempts=2)
    gateway.scheduler.emit(processing(1), delta(2))
    async with client(gateway) as socket:
        await socket.subscribe()
        assert await socket.hear() == {"type": "processing", "requestId": ID, "seq": 2, "attempt": 2}
        gateway.scheduler.emit(delta(3))
        assert (await socket.hear())["seq"] == 3


async def test_a_number_never_given_hides_nothing(gateway: Running) -> None:
    gateway.scheduler.add(ID, sched.STATE_RUNNING)
    async with client(gateway) as socket:
        await socket.subscribe(after=2**53)
        gateway.scheduler.finish(ID, 4)
        assert (await socket.hear())["type"] == "completed"


@pytest.mark.parametrize(
    "fields", [{}, {"requestId": None}, {"requestId": ""}, {"requestId": "req_unknown"}, {"requestId": "x/y"}]
)
async def test_a_request_that_was_not_accepted_is_said_to_be(gateway: Running, fields: dict[str, Any]) -> None:
    async with client(gateway) as socket:
        await socket.say("subscribe", **fields)
        told = await socket.hear()
    assert told == {"type": "failed", "requestId": fields.get("requestId") or "", **NOT_ACCEPTED}


async def test_one_socket_watches_many_and_stops_watching(gateway: Running) -> None:
    gateway.scheduler.add(ID)
    gateway.scheduler.add(OTHER_ID)
    async with client(gateway) as socket:
        for request_id in (ID, OTHER_ID):
            await socket.subscribe(request_id)
            assert (await socket.hear())["requestId"] == request_id
        await socket.say("unsubscribe", requestId=ID)
        assert await socket.hear() == {"type": "unsubscribed", "requestId": ID}
        await gateway.scheduler.until(lambda: gateway.scheduler.watched == {OTHER_ID})
        gateway.scheduler.emit(sched.Event(request_id=ID, status=place(1)))
        gateway.scheduler.emit(sched.Event(request_id=OTHER_ID, status=place(2)))
        assert (await socket.hear())["requestId"] == OTHER_ID
    await gateway.scheduler.until(lambda: not gateway.scheduler.watched)


async def test_subscribing_again_replaces(gateway: Running) -> None:
    gateway.scheduler.add(ID)
    async with client(gateway) as socket:
        for _ in range(2):
            await socket.subscribe()
            await socket.hear()
        gateway.scheduler.finish(ID, 1)
        assert (await socket.hear())["type"] == "completed"
        await socket.say("ping")
        assert await socket.hear() == {"type": "pong"}


MISUNDERSTOOD = [
    "",
    "{",
    "[]",
    "7",
    '"ping"',
    "{}",
    '{"type": 1}',
    '{"type": "sing"}',
    '{"type": "subscribe", "requestId": 5}',
]
MISUNDERSTOOD += [
    f'{{"type": "subscribe", "requestId": "{ID}", "after": {bad}}}' for bad in ('"1"', "-1", "1.5", "true", 2**60)
]
MISUNDERSTOOD += ['{"type": "ping", "x": ' + "[" * 20_000 + "}", '{"type": "auth", "apiKey": 7}']


async def test_what_is_not_understood_is_said_and_the_socket_stays_open(gateway: Running) -> None:
    async with client(gateway) as socket:
        for text in MISUNDERSTOOD:
            await socket.connection.send(text)
            told = await socket.hear()
            assert (told["type"], told["code"]) == ("error", "INVALID_REQUEST"), text
            assert told["message"]
        await socket.say("ping")
        assert await socket.hear() == {"type": "pong"}
    assert gateway.scheduler.calls == gateway.quota.calls == []


async def test_binary_frames_close_with_1003(gateway: Running) -> None:
    async with client(gateway) as socket:
        await socket.connection.send(b"{}")
        assert await socket.close_code() == 1003


async def test_frames_over_64_kb_close_with_1009(gateway: Running) -> None:
    async with client(gateway) as socket:
        await socket.connection.send('{"type": "ping", "x": "' + "a" * 65_000 + '"}')
        assert await socket.hear() == {"type": "pong"}
        await socket.connection.send('{"type": "ping", "x": "' + "a" * 66_000 + '"}')
        assert await socket.close_code() == 1009


async def test_a_bad_key_closes_with_4401(gateway: Running) -> None:
    async with client(gateway) as socket:
        await socket.say("auth", apiKey="hg_bad")
        assert (await socket.hear())["code"] == "UNAUTHENTICATED"
        assert await socket.close_code() == 4401
    for nothing in ({}, {"apiKey": ""}, {"apiKey": None}):
        async with client(gateway) as socket:
            await socket.say("auth", **nothing)
            assert (await socket.hear())["code"] == "UNAUTHENTICATED"
            assert await socket.close_code() == 4401
    assert len(gateway.quota.named("Authenticate")) == 1
    for key in ("hg_bad", ADMIN_KEY):
        async with client(gateway, additional_headers={"X-API-Key": key}) as socket:
            assert await socket.close_code() == 4401


async def test_a_quota_that_is_away_does_not_close_a_socket(gateway: Running) -> None:
    gateway.quota.refusals["Authenticate"] = quota_refusal("UNAVAILABLE", grpc.StatusCode.UNAVAILABLE)
    async with client(gateway) as socket:
        await socket.say("auth", apiKey=KEY)
        assert (await socket.hear())["code"] == "UNAVAILABLE"
        await socket.say("ping")
        assert await socket.hear() == {"type": "pong"}


async def test_a_socket_that_subscribes_to_nothing_closes_with_4408(timed: Running) -> None:
    async with client(timed) as socket:
        await socket.say("ping")
        await socket.hear()
        timed.clock.advance(9_999)
        timed.gateway.pulse.beat()
        await socket.say("ping")
        assert await socket.hear() == {"type": "pong"}
        timed.clock.advance(1)
        timed.gateway.pulse.beat()
        assert await socket.close_code() == 4408


@pytest.mark.parametrize("ending", ["finished", "unsubscribed", "unknown"])
async def test_a_socket_with_nothing_left_to_watch_closes_after_a_minute(timed: Running, ending: str) -> None:
    async with client(timed) as socket:
        if ending == "unknown":
            await socket.say("subscribe", requestId=ID)
            await socket.hear()
        else:
            timed.scheduler.add(ID)
            await socket.subscribe()
            await socket.hear()
            timed.clock.advance(3_600_000)
            timed.gateway.pulse.beat()
            if ending == "finished":
                timed.scheduler.finish(ID, 1)
            else:
                await socket.say("unsubscribe", requestId=ID)
            await socket.hear()
        timed.clock.advance(59_999)
        timed.gateway.pulse.beat()
        await socket.say("ping")
        assert await socket.hear() == {"type": "pong"}
        timed.clock.advance(1)
        timed.gateway.pulse.beat()
        assert await socket.close_code() == 1000


async def test_a_drain_closes_with_1012_after_what_waits(gateway: Running) -> None:
    gateway.scheduler.add(ID)
    async with client(gateway) as socket:
        await socket.subscribe()
        gateway.gateway.drain()
        assert (await socket.hear())["type"] == "status"
        assert await socket.close_code() == 1012


async def test_an_address_holds_a_bounded_number_without_a_key(
    gateway: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.gateway.socket.SOCKETS_PER_ADDRESS", 2)
    async with client(gateway) as first, client(gateway), client(gateway) as third:
        assert await third.close_code() == 4429
        async with client(gateway, additional_headers={"X-API-Key": KEY}) as keyed:
            await keyed.say("ping")
            assert await keyed.hear() == {"type": "pong"}
        await first.say("auth", apiKey=KEY)
        await first.hear()
        async with client(gateway) as fourth:
            await fourth.say("ping")
            assert await fourth.hear() == {"type": "pong"}


async def test_one_socket_watches_a_bounded_number(gateway: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.gateway.socket.SUBSCRIPTIONS_PER_SOCKET", 1)
    gateway.scheduler.add(ID)
    async with client(gateway) as socket:
        await socket.subscribe()
        await socket.hear()
        await socket.say("subscribe", requestId=OTHER_ID)
        told = await socket.hear()
    assert (told["type"], told["code"], told["requestId"]) == ("error", "CONCURRENCY_LIMIT_EXCEEDED", OTHER_ID)


async def test_a_flood_of_messages_closes_with_1008(timed: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.gateway.socket.MESSAGES_PER_SECOND", 3)
    async with client(timed) as socket:
        for _ in range(4):
            await socket.say("ping")
        assert await socket.close_code() == 1008


@pytest.mark.parametrize(("origin", "status"), [("https://evil.example", 403), ("null", 403), ("http://[", 403)])
async def test_an_origin_that_is_not_listed_gets_a_403(gateway: Running, origin: str, status: int) -> None:
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with client(gateway, origin=origin):
            pass
    response = refused.value.response
    assert response.status_code == status
    assert json.loads(response.body or b"")["code"] == "FORBIDDEN"


async def test_listed_and_own_origins_may_connect() -> None:
    async with running_gateway(allowed_origins=("https://site.example",)) as gateway:
        for origin in ("https://site.example", gateway.base_url, None):
            async with client(gateway, origin=origin) as socket:
                await socket.say("ping")
                assert await socket.hear() == {"type": "pong"}


async def test_there_is_no_socket_elsewhere(gateway: Running) -> None:
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with client(gateway, "/api/me"):
            pass
    assert refused.value.response.status_code == 404


async def test_a_slow_reader_loses_deltas_but_never_the_end_and_slows_nobody(gateway: Running) -> None:
    gateway.scheduler.add(ID, sched.STATE_RUNNING)
    # A small window and nothing read: what the gateway sends stays with the gateway.
    async with client(gateway, max_queue=1) as slow, client(gateway) as quick:
        for socket in (slow, quick):
            await socket.subscribe(after=0)
        slow.connection.transport.pause_reading()
        count, text = 2_000, "x" * 4_000
        for number in range(count):
            gateway.scheduler.emit(delta(number + 1, text), log=False)
            if number % 50 == 49:
                assert [(await quick.hear())["seq"] for _ in range(50)][-1] == number + 1
        gateway.scheduler.finish(ID, count + 1, result="all")
        assert (await quick.hear())["type"] == "completed"
        slow.connection.transport.resume_reading()
        told = [await slow.hear()]
        while told[-1]["type"] != "completed":
            told.append(await slow.hear())
    assert told[-1]["result"] == "all"
    assert len(told) < count
    assert [message["seq"] for message in told] == sorted({message["seq"] for message in told})


async def test_a_long_idle_finished_request_tells_its_last_message(gateway: Running) -> None:
    gateway.scheduler.add(ID, sched.STATE_COMPLETED, result="pie", end_time=NOW)
    async with client(gateway) as socket:
        for _ in range(2):
            await socket.subscribe()
            told = await socket.hear()
            assert (told["type"], told["result"]) == ("completed", "pie")
