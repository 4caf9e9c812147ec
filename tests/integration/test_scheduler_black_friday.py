"""The owner's Black Friday: a hundred users send ten requests each within a minute, a hundred a minute go out.

All are served in ten minutes, and what each was told when it came (place and wait) is what it had. In virtual time,
through the scripts that production runs.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from statistics import median

import pytest

from services.scheduler import line as line_module
from services.scheduler.life import Request
from services.scheduler.line import Identity, ValkeyLine
from services.scheduler.waits import Place, place_of, read_view
from tests.servers.valkey import ValkeyServer
from tests.unit.test_scheduler_outcomes import a_request

POOL, START_MS, SLOTS = "sonnet", 1_000_000_000, 64
ANSWER_MS = (4_000, 12_000)


@pytest.fixture
async def line(valkey: ValkeyServer) -> AsyncIterator[ValkeyLine]:
    identity = Identity(1, valkey.client().info("server")["run_id"])
    client = line_module.connect(valkey.url, identity)
    line = ValkeyLine(client, identity, virtual_now_ms=START_MS)
    valkey.client().hset(f"{line_module.base_key(POOL)}meta", "epoch", "1")
    await line.set_limits(POOL, "plan", {"requests": 100, "tokens": 800_000})
    await line.dispatch(POOL, 0, None)
    yield line
    await client.aclose()


async def test_a_thousand_requests_in_a_minute_are_served_in_ten(line: ValkeyLine) -> None:
    dice = random.Random(7)
    arrivals = sorted((START_MS + dice.randrange(60_000), n) for n in range(1_000))
    requests = {
        f"req_{n:04d}": replace(
            a_request(), request_id=f"req_{n:04d}", user_id=f"user{n % 100}", pool=POOL,
            estimated_input_tokens=500, estimated_output_tokens=700,
        )
        for n in range(1_000)
    }  # fmt: skip
    told: dict[str, tuple[int, Place]] = {}
    begun: dict[str, int] = {}
    ends: list[tuple[int, str]] = []
    while len(begun) < 1_000:
        now_ms = line.virtual_now_ms or 0
        while arrivals and arrivals[0][0] <= now_ms:
            _, number = arrivals.pop(0)
            request = requests[f"req_{number:04d}"]
            await line.place(POOL, [request])
            told[request.request_id] = (now_ms, await place(line, request))
        while ends and ends[0][0] <= now_ms:
            _, request_id = heapq.heappop(ends)
            await line.finish(replace(requests[request_id], attempt=1), 500, 700)
        taken = await line.dispatch(POOL, SLOTS - len(ends), None)
        for request_id, _ in taken.request_ids:
            begun[request_id] = now_ms
            heapq.heappush(ends, (now_ms + dice.randint(*ANSWER_MS), request_id))
        moments = [arrivals[0][0]] if arrivals else []
        moments += [ends[0][0]] if ends else []
        moments += [now_ms + taken.wait_ms] if taken.wait_ms >= 0 else []
        line.virtual_now_ms = max(now_ms + 1, min(moments))
    check_flow(begun)
    check_words(told, begun)


async def place(line: ValkeyLine, request: Request) -> Place:
    answer = await line.view(POOL, [request.request_id])
    found = answer["places"][0]
    return place_of(read_view(answer), found["tier"], found["rank"], found["cost"], SLOTS)


def check_flow(begun: dict[str, int]) -> None:
    assert max(begun.values()) - START_MS <= 10.2 * 60_000, "a thousand at a hundred a minute"
    times = sorted(begun.values())
    for earlier, later in zip(times, times[100:], strict=False):
        assert later - earlier >= 60_000, "never more than a hundred in any minute"


def check_words(told: dict[str, tuple[int, Place]], begun: dict[str, int]) -> None:
    """Once all have come nobody overtakes, so the words of the last to come can be held against what happened."""
    late = {i: words for i, words in told.items() if words[0] >= START_MS + 50_000}
    errors = []
    for request_id, (at_ms, words) in late.items():
        had_ms = begun[request_id] - at_ms
        errors.append(abs(words.wait_ms - had_ms) / max(had_ms, 5_000))
    assert len(late) > 100
    assert median(errors) <= 0.10
    assert sorted(errors)[int(0.9 * len(errors))] <= 0.25
    somewhere = min(late.values(), key=lambda words: abs(words[1].position - 523))[1]
    assert 480 <= somewhere.position <= 560
    assert somewhere.wait_ms == pytest.approx(somewhere.position * 600, rel=0.05), "523rd: about five minutes"
