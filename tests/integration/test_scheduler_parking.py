"""Parking on a real Valkey, in virtual time: what waits for an equal request's end holds its place and nothing else.

Broken on purpose, and red here: `ahead` without "never itself", `land` left out of finish.lua and of requeue.lua, `fly`
out of dispatch.lua, what is parked left out of `held`, `leave` and view.lua, `park` without `list_user`, no bound on
parking, a sweep that frees nothing.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.scheduler.life import TierTerms
from services.scheduler.line import LEASE_MS, ValkeyLine, base_key
from services.scheduler.waits import read_view
from tests.integration.test_scheduler_line import POOL, START_MS, drain_order, limited, line, request
from tests.servers.valkey import ValkeyServer

__all__ = ["line"]
BEHIND = f"{base_key(POOL)}behind:w"


def equal(number: int, tier: str = "free", user: str = "u", **changes: object):  # type: ignore[no-untyped-def]
    return request(number, tier, user, **{"cache_key": "w", **changes})


async def test_what_is_parked_takes_no_lease_and_nothing_from_the_bucket(
    line: ValkeyLine, valkey: ValkeyServer
) -> None:
    await limited(line, valkey, requests=600)
    await line.place(POOL, [equal(n, user=f"u{n}") for n in range(50)] + [request(90, user="other")])
    line.virtual_now_ms += 1_000
    assert await drain_order(line, 99) == ["req_0000", "req_0090"], "and stops nobody behind it"
    view = read_view(await line.view(POOL))
    assert (view.running, view.tiers["free"].queued, round(view.levels["requests"])) == (2, 0, 3)
    line.virtual_now_ms += 60_000
    assert await drain_order(line, 99) == [], "however long it takes"
    assert await line.parked(POOL, "req_0000") == [f"req_{n:04d}" for n in range(1, 50)]
    assert await line.parked(POOL, "req_0090") == await line.parked(POOL, "req_0001") == []


async def test_equals_at_the_heads_of_two_tiers_do_not_run_together(line: ValkeyLine) -> None:
    await line.place(POOL, [equal(1, "free"), equal(2, "pro"), request(3, "free"), request(4, "pro")])
    assert sorted(await drain_order(line, 9)) in (
        ["req_0001", "req_0003", "req_0004"],
        ["req_0002", "req_0003", "req_0004"],
    )


@pytest.mark.parametrize("end", ["retried", "ended"])
async def test_they_come_back_at_their_tags(line: ValkeyLine, end: str) -> None:
    await line.place(POOL, [equal(1, user="a"), equal(2, user="b"), equal(3, user="c")])
    assert await drain_order(line, 9) == ["req_0001"]
    await line.place(POOL, [request(4, user="d"), request(5, user="d")])
    if end == "retried":
        later = equal(1, user="a", attempt=0, not_before_ms=START_MS + 500)
        assert await line.requeue(later, None, None, None)
    else:
        await line.finish(equal(1, user="a"))
    assert await line.parked(POOL, "req_0001") == []
    assert await drain_order(line, 9) == ["req_0002", "req_0004", "req_0005"], "the next one runs before who came later"
    assert await line.parked(POOL, "req_0002") == ["req_0003"]
    line.virtual_now_ms += 500
    assert await drain_order(line, 9) == [], "the first is parked behind the second"
    await line.finish(equal(2, user="b"))
    assert await drain_order(line, 9) == (["req_0001"] if end == "retried" else ["req_0003"])


async def test_nothing_is_parked_behind_itself(line: ValkeyLine, valkey: ValkeyServer) -> None:
    """A release that knows no parking puts a request back and leaves the note that it runs."""
    await line.place(POOL, [equal(1)])
    valkey.client().hset(f"{base_key(POOL)}flights", "w", "req_0001")
    valkey.client().zadd(f"{base_key(POOL)}leases", {"req_0001": START_MS + LEASE_MS})
    assert await drain_order(line, 9) == ["req_0001"]


async def test_what_waits_behind_nothing_that_runs_is_freed_by_the_sweep(
    line: ValkeyLine, valkey: ValkeyServer
) -> None:
    await line.place(POOL, [equal(1), equal(2), equal(3)])
    assert await drain_order(line, 9) == ["req_0001"]
    assert await line.unpark(POOL) == 0, "it runs"
    valkey.client().zrem(f"{base_key(POOL)}leases", "req_0001")
    assert await line.unpark(POOL) == 2
    assert await line.unpark(POOL) == 0
    assert await drain_order(line, 9) == ["req_0002"]


async def test_a_crowd_of_equals_is_parked_and_freed_a_batch_at_a_time(line: ValkeyLine, valkey: ValkeyServer) -> None:
    await line.place(POOL, [equal(n, user=f"u{n % 50}") for n in range(1_200)])
    taken = [await line.dispatch(POOL, 9, None) for _ in range(3)]
    assert [len(t.request_ids) for t in taken] == [1, 0, 0]
    assert [t.wait_ms for t in taken] == [0, 0, -1], "asked again at once while there is more"
    assert valkey.client().zcard(BEHIND) == 1_199
    await line.finish(equal(0))
    assert valkey.client().zcard(BEHIND) == 699
    assert await line.unpark(POOL) == 500
    assert await line.unpark(POOL) == 199
    assert len(await drain_order(line, 9)) == 1


async def test_a_parked_request_is_not_missing_and_is_placed_once(line: ValkeyLine) -> None:
    await line.place(POOL, [equal(1), equal(2)])
    await drain_order(line, 9)
    assert await line.missing(POOL, ["req_0001", "req_0002", "req_0003"]) == ["req_0003"]
    assert await line.place(POOL, [equal(2)]) == 0
    assert await line.parked(POOL, "req_0001") == ["req_0002"]


async def test_a_parked_request_has_a_place(line: ValkeyLine) -> None:
    await line.place(POOL, [equal(1, user="a"), equal(2, user="b")])
    await drain_order(line, 9)
    await line.place(POOL, [request(3, user="c"), request(4, user="c")])
    two, three, gone = (await line.view(POOL, ["req_0002", "req_0003", "req_0001"]))["places"]
    assert (two["rank"], three["rank"], gone) == (0, 0, False), "1 + who would go before it"


async def test_a_parked_request_follows_its_user_to_another_tier(line: ValkeyLine, valkey: ValkeyServer) -> None:
    await line.place(POOL, [equal(1, user="a"), equal(2, user="b")])
    await drain_order(line, 9)
    assert await line.retier(POOL, TierTerms("pro", 2, 4, 100), ["req_0002"]) == 1
    assert await drain_order(line, 9) == [], "parked again"
    await line.finish(equal(1, user="a"))
    view = read_view(await line.view(POOL))
    assert (view.tiers["pro"].queued, view.tiers["free"].queued) == (1, 0)
    assert await drain_order(line, 9) == ["req_0002"]


async def test_who_only_has_parked_requests_holds_nobody_back(line: ValkeyLine) -> None:
    """Their service stands still: a newcomer who started there would be served alone until everybody is as far."""
    await line.place(POOL, [equal(1, user="a"), equal(2, user="b")])
    await line.place(POOL, [request(100 + n, user="busy") for n in range(60)])
    assert (await drain_order(line, 41))[0] == "req_0001"
    await line.place(POOL, [request(200 + n, user="new") for n in range(20)])
    order = await drain_order(line, 20)
    assert 9 <= sum(i >= "req_0200" for i in order) <= 11


async def test_a_parked_request_that_ends_holds_nothing(line: ValkeyLine, valkey: ValkeyServer) -> None:
    rows = [equal(n) for n in range(4)]
    await line.place(POOL, rows)
    await drain_order(line, 9)
    for row in rows[:0:-1]:
        await line.finish(row)
    assert valkey.client().zcard(BEHIND) == 0
    await line.finish(replace(rows[0], attempt=1))
    names = [key.removeprefix(base_key(POOL)).split(":")[0] for key in valkey.client().keys("*")]
    assert not {"behind", "flights", "leases", "line", "own"} & set(names)
