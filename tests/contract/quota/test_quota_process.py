"""The quota process as an operator meets it: started, asked by reflection, drained, refused a wrong start."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import grpc
import psutil
import pytest
from google.protobuf import descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from headgate.quota.v1 import quota_pb2 as pb
from headgate.quota.v1 import quota_pb2_grpc
from headgate.scheduler.v1 import scheduler_pb2_grpc

from services.quota.plans import read_plans
from services.rpc.channel import open_channel
from services.settings import config_dir
from tests.servers.quota import DEADLINE_S, FakeScheduler, refused

ROOT = Path(__file__).parents[3]
SERVICE = "headgate.quota.v1.QuotaService"
RSS_LIMIT_BYTES = 105_000_000


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="hg-") as name:
        yield Path(name)


@pytest.fixture
def environment(database_url: str, folder: Path) -> dict[str, str]:
    """Variables of a start that works."""
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{ROOT}:{ROOT / 'protos'}",
        "HEADGATE_DATABASE_URL": database_url,
        "HEADGATE_SECRET": "a secret of tests, 32 characters or more",
        "HEADGATE_SCHEDULER_ADDRESS": f"unix:{folder}/scheduler",
        "HEADGATE_LISTEN": f"unix:{folder}/quota",
    }


@contextlib.asynccontextmanager
async def process(environment: dict[str, str], *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A quota process, ended at the latest when the block is left."""
    started = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.quota", *arguments, env=environment, stderr=asyncio.subprocess.PIPE
    )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.communicate()


async def start_fails(environment: dict[str, str], *arguments: str) -> str:
    """The one sentence of a start that ends with status 2."""
    async with asyncio.timeout(DEADLINE_S), process(environment, *arguments) as started:
        _, said = await started.communicate()
    assert started.returncode == 2, said
    # gRPC's own core may add lines about a port in use; ours is the last.
    *others, sentence = said.decode().splitlines()
    assert not any("Traceback" in line for line in others), said
    assert sentence.startswith("headgate-quota: ")
    assert sentence.endswith(".")
    return sentence


async def health(channel: grpc.aio.Channel, service: str) -> int:
    stub = health_pb2_grpc.HealthStub(channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), wait_for_ready=True, timeout=DEADLINE_S)
    return int(answer.status)


async def test_it_serves_health_and_reflection_and_stays_small(environment: dict[str, str]) -> None:
    address = environment["HEADGATE_LISTEN"]
    async with process(environment) as started, open_channel(address, deadline_s=DEADLINE_S) as channel:
        for service in ("", SERVICE):
            assert await health(channel, service) == health_pb2.HealthCheckResponse.SERVING
        assert await asyncio.to_thread(_list_tiers_by_reflection, address) == ["free", "basic", "pro", "enterprise"]
        stub = quota_pb2_grpc.QuotaServiceStub(channel)
        made = await stub.CreateUser(pb.CreateUserRequest(tier="enterprise", actor="admin:test"))
        caller = pb.Caller(api_key=made.api_key)
        calls = [stub.Reserve(pb.ReserveRequest(caller=caller, idempotency_key=str(i))) for i in range(500)]
        assert {answer.usage.limit for answer in await asyncio.gather(*calls)} == {5000}
        assert psutil.Process(started.pid).memory_info().rss < RSS_LIMIT_BYTES


