"""How the services talk: refusals, deadlines, retries and mutual TLS over real gRPC."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from headgate.quota.v1 import quota_pb2 as pb
from headgate.quota.v1 import quota_pb2_grpc

from services.rpc.channel import Tls, open_channel
from services.rpc.interceptors import remaining_s
from services.rpc.server import Server
from services.rpc.status import Refusal, refusal_of

NAME = "headgate.quota.v1.QuotaService"


class Quota(quota_pb2_grpc.QuotaServiceServicer):
    """Does what the test says."""

    def __init__(self) -> None:
        self.calls = 0
        self.remaining_s = 0.0
        self.begun, self.door = asyncio.Event(), asyncio.Event()

    async def GetUser(self, request: pb.GetUserRequest, context: Any) -> pb.GetUserResponse:
        self.calls += 1
        self.remaining_s = remaining_s(60)
        if request.user_id == "refused":
            detail = pb.LimitExceeded(usage=pb.DayUsage(used=3, limit=3))
            raise Refusal(
                grpc.StatusCode.RESOURCE_EXHAUSTED, "FULL", "It is full.", "test", {"n": "3"}, 1500, (detail,)
            )
        if request.user_id == "broken":
            raise RuntimeError("a secret hg_key in an unforeseen error")
        if request.user_id == "mapped":
            raise KeyError("mapped")
        if request.user_id == "slow":
            await asyncio.Event().wait()
        if request.user_id == "held":
            self.begun.set()
            await self.door.wait()
        if request.user_id == "away" and self.calls < 3:
            raise Refusal(grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE", "Away.")
        return pb.GetUserResponse()


def refusal_for(error: Exception) -> Refusal | None:
    return Refusal(grpc.StatusCode.NOT_FOUND, "NOT_FOUND", "Not here.") if isinstance(error, KeyError) else None


@asynccontextmanager
async def serving(folder: Path, tls: Tls | None = None, **options: Any) -> AsyncIterator[tuple[Quota, Any]]:
    quota, server = Quota(), Server([NAME], refusal_for, tls=tls)
    quota_pb2_grpc.add_QuotaServiceServicer_to_server(quota, server.grpc)
    port = await server.start("127.0.0.1:0" if tls else f"unix:{folder}/q.sock")
    channel = open_channel(f"localhost:{port}" if tls else f"unix:{folder}/q.sock", tls=tls, **options)
    try:
        yield quota, quota_pb2_grpc.QuotaServiceStub(channel)
    finally:
        await channel.close()
        await server.grpc.stop(0)


async def refused(stub: Any, user_id: str, **options: Any) -> Refusal:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await stub.GetUser(pb.GetUserRequest(user_id=user_id), **options)
    return refusal_of(failed.value, [pb.LimitExceeded, error_details_pb2.QuotaFailure])


async def test_a_refusal_arrives_with_all_it_says(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, stub):
        refusal = await refused(stub, "refused")
    assert (refusal.code, refusal.reason, refusal.domain) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "FULL", "test")
    assert (refusal.message, refusal.metadata, refusal.retry_after_ms) == ("It is full.", {"n": "3"}, 1500)
    detail = refusal.detail(pb.LimitExceeded)
    assert detail is not None
    assert detail.usage.used == 3


async def test_an_unforeseen_error_tells_nothing_and_a_foreseen_one_is_mapped(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, stub):
        broken = await refused(stub, "broken")
        mapped = await refused(stub, "mapped")
    assert (broken.code, broken.message) == (grpc.StatusCode.INTERNAL, "Something went wrong on our side.")
    assert (mapped.code, mapped.reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")


async def test_every_call_has_a_deadline_which_travels_and_shrinks(tmp_path: Path) -> None:
    async with serving(tmp_path, deadline_s=0.3) as (quota, stub):
        assert (await refused(stub, "slow")).code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert 0 < quota.remaining_s < 0.3
        await stub.GetUser(pb.GetUserRequest(user_id="x"), timeout=5)
        assert 0.3 < quota.remaining_s < 5


@pytest.mark.parametrize(("safe", "calls"), [([f"{NAME}/GetUser"], 3), ([f"{NAME}/Reserve"], 1), ([], 1)])
async def test_only_calls_that_may_be_repeated_are(tmp_path: Path, safe: list[str], calls: int) -> None:
    async with serving(tmp_path, safe_to_repeat=safe) as (quota, stub):
        if calls == 3:
            await stub.GetUser(pb.GetUserRequest(user_id="away"))
        else:
            assert (await refused(stub, "away")).code is grpc.StatusCode.UNAVAILABLE
        assert quota.calls == calls


async def test_a_drain_waits_for_calls_and_not_for_who_watches_our_health(tmp_path: Path) -> None:
    quota, server = Quota(), Server([NAME], refusal_for)
    quota_pb2_grpc.add_QuotaServiceServicer_to_server(quota, server.grpc)
    await server.start(f"unix:{tmp_path}/q.sock")
    async with open_channel(f"unix:{tmp_path}/q.sock") as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        watching = health.Watch(health_pb2.HealthCheckRequest(service=NAME))
        assert (await watching.read()).status == health_pb2.HealthCheckResponse.SERVING
        stub: Any = quota_pb2_grpc.QuotaServiceStub(channel)
        call = asyncio.ensure_future(stub.GetUser(pb.GetUserRequest(user_id="held")))
        await asyncio.wait_for(quota.begun.wait(), 10)
        drain = asyncio.ensure_future(server.drain(grace_s=60))
        assert (await watching.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert not drain.done()
        quota.door.set()
        assert await call == pb.GetUserResponse()
        await asyncio.wait_for(drain, 10)


def certificates(folder: Path) -> Tls:
    """An identity that is its own authority."""
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "1",
    ]
    command += ["-keyout", f"{folder}/key.pem", "-out", f"{folder}/cert.pem", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(command, check=True, capture_output=True)
    return Tls(folder / "cert.pem", folder / "key.pem", folder / "cert.pem")


async def test_mutual_tls_lets_in_only_who_has_a_certificate(tmp_path: Path) -> None:
    tls = certificates(tmp_path)
    server = Server([NAME], refusal_for, tls=tls)
    quota_pb2_grpc.add_QuotaServiceServicer_to_server(Quota(), server.grpc)
    port = await server.start("127.0.0.1:0")
    try:
        async with open_channel(f"localhost:{port}", tls=tls) as channel:
            await quota_pb2_grpc.QuotaServiceStub(channel).GetUser(pb.GetUserRequest(user_id="x"))
        anonymous = grpc.ssl_channel_credentials(tls.authority.read_bytes())
        for channel in (
            grpc.aio.secure_channel(f"localhost:{port}", anonymous),
            grpc.aio.insecure_channel(f"localhost:{port}"),
        ):
            async with channel:
                refusal = await refused(quota_pb2_grpc.QuotaServiceStub(channel), "x", timeout=10)
                assert refusal.code is grpc.StatusCode.UNAVAILABLE
    finally:
        await server.grpc.stop(0)
