"""Whether a child is up, asked in its own language."""

from __future__ import annotations

import asyncio
import http.client
from typing import Any
from urllib.parse import urlsplit

INTERVAL_S = 0.05
ANSWER_S = 2.0


async def until_up(probe: str) -> None:
    """Returns once that is up: `unix:PATH` (gRPC health), `http://…` (200), `tcp://HOST:PORT`, `valkey:PATH`."""
    ask = {"unix": _grpc_serving, "http": _http_ok, "tcp": _accepts, "valkey": _valkey_answers}[probe.split(":", 1)[0]]
    while True:
        try:
            if await asyncio.wait_for(ask(probe), ANSWER_S):
                return
        except (OSError, TimeoutError, http.client.HTTPException):
            pass
        await asyncio.sleep(INTERVAL_S)


async def _grpc_serving(probe: str) -> bool:
    # Imported while the children start: it takes longer than all of the rest here.
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    async with grpc.aio.insecure_channel(probe, options=[("grpc.initial_reconnect_backoff_ms", 50)]) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=ANSWER_S, wait_for_ready=True)
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def _http_ok(probe: str) -> bool:
    return await asyncio.to_thread(_get, probe) == http.client.OK


def _get(url: str) -> int:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=ANSWER_S)
    try:
        connection.request("GET", parts.path)
        return connection.getresponse().status
    finally:
        connection.close()


async def _accepts(probe: str) -> bool:
    parts = urlsplit(probe)
    _, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.close()
    return True


async def _valkey_answers(probe: str) -> bool:
    reader, writer = await asyncio.open_unix_connection(probe.removeprefix("valkey:"))
    try:
        writer.write(b"PING\r\n")
        return await reader.readline() == b"+PONG\r\n"
    finally:
        writer.close()