def _list_tiers_by_reflection(address: str) -> list[str]:
    """Calls as grpcurl does: knowing only the address and what reflection tells."""
    with grpc.insecure_channel(address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert {SERVICE, "grpc.health.v1.Health"} <= set(database.get_services())
        service = descriptor_pool.DescriptorPool(database).FindServiceByName(SERVICE)
        assert len(service.methods) == 14
        method = service.methods_by_name["ListTiers"]
        request = message_factory.GetMessageClass(method.input_type)()
        call = channel.unary_unary(
            f"/{SERVICE}/{method.name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
        )
        return [tier.name for tier in call(request, timeout=DEADLINE_S).tiers]


async def test_sigterm_first_says_not_serving_and_lets_calls_finish(
    environment: dict[str, str], new_id: Callable[[], str]
) -> None:
    scheduler, server = FakeScheduler(), grpc.aio.server()
    scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server(scheduler, server)
    server.add_insecure_port(environment["HEADGATE_SCHEDULER_ADDRESS"])
    await server.start()
    asked, answer = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        asked.set()
        await answer.wait()

    scheduler.before_answer = hold
    async with (
        asyncio.timeout(DEADLINE_S),
        process(environment) as started,
        open_channel(environment["HEADGATE_LISTEN"], deadline_s=DEADLINE_S) as channel,
    ):
        await health(channel, SERVICE)
        stub = quota_pb2_grpc.QuotaServiceStub(channel)
        key = (await stub.CreateUser(pb.CreateUserRequest(actor="admin:test"))).api_key
        id_ = new_id()
        await stub.Reserve(pb.ReserveRequest(caller=pb.Caller(api_key=key), request_id=id_))
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        resolving = asyncio.ensure_future(stub.Resolve(pb.ResolveRequest(request_id=id_, generation=1)))
        await asked.wait()
        started.send_signal(signal.SIGTERM)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
        answer.set()
        assert (await resolving).reservation.state == pb.RESERVATION_STATE_ABSENT
        assert await started.wait() == 0
    await server.stop(0)


async def test_migrate_brings_an_empty_database_up_and_exits(environment: dict[str, str], postgres_url: str) -> None:
    for url in (postgres_url, f"sqlite:///{environment['HEADGATE_LISTEN'].removeprefix('unix:')}.db"):
        only = {name: environment[name] for name in ("PATH", "PYTHONPATH")} | {"HEADGATE_DATABASE_URL": url}
        assert "schema is older" in await start_fails({**environment, "HEADGATE_DATABASE_URL": url})
        for _ in range(2):
            async with asyncio.timeout(DEADLINE_S), process(only, "migrate") as started:
                _, said = await started.communicate()
                assert started.returncode == 0, said
        now_works = process({**environment, "HEADGATE_DATABASE_URL": url})
        async with now_works, open_channel(environment["HEADGATE_LISTEN"]) as channel:
            assert await health(channel, SERVICE) == health_pb2.HealthCheckResponse.SERVING


async def test_a_start_that_cannot_work_says_why_in_one_sentence(environment: dict[str, str], folder: Path) -> None:
    plans = folder / "plans.yaml"
    plans.write_text("tiers: []\ndefault_tier: free\n")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        wrong = {
            "HEADGATE_LISTEN": f"127.0.0.1:{taken.getsockname()[1]}",
            "HEADGATE_SECRET": "short",
            "HEADGATE_SCHEDULER_ADDRESS": "",
            "HEADGATE_DATABASE_URL": f"sqlite:///{folder}/missing/quota.db",
        }
        for name, value in wrong.items():
            assert name in await start_fails({**environment, name: value})
    said = await start_fails({**environment, "HEADGATE_PLANS_FILE": str(plans)})
    assert f"{plans} line 1: tiers" in said
    assert "migrate" in await start_fails(environment, "serve")


async def test_a_tier_that_users_hold_may_not_vanish_from_the_plans(environment: dict[str, str], folder: Path) -> None:
    address = environment["HEADGATE_LISTEN"]
    async with process(environment), open_channel(address, deadline_s=DEADLINE_S) as channel:
        await health(channel, SERVICE)
        stub = quota_pb2_grpc.QuotaServiceStub(channel)
        assert (
            await refused(stub.CreateUser(pb.CreateUserRequest(tier="gold", actor="a")))
        ).reason == "INVALID_REQUEST"
        await stub.CreateUser(pb.CreateUserRequest(tier="enterprise", actor="admin:test"))
    text = (config_dir() / "plans.yaml").read_text()
    fewer = text[: text.index("  - name: enterprise")]
    assert len(read_plans(fewer, "plans.yaml").tiers) == 3
    plans = folder / "plans.yaml"
    plans.write_text(fewer)
    said = await start_fails({**environment, "HEADGATE_PLANS_FILE": str(plans)})
    assert f"{plans}: tier enterprise is missing" in said
