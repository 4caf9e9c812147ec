"""What the pool does when the provider refuses or fails: stops for everybody's sake, never for one request's alone.

The faults come over HTTP through a real generator to a real scheduler, as in test_outcomes_http.py.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from headgate.scheduler.v1 import scheduler_pb2 as pb

from services.scheduler.generators import Asked, Generators
from tests.servers.outcomes import Upstream, Way, running_upstream, running_way
from tests.servers.valkey import ValkeyServer
from tests.unit.test_scheduler_outcomes import a_request

pytestmark = pytest.mark.asyncio(loop_scope="module")
ACCOUNT = ["spend_cap", "spend_limit", "401", "402", "403"]
PROBE_EVERY_MS = 200
LONG = ", ".join(f"step {i}" for i in range(20))
"""An answer long enough to break off in its middle."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncIterator[Upstream]:
    async with running_upstream() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def way(upstream: Upstream, tmp_path: Path, valkey: ValkeyServer) -> AsyncIterator[Way]:
    await upstream.reset()
    async with running_way(upstream, tmp_path, valkey.url, account_probe_ms=PROBE_EVERY_MS) as running:
        yield running


@pytest.mark.parametrize("fault", ACCOUNT)
async def test_a_refused_account_stops_the_pool_until_a_probe_passes(
    way: Way, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    await way.emulator.fault(fault, times=1000)
    first = await way.submit("first")
    assert (await way.until(first, "retrying")).retrying.attempt == 1
    length_ms = await way.until_paused("provider_account")
    assert length_ms > PROBE_EVERY_MS, "the pause outlasts the time to the next probe"
    second = await way.submit("second")
    await way.emulator.calls_when(lambda calls: len(calls) >= 5)
    calls, probes = await way.calls(), await way.probes()
    assert len(calls) == len(probes) + 1, "one request was refused; from then on only probes are sent"
    gaps = [later["time_ms"] - call["time_ms"] for call, later in zip(probes[1:], probes[2:], strict=False)]
    assert all(gap >= PROBE_EVERY_MS * 0.9 for gap in gaps)
    assert [way.row(r)["state"] for r in (first, second)] == ["queued", "queued"]
    assert len([record for record in caplog.records if "ALERT" in record.message]) == 1
    await way.emulator.clear_faults()
    for request_id, attempts in ((first, 2), (second, 1)):
        ended = await way.end(request_id)
        assert (ended.state, ended.attempts) == (pb.STATE_COMPLETED, attempts)
    assert way.row(first)["failures"] == 0
    assert (await way.pause())[0] == ""
    assert (await way.probes())[-1]["status"] == 200
    assert len(await way.calls("first")) == 2


async def test_what_waits_for_a_refused_account_waits_until_its_deadline(way: Way) -> None:
    await way.emulator.fault("402", times=1000)
    first = await way.submit("first", max_wait_ms=1500)
    await way.until_paused("provider_account")
    second = await way.submit("second", max_wait_ms=1000)
    for request_id, attempts in ((second, 0), (first, 1)):
        ended = await way.end(request_id)
        assert (ended.state, ended.code, ended.attempts) == (pb.STATE_EXPIRED, pb.FAILURE_CODE_EXPIRED, attempts)


@pytest.mark.parametrize("fault", ACCOUNT)
async def test_a_request_that_alone_is_refused_fails_alone(way: Way, fault: str) -> None:
    await way.emulator.fault(fault, times=1000, match="poison")
    poison = await way.submit("poison")
    others = [await way.submit(f"other {i}") for i in range(3)]
    ended = await way.end(poison)
    assert (ended.state, ended.code, ended.attempts) == (pb.STATE_FAILED, pb.FAILURE_CODE_PROVIDER_REJECTED, 1)
    assert not (await way.scheduler.quota.end(poison)).counted
    for request_id in others:
        ended = await way.end(request_id)
        assert (ended.state, ended.attempts) == (pb.STATE_COMPLETED, 1)
    assert (await way.pause())[0] == ""
    assert len(await way.calls("poison")) == 1
    assert [probe["status"] for probe in await way.probes()] == [200]


async def test_many_that_are_refused_together_share_one_probe(way: Way) -> None:
    await way.emulator.fault("401", times=1000)
    ids = [await way.submit(f"one of ten, {i}") for i in range(10)]
    await way.until_paused("provider_account")
    await way.emulator.clear_faults()
    for request_id in ids:
        assert (await way.end(request_id)).state == pb.STATE_COMPLETED
    sent = await way.calls()
    assert len(await way.probes()) <= 3, [call["status"] for call in sent]


async def test_a_probe_that_says_nothing_of_the_account_is_no_reason_to_hammer(way: Way) -> None:
    await way.emulator.fault("529", times=1000, match="ping")
    await way.emulator.fault("401", times=1000)
    request_id = await way.submit(max_wait_ms=1000)
    ended = await way.end(request_id)
    assert ended.state == pb.STATE_EXPIRED
    # At a tenth of 1, 2, 4… s a second has room for four tries.
    assert 1 <= len(await way.calls()) - len(await way.probes()) <= 5
    assert way.row(request_id)["failures"] == 0


async def test_a_probe_that_passes_does_not_end_another_pause(way: Way) -> None:
    await way.emulator.fault("429", match="first", retry_after=2)
    await way.emulator.fault("401", match="poison")
    # The poison is refused while the pool rests for the other: both are sent at once.
    first, poison = await asyncio.gather(way.submit("first"), way.submit("poison"))
    assert (await way.end(poison)).code == pb.FAILURE_CODE_PROVIDER_REJECTED
    assert (await way.end(first)).state == pb.STATE_COMPLETED
    refused, served = await way.calls("first")
    assert served["time_ms"] - refused["time_ms"] >= 2000


@pytest.mark.parametrize(("fault", "tries"), [("529", 10), ("408", 10), ("cut", 4), ("not_json", 4), ("no_stop", 4)])
async def test_a_request_that_alone_draws_errors_cannot_stop_the_pool(
    upstream: Upstream, tmp_path: Path, valkey: ValkeyServer, fault: str, tries: int
) -> None:
    await upstream.reset()
    await upstream.emulator.fault(fault, times=1000, after_tokens=60, match="poison")
    # The shortest backoff there is, 100 ms.
    async with running_way(upstream, tmp_path, valkey.url, random_fraction=lambda: 0.0) as way:
        poison = await way.submit(f"poison, {LONG}")
        # Nobody else is there at first, so all that the pool sees is errors.
        await way.until(poison, "retrying", tries)
        for i in range(10):
            ended = await way.end(await way.submit(f"other {i}"))
            assert (ended.state, ended.attempts) == (pb.STATE_COMPLETED, 1)
            assert (await way.pause())[0] == ""
        calls = len(await way.calls(f"poison, {LONG}"))
        # One may just have begun and not be there yet.
        assert tries <= calls <= way.row(poison)["attempt"] <= len(await way.calls(f"poison, {LONG}")) + 1


@pytest.mark.parametrize("fault", ["cut", "529"])
async def test_a_pool_that_is_broken_uses_up_nobodys_tries(way: Way, fault: str) -> None:
    await way.emulator.fault(fault, times=100_000, after_tokens=60)
    ids = [await way.submit(f"{LONG}, {i}") for i in range(20)]
    length_ms = await way.until_paused("provider_down")
    assert length_ms > 0
    # Long enough that each would have had its five tries, were they counted: 0.1 + 0.2 + 0.4 + 0.8 s.
    began_ms = (await way.calls())[0]["time_ms"]
    calls = await way.emulator.calls_when(lambda _: time.time() * 1000 > began_ms + 2_000)
    # Twenty first tries, those of the first seven again that were sent before it opened, and single probes.
    assert len(calls) <= 30
    assert (await way.pause())[1] <= 4_000, "what was in flight when it opened did not make it longer"
    assert all(way.row(request_id)["state"] in ("queued", "running") for request_id in ids)
    await way.emulator.clear_faults()
    for request_id in ids:
        assert (await way.end(request_id)).state == pb.STATE_COMPLETED
    # Only the first two were not yet known to share their fate.
    assert sum(way.row(request_id)["failures"] for request_id in ids) <= 4
    assert (await way.pause())[0] == ""
    # One layer retries.
    assert len(await way.calls()) == sum(way.row(request_id)["attempt"] for request_id in ids)


async def test_three_429s_while_others_pass_are_the_requests_own_fault(way: Way) -> None:
    await way.emulator.fault("429", times=1000, match="poison", retry_after=0.2)
    poison = await way.submit("poison")
    others = 0

    async def keep_passing() -> None:
        nonlocal others
        while True:
            assert (await way.end(await way.submit(f"other {others}"))).attempts == 1
            others += 1

    passing = asyncio.create_task(keep_passing())
    ended = await way.end(poison)
    assert not passing.done(), "nobody else was refused"
    passing.cancel()
    assert (ended.state, ended.code) == (pb.STATE_FAILED, pb.FAILURE_CODE_PROVIDER_REJECTED)
    # The second may come before anybody else was served, and then says nothing.
    assert 3 <= ended.attempts <= 4
    assert len(await way.calls("poison")) == ended.attempts
    assert others >= 2
    assert not (await way.scheduler.quota.end(poison)).counted


async def test_429s_that_everybody_gets_fail_nobody(way: Way) -> None:
    await way.emulator.fault("429", times=3, retry_after=0.2)
    request_id = await way.submit()
    ended = await way.end(request_id)
    assert (ended.state, ended.attempts) == (pb.STATE_COMPLETED, 4)
    assert way.row(request_id)["failures"] == 0
    assert len(await way.calls()) == 4


async def test_a_ramp_limit_slows_the_pool_for_a_while(way: Way) -> None:
    await way.emulator.limits(rpm=600, request_burst_ms=1000)
    await way.end(await way.submit("to learn the limit"))
    await way.emulator.fault("429_ramp", retry_after=1)
    ids = [await way.submit(f"step {i} of the ramp") for i in range(16)]
    for request_id in ids:
        assert (await way.end(request_id)).state == pb.STATE_COMPLETED
    times = [call["time_ms"] for call in await way.calls() if call["status"] == 200][-15:]
    # Five go from a full bucket, then ten in a second at the limit of 600 a minute, in two at half of it.
    assert times[-1] - times[0] >= 1_500


async def test_the_accounts_probe_waits_for_no_worker(upstream: Upstream) -> None:
    await upstream.reset()
    await upstream.emulator.fault("mute")
    ready, stopping = asyncio.Event(), asyncio.Event()
    generators = Generators([upstream.generator.address], 1, None, ready.set)
    running = asyncio.create_task(generators.run(stopping))
    await asyncio.wait_for(ready.wait(), 20)
    answers = aiter(generators.generate(a_request(prompt="slow"), 10_000))
    assert await anext(answers) == Asked(1)
    busy = asyncio.create_task(anext(answers))
    await upstream.emulator.calls_when(lambda calls: bool(calls))
    assert generators.free == 0
    await asyncio.wait_for(generators.probe("claude-sonnet-5-5"), 10)
    assert not busy.done()
    busy.cancel()
    await asyncio.wait({busy})
    stopping.set()
    await running
