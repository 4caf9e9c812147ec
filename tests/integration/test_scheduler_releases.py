"""The release before this one and today's, on the same stores and under load: each takes over what the other leaves.

Broken on purpose, and red here: a script that needs a field which only today's place.lua writes, a new column without a
default.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

from headgate.generator.v1 import generator_pb2 as gen
from headgate.scheduler.v1 import scheduler_pb2 as pb

from services.templates import VERSION
from tests.servers.crowd import crowd, slowly
from tests.servers.replicas import released, replica
from tests.servers.scheduler import running_scheduler, sqlite_url, started, used
from tests.servers.valkey import ValkeyServer


async def test_both_releases_serve_the_same_line(database_url: str, tmp_path: Path, valkey: ValkeyServer) -> None:
    settings = {"provider_rpm": 1200, "cache_scope": "global", "generator_slots": 8, "drain_ms": 500}
    before = released(tmp_path / "before")
    async with running_scheduler(database_url, valkey.url, **settings) as today:
        # It has brought the schema up; the processes do the rest.
        await today.stop()
        today.generator.steps = slowly
        async with (
            replica(today, tmp_path, "old", before) as old,
            replica(today, tmp_path, "new") as new,
            crowd([new, old], database_url, valkey) as load,
        ):
            for leaver in (old, new):
                for leave in (leaver.kill, leaver.stop):
                    await load.more(25)
                    await leave()
                    await load.more(10)
                    await leaver.start()
            await load.more(20)


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
