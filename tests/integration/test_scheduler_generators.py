"""Several generators share the attempts; losing one costs nothing but the retry."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from headgate.generator.v1 import generator_pb2 as gen
from headgate.generator.v1 import generator_pb2_grpc
from headgate.scheduler.v1 import scheduler_pb2 as pb

from services.rpc.server import Server
from services.scheduler.generators import SERVICE, _addresses
from tests.servers.scheduler import FakeGenerator, drawn, draws, running_scheduler, sqlite_url, started, used
from tests.servers.valkey import ValkeyServer


async def second_generator(address: str) -> tuple[FakeGenerator, Server]:
    generator, server = FakeGenerator(), Server([SERVICE], lambda _: None)
    generator_pb2_grpc.add_GeneratorServiceServicer_to_server(generator, server.grpc)
    await server.start(address)
    return generator, server


def holding(door: asyncio.Event):  # type: ignore[no-untyped-def]
    async def steps(_: gen.GenerateRequest) -> AsyncIterator[gen.GenerateResponse]:
        yield started()
        await door.wait()
        yield used()
        yield drawn()

    return steps


@pytest.mark.parametrize("how", ["killed", "drained"])
async def test_two_share_the_work_and_one_may_go(tmp_path: Path, valkey: ValkeyServer, how: str) -> None:
    """Killed: its attempts are tried again at once, on the other. Drained: it gets no new ones and finishes its own."""
    address = f"unix:{tmp_path}/g2.sock"
    second, server = await second_generator(address)
    door = asyncio.Event()
    async with running_scheduler(sqlite_url(tmp_path), valkey.url) as scheduler:
        first_address = scheduler.environment["generator_addresses"]
        await scheduler.stop()
        scheduler.environment["generator_addresses"] = (*first_address, address)
        await scheduler.start()
        scheduler.generator.steps = second.steps = holding(door)
        ids = [await scheduler.submit() for _ in range(10)]
        await scheduler.generator.until(lambda: len(scheduler.generator.asked) == 5, "five here")
        await second.until(lambda: len(second.asked) == 5, "five there")
        if how == "killed":
            await server.grpc.stop(0)
            await scheduler.generator.until(lambda: len(scheduler.generator.asked) == 10, "all ten here")
        else:
            going = asyncio.create_task(server.drain(grace_s=15))
            scheduler.generator.steps = draws
            late, _ = await scheduler.end(await scheduler.submit())
            assert late.state == pb.STATE_COMPLETED
            assert len(second.asked) == 5, "nothing new for one that drains"
        door.set()
        for request_id in ids:
            ended, _ = await scheduler.end(request_id)
            assert ended.state == pb.STATE_COMPLETED
        if how == "drained":
            await going
            assert len(scheduler.generator.asked) == 6, "what it had it finished itself"


async def test_none_ready_means_nothing_is_dispatched(tmp_path: Path, valkey: ValkeyServer) -> None:
    address = f"unix:{tmp_path}/late.sock"
    async with running_scheduler(sqlite_url(tmp_path), valkey.url, generator_addresses=(address,)) as scheduler:
        request_id = await scheduler.submit()
        row = await scheduler.get(request_id)
        assert (row.state, row.attempts) == (pb.STATE_QUEUED, 0)
        _, server = await second_generator(address)
        ended, _ = await scheduler.end(request_id)
        assert (ended.state, ended.attempts) == (pb.STATE_COMPLETED, 1)
        await server.grpc.stop(0)


async def test_a_name_stands_for_all_its_addresses() -> None:
    assert await _addresses("unix:/x") == {"unix:/x"}
    assert await _addresses("10.0.0.1:50053") == {"10.0.0.1:50053"}
    assert "127.0.0.1:50053" in await _addresses("dns:///localhost:50053")
    assert await _addresses("dns:///no-such-host.invalid:50053") == set()
