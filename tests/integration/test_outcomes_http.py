"""The outcome table, row by row: the emulator's fault comes over HTTP through a real generator to a real scheduler.

Each row says what becomes of the request, of the pool and of the counters, and how many calls the emulator saw: one
layer retries, so attempts and calls are the same number (turns of a repair apart).
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from headgate.scheduler.v1 import scheduler_pb2 as pb

from tests.servers.emulator import running_emulator
from tests.servers.generator import running_generator
from tests.servers.outcomes import Upstream, Way, running_upstream, running_way
from tests.servers.valkey import ValkeyServer

pytestmark = pytest.mark.asyncio(loop_scope="module")
LONG = ", ".join(f"step {i}" for i in range(20))
"""An answer long enough to break off in its middle."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncIterator[Upstream]:
    async with running_upstream() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def way(upstream: Upstream, tmp_path: Path, valkey: ValkeyServer) -> AsyncIterator[Way]:
    await upstream.reset()
    async with running_way(upstream, tmp_path, valkey.url) as running:
        yield running


def statuses(calls: list[dict[str, object]]) -> list[object]:
    return [call["status"] for call in calls]


async def test_nothing_goes_wrong(way: Way) -> None:
    request_id = await way.submit()
    ended = await way.end(request_id)
    assert (ended.state, ended.attempts, ended.truncated) == (pb.STATE_COMPLETED, 1, False)
    assert statuses(await way.calls()) == [200]
    assert (await way.scheduler.quota.end(request_id)).counted


@pytest.mark.parametrize("fault", ["429", "429_ramp"])
async def test_a_429_pauses_the_pool_and_costs_the_request_nothing(
    upstream: Upstream, tmp_path: Path, valkey: ValkeyServer, fault: str
) -> None:
    await upstream.reset()
    await upstream.emulator.fault(fault, retry_after=1)
    # One at a time, so that the order is seen upstream.
    async with running_way(upstream, tmp_path, valkey.url, provider_concurrency=1) as way:
        first = await way.submit("first")
        event = await way.until(first, "retrying")
        assert event.retrying.delay.ToMilliseconds() == 1000
        reason, length_ms = await way.pause()
        assert reason == "provider_limit"
        assert 0 < length_ms <= 1000
        second = await way.submit("second")
        row = way.row(first)
        assert (row["state"], row["attempt"], row["failures"], row["not_before_ms"]) == ("queued", 1, 0, 0)
        assert (await way.scheduler.get(first)).place.position == 1, "it kept its place"
        for request_id, attempts in ((first, 2), (second, 1)):
            ended = await way.end(request_id)
            assert (ended.state, ended.attempts) == (pb.STATE_COMPLETED, attempts)
        assert way.row(first)["failures"] == 0
        calls = await way.calls()
        assert statuses(calls) == [429, 200, 200]
        assert calls[1]["time_ms"] - calls[0]["time_ms"] >= 1000, "nothing was sent while the pool paused"
        assert calls[1]["prompt_hash"] == calls[0]["prompt_hash"], "it went first"


@pytest.mark.parametrize("fault", ["529", "500", "502", "503", "504", "408", "mute"])
async def test_no_answer_is_asked_for_again_and_counts_for_nothing(way: Way, fault: str) -> None:
    await way.emulator.fault(fault, times=3)
    request_id = await way.submit()
    ended = await way.end(request_id)
    assert (ended.state, ended.attempts) == (pb.STATE_COMPLETED, 4)
    # A tenth of 1, 2 and 4 s.
    assert await way.retries(request_id) == [(1, 100), (2, 200), (3, 400)]
    calls = await way.calls()
    assert len(calls) == 4
    gaps = [later["time_ms"] - call["time_ms"] for call, later in zip(calls, calls[1:], strict=False)]
    assert all(gap >= delay for gap, (_, delay) in zip(gaps, await way.retries(request_id), strict=True))
    assert way.row(request_id)["failures"] == 0, "only tries that spent tokens count towards five"
    settlement = await way.scheduler.quota.end(request_id)
    assert settlement.counted
    assert [charge.attempt for charge in settlement.charges] == [4]


@pytest.mark.parametrize("fault", ["cut", "silence", "error_event", "not_json", "no_stop"])
async def test_an_answer_that_breaks_off_is_asked_for_again_and_counts_as_a_try(way: Way, fault: str) -> None:
    await way.emulator.fault(fault, times=2, after_tokens=60)
    request_id = await way.submit(LONG)
    ended = await way.end(request_id)
    assert (ended.state, ended.attempts) == (pb.STATE_COMPLETED, 3)
    assert await way.retries(request_id) == [(1, 100), (2, 200)]
    assert len(await way.calls()) == 3
    assert way.row(request_id)["failures"] == 2
    await way.scheduler.quota.end(request_id)
    charges = [c for s in way.scheduler.quota.settlements for c in s.charges]
    assert sorted((c.attempt, c.estimated) for c in charges) == [(1, True), (2, True), (3, False)]


async def test_five_answers_that_broke_off_are_enough(way: Way) -> None:
    # Others pass meanwhile, so it is the request and not the provider.
    await way.emulator.fault("cut", times=100, after_tokens=60, match="step 7")
    request_id = await way.submit(LONG)
    for i in range(10):
        assert (await way.end(await way.submit(f"other {i}"))).state == pb.STATE_COMPLETED
    ended = await way.end(request_id)
    assert (ended.state, ended.code, ended.attempts) == (pb.STATE_FAILED, pb.FAILURE_CODE_PROVIDER_UNAVAILABLE, 5)
    assert len(await way.calls(LONG)) == 5
    assert not (await way.scheduler.quota.end(request_id)).counted
    assert (
        len({c.attempt for s in way.scheduler.quota.settlements for c in s.charges if s.request_id == request_id}) == 5
    )


