"""Clients that are slow, silent or endless hold nothing of the gateway for long."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.gateway import connections
from tests.servers.gateway import DEADLINE_S, Running, running_gateway

ID = "req_0000000000000000000001"
HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@pytest.fixture
async def hasty(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    """A gateway that waits a fifth of a second where it would wait many."""
    monkeypatch.setattr(connections, "HEAD_TIMEOUT_S", 0.2)
    monkeypatch.setattr(connections, "STALL_S", 0.2)
    async with running_gateway() as running:
        yield running


async def connect(gateway: Running, sent: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(gateway.base_url.rpartition(":")[2]))
    writer.write(sent)
    return reader, writer


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\n", b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: "])
async def test_a_client_that_does_not_finish_its_head_is_let_go(hasty: Running, sent: bytes) -> None:
    reader, writer = await connect(hasty, sent)
    assert await asyncio.wait_for(reader.read(), DEADLINE_S) == b""
    writer.close()


async def test_a_body_that_nobody_reads_keeps_no_connection(hasty: Running) -> None:
    reader, writer = await connect(hasty, b"POST /nope HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999999\r\n\r\n")

    async def dribble() -> None:
        while True:
            writer.write(b"x")
            await asyncio.sleep(0)

    dribbling = asyncio.create_task(dribble())
    try:
        answer = await asyncio.wait_for(reader.read(), DEADLINE_S)
    except ConnectionError:
        answer = b"HTTP/1.1 404"  # Reset while we wrote, after it was answered.
    finally:
        dribbling.cancel()
        writer.close()
    assert answer.startswith(b"HTTP/1.1 404")


async def test_endless_headers_are_refused(gateway: Running) -> None:
    reader, writer = await connect(gateway, b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
    answer = asyncio.create_task(reader.read())
    for number in range(20_000):
        if answer.done() or writer.is_closing():
            break
        writer.write(b"X-%d: %s\r\n" % (number, b"a" * 1_000))
        await asyncio.sleep(0)
    try:
        assert (await asyncio.wait_for(answer, DEADLINE_S)).startswith(b"HTTP/1.1 400")
    except ConnectionError:
        pass  # Reset while we wrote: refused all the same.
    assert number < 10_000
    writer.close()


def stuck(gateway: Running) -> socket.socket:
    """A client that will read nothing, with room for little."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    client.connect(("127.0.0.1", int(gateway.base_url.rpartition(":")[2])))
    return client


async def gone(gateway: Running) -> None:
    state = gateway.server.server_state
    async with asyncio.timeout(DEADLINE_S):
        while state.connections or state.tasks:
            await asyncio.sleep(0)


async def test_a_client_that_takes_no_answer_is_let_go(hasty: Running) -> None:
    hasty.scheduler.add(ID)
    hasty.scheduler.svg = "<svg>" + "x" * 7_000_000
    with stuck(hasty) as client:
        client.sendall(f"GET /api/diagram/{ID}/diagram.svg HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await hasty.scheduler.until(lambda: bool(hasty.scheduler.named("Get")))
        await gone(hasty)


async def test_a_socket_that_is_not_read_is_let_go(hasty: Running) -> None:
    frame = (
        b"\x81\xfe"
        + (60_000).to_bytes(2, "big")
        + b"\0\0\0\0"
        + b'{"type":"subscribe","requestId":"'.ljust(59_998, b"x")
        + b'"}'
    )
    loop = asyncio.get_running_loop()
    with stuck(hasty) as client:
        client.setblocking(False)
        await loop.sock_sendall(client, HANDSHAKE)

        async def flood() -> None:
            while True:
                await loop.sock_sendall(client, frame)

        flooding: asyncio.Task[Any] = asyncio.create_task(flood())
        await asyncio.wait({flooding, asyncio.create_task(gone_after_opening(hasty))}, return_when="FIRST_COMPLETED")
        flooding.cancel()
        await gone(hasty)
    assert len(hasty.gateway.sockets) == 0


async def gone_after_opening(gateway: Running) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not len(gateway.gateway.sockets):
            await asyncio.sleep(0)
        while len(gateway.gateway.sockets):
            await asyncio.sleep(0)


async def test_a_slow_reader_that_takes_something_is_served_to_the_end(hasty: Running) -> None:
    hasty.scheduler.add(ID)
    hasty.scheduler.svg = "<svg>" + "x" * 3_000_000
    loop = asyncio.get_running_loop()
    with stuck(hasty) as client:
        client.setblocking(False)
        request = f"GET /api/diagram/{ID}/diagram.svg HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        await loop.sock_sendall(client, request.encode())
        read = 0
        while got := await asyncio.wait_for(loop.sock_recv(client, 4_096), DEADLINE_S):
            read += len(got)
    assert read > 3_000_000
