"""The scripts of the release before this one and today's on the same keys, in virtual time.

Broken on purpose, and red here: `anew` left out of dispatch.lua, `held` out of same.lua's `unpark`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.clock import DAY_MS
from services.scheduler.life import State
from services.scheduler.line import ValkeyLine, base_key
from services.scheduler.spend import Spent
from tests.integration.test_scheduler_line import POOL, drain_order, limited, line, request
from tests.servers.replicas import released, released_line
from tests.servers.valkey import ValkeyServer

__all__ = ["line"]
INPUT, OUTPUT = 1_000, 500


@pytest.fixture
def before(line: ValkeyLine, tmp_path: Path) -> Any:
    (folder,) = released(tmp_path)
    return released_line(folder, line)


def asking(number: int, **changes: object) -> Any:
    sizes = {"estimated_input_tokens": INPUT, "estimated_output_tokens": OUTPUT, "max_tokens": 4_000}
    return request(number, **{**sizes, **changes})


async def taken(one: Any) -> list[str]:
    answer = await one.dispatch(POOL, 9, None)
    return [request_id for request_id, _ in answer.request_ids]


@pytest.mark.parametrize("placed_by", ["before", "today"])
@pytest.mark.parametrize("ended_by", ["before", "today"])
@pytest.mark.parametrize("taken_by", ["before", "today"])
async def test_whoever_does_what_the_bucket_is_settled(
    line: ValkeyLine, before: Any, valkey: ValkeyServer, placed_by: str, taken_by: str, ended_by: str
) -> None:
    """What was really used is gone from the bucket, and no more."""
    of = {"before": before, "today": line}
    await limited(line, valkey, requests=6_000, input_tokens=600_000, output_tokens=600_000)
    for one in of.values():
        one.virtual_now_ms += 60_000
    full = (await line.view(POOL))["levels"]
    row = asking(1)
    await of[placed_by].place(POOL, [row])
    assert await taken(of[taken_by]) == ["req_0001"]
    begun = replace(row, attempt=1, state=State.RUNNING)
    assert await of[taken_by].start(POOL, "req_0001", 1, {"type": "processing"})
    await of[ended_by].finish(replace(begun, state=State.COMPLETED), 800, 900)
    left = (await line.view(POOL))["levels"]
    assert {name: round(full[name] - left[name]) for name in full} == {
        "requests": 1, "input_tokens": 800, "output_tokens": 900,
    }  # fmt: skip


@pytest.mark.parametrize("put_back_by", ["before", "today"])
async def test_what_was_put_back_is_taken_anew(
    line: ValkeyLine, before: Any, valkey: ValkeyServer, put_back_by: str
) -> None:
    """The release before leaves the mark of the lost attempt: what that took was given back at the end of the next."""
    await limited(line, valkey, requests=6_000, input_tokens=600_000, output_tokens=600_000)
    for one in (before, line):
        one.virtual_now_ms += 60_000
    full = (await line.view(POOL))["levels"]
    row = asking(1)
    await line.place(POOL, [row])
    for attempt in (1, 2):
        assert await drain_order(line, 9) == ["req_0001"]
        assert await line.start(POOL, "req_0001", attempt, {"type": "processing"})
        if attempt == 1:
            one = {"before": before, "today": line}[put_back_by]
            assert await one.requeue(replace(row, attempt=1), None, None, None)
    await line.finish(replace(row, attempt=2, state=State.COMPLETED), 800, 900)
    view = await line.view(POOL)
    assert round(full["input_tokens"] - view["levels"]["input_tokens"]) == INPUT + 800
    assert {name: float(n) for name, n in view["bucket"].items() if name.startswith("unanswered:")} == {
        "unanswered:requests": 0, "unanswered:tokens": 0, "unanswered:input_tokens": 0, "unanswered:output_tokens": 0,
    }  # fmt: skip


async def test_what_the_other_release_took_from_behind_is_not_put_in_line(
    line: ValkeyLine, before: Any, valkey: ValkeyServer
) -> None:
    """It does not know what is parked, finds it missing, places it and serves it."""
    first, second = (asking(n, user=f"u{n}", cache_key="w") for n in (1, 2))
    await line.place(POOL, [first, second])
    assert await drain_order(line, 9) == ["req_0001"]
    assert await line.parked(POOL, "req_0001") == ["req_0002"]
    assert await before.missing(POOL, ["req_0002"]) == ["req_0002"]
    assert await before.place(POOL, [second]) == 1
    assert await taken(before) == ["req_0002"]
    await line.finish(replace(first, attempt=1, state=State.COMPLETED), INPUT, OUTPUT)
    assert (await line.view(POOL))["tiers"]["free"]["queued"] == 0
    assert valkey.client().exists(f"{base_key(POOL)}behind:w") == 0


@pytest.mark.parametrize("how", ["ended", "put back"])
async def test_what_is_parked_behind_an_end_of_the_other_release_is_freed(
    line: ValkeyLine, before: Any, how: str
) -> None:
    rows = [asking(n, user=f"u{n}", cache_key="w") for n in (1, 2, 3)]
    await line.place(POOL, rows)
    assert await drain_order(line, 9) == ["req_0001"]
    if how == "ended":
        await before.finish(replace(rows[0], attempt=1, state=State.CANCELLED), None, None)
        await before.finish(replace(rows[2], state=State.CANCELLED), None, None)
    else:
        assert await before.requeue(replace(rows[0], attempt=0), None, None, None)
    assert await line.unpark(POOL) == 2
    assert len(await drain_order(line, 9)) == 1


async def test_the_sites_spend_limit_stops_the_other_release_too(line: ValkeyLine, before: Any) -> None:
    """It knows pauses, and no limits of tiers and users: those it serves on."""
    await line.place(POOL, [asking(1), asking(2, user="dear")])
    day = (line.virtual_now_ms or 0) // DAY_MS
    await line.tell_spent(POOL, day, [Spent("site", 5, 5), Spent("user/dear", 5, 5), Spent("tier/free", 5, 5)])
    assert await taken(before) == []
    await line.tell_spent(POOL, day, [Spent("site", 5, 6)])
    assert await taken(line) == []
    assert await taken(before) == ["req_0001", "req_0002"]
    # What it served of a stopped user is ended by either.
    await line.finish(replace(asking(2, user="dear"), attempt=1, state=State.COMPLETED), INPUT, OUTPUT)
    await before.finish(replace(asking(1), attempt=1, state=State.COMPLETED), INPUT, OUTPUT)
    assert (await line.view(POOL))["running"] == 0