async def test_errors_before_the_first_byte_end_at_the_requests_own_deadline(way: Way) -> None:
    await way.emulator.fault("529", times=100)
    request_id = await way.submit(max_wait_ms=1000)
    ended = await way.end(request_id)
    assert (ended.state, ended.code) == (pb.STATE_EXPIRED, pb.FAILURE_CODE_EXPIRED)
    row = way.row(request_id)
    assert 2 <= len(await way.calls()) == row["attempt"]
    assert row["failures"] == 0


async def test_a_delay_that_an_overloaded_provider_names_is_kept(way: Way) -> None:
    await way.emulator.fault("503", retry_after=1)
    request_id = await way.submit()
    assert (await way.end(request_id)).attempts == 2
    assert await way.retries(request_id) == [(1, 1000)]
    first, second = await way.calls()
    assert second["time_ms"] - first["time_ms"] >= 1000


async def test_nobody_listens_until_somebody_does(tmp_path: Path, valkey: ValkeyServer) -> None:
    with socket.socket() as reserved:
        # Bound and not listening: connecting is refused, and nobody else gets the port.
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        async with running_generator(f"http://127.0.0.1:{port}") as generator:
            away = Upstream(None, generator)  # type: ignore[arg-type]
            async with running_way(away, tmp_path, valkey.url) as way:
                request_id = await way.submit()
                await way.until(request_id, "retrying", 2)
                reserved.close()
                async with running_emulator(port=port) as emulator:
                    ended = await way.end(request_id)
                    assert ended.state == pb.STATE_COMPLETED
                    assert (await emulator.totals())["count"] == 1
                retries = await way.retries(request_id)
                assert retries[:2] == [(1, 100), (2, 200)]
                assert ended.attempts == len(retries) + 1
                assert way.row(request_id)["failures"] == 0


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("400", "This request cannot be processed."), ("404", "Not found."),
        ("413", "Request exceeds the maximum allowed number of bytes."),
    ],
)  # fmt: skip
async def test_what_the_provider_rejects_fails_at_once_with_its_words(way: Way, fault: str, words: str) -> None:
    await way.emulator.fault(fault, times=100)
    request_id = await way.submit()
    ended = await way.end(request_id)
    assert (ended.state, ended.code, ended.attempts) == (pb.STATE_FAILED, pb.FAILURE_CODE_PROVIDER_REJECTED, 1)
    assert words in ended.error
    assert len(await way.calls()) == 1
    assert (await way.pause())[0] == ""
    settlement = await way.scheduler.quota.end(request_id)
    assert (settlement.counted, list(settlement.charges)) == (False, [])


async def test_an_answer_at_its_token_limit_is_truncated_or_repaired(way: Way) -> None:
    prompt = ", ".join(f"thing{i}" for i in range(10))
    seen: dict[bool, int] = {}
    for limit in range(20, 60):
        await way.emulator.forget_calls()
        await way.emulator.fault("max_tokens", after_tokens=limit)
        ended = await way.end(await way.scheduler.submit(prompt=f"{prompt}, {limit}", diagram_type="state"))
        assert (ended.state, ended.attempts) == (pb.STATE_COMPLETED, 1)
        seen[ended.truncated] = len(await way.calls())
        if len(seen) == 2:
            break
    # One call where what came parses all the same, a repair turn where it does not.
    assert seen == {True: 1, False: 2}


async def test_a_refusal_of_the_model_is_final(way: Way) -> None:
    await way.emulator.fault("refusal", times=100)
    request_id = await way.submit()
    ended = await way.end(request_id)
    assert (ended.state, ended.code, ended.attempts) == (pb.STATE_FAILED, pb.FAILURE_CODE_REFUSED, 1)
    assert len(await way.calls()) == 1
    settlement = await way.scheduler.quota.end(request_id)
    assert (settlement.counted, [charge.turn for charge in settlement.charges]) == (False, [1])


async def test_a_bad_diagram_is_repaired_in_the_same_attempt(way: Way) -> None:
    await way.emulator.fault("bad_diagram")
    request_id = await way.submit()
    ended = await way.end(request_id)
    assert (ended.state, ended.attempts) == (pb.STATE_COMPLETED, 1)
    assert await way.retries(request_id) == []
    assert len(await way.calls()) == 2
    settlement = await way.scheduler.quota.end(request_id)
    assert (settlement.counted, [charge.turn for charge in settlement.charges]) == (True, [1, 2])


async def test_a_diagram_that_is_bad_twice_fails(way: Way) -> None:
    await way.emulator.fault("bad_diagram_always", times=100)
    request_id = await way.submit()
    ended = await way.end(request_id)
    assert (ended.state, ended.code, ended.attempts) == (pb.STATE_FAILED, pb.FAILURE_CODE_INVALID_DIAGRAM, 1)
    assert len(await way.calls()) == 2
    settlement = await way.scheduler.quota.end(request_id)
    assert (settlement.counted, [charge.turn for charge in settlement.charges]) == (False, [1, 2])
