"""The scripts on a real Valkey, in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from services.scheduler import line as line_module
from services.scheduler.life import LineUnavailable, Request, TierTerms
from services.scheduler.line import LEASE_MS, Identity, ValkeyLine
from services.scheduler.waits import read_view
from tests.servers.valkey import ValkeyServer
from tests.unit.test_scheduler_outcomes import a_request

POOL = "sonnet"
START_MS = 1_000_000
SHARES = {"free": 1, "basic": 2, "pro": 4, "enterprise": 8}


@pytest.fixture
async def line(valkey: ValkeyServer) -> AsyncIterator[ValkeyLine]:
    info = valkey.client().info("server")
    identity = Identity(1, info["run_id"])
    client = line_module.connect(valkey.url, identity)
    line = ValkeyLine(client, identity, virtual_now_ms=START_MS)
    valkey.client().hset(f"{line_module.base_key(POOL)}meta", "epoch", "1")
    await open_wide(line)
    yield line
    await client.aclose()


async def open_wide(line: ValkeyLine) -> None:
    """Limits that are not in the way of a test about something else."""
    await line.set_limits(POOL, "plan", {"requests": 6_000_000})
    line.virtual_now_ms = START_MS - 60_000
    await line.dispatch(POOL, 0, None)
    line.virtual_now_ms = START_MS


async def limited(line: ValkeyLine, valkey: ValkeyServer, **limits: int) -> None:
    """A new, empty bucket with these limits."""
    valkey.client().delete(f"{line_module.base_key(POOL)}bucket")
    await line.set_limits(POOL, "plan", limits)
    await line.dispatch(POOL, 0, None)


def request(number: int, tier: str = "free", user: str = "u", **changes: object) -> Request:
    row = a_request(request_id=f"req_{number:04d}", tier=tier, user_id=user, share=SHARES[tier])
    return replace(row, pool=POOL, **changes)  # type: ignore[arg-type]


async def drain_order(line: ValkeyLine, many: int) -> list[str]:
    taken = await line.dispatch(POOL, many, None)
    return [request_id for request_id, _ in taken.request_ids]


async def test_first_in_first_out_within_a_user(line: ValkeyLine) -> None:
    await line.place(POOL, [request(n) for n in range(20)])
    assert await drain_order(line, 100) == [f"req_{n:04d}" for n in range(20)]


async def test_what_was_accepted_first_goes_first_though_it_came_into_line_second(line: ValkeyLine) -> None:
    first, second = replace(request(2), acceptance=1), replace(request(1), acceptance=2)
    await line.place(POOL, [second])
    await line.place(POOL, [first])
    assert await drain_order(line, 9) == [first.request_id, second.request_id]


async def test_placing_twice_changes_nothing(line: ValkeyLine) -> None:
    assert await line.place(POOL, [request(1), request(2)]) == 2
    assert await line.place(POOL, [request(2), request(1)]) == 0
    assert await drain_order(line, 100) == ["req_0001", "req_0002"]
    assert await line.place(POOL, [request(1)]) == 0, "leased"


async def test_a_crowd_does_not_delay_another_user_of_its_tier(line: ValkeyLine) -> None:
    await line.place(POOL, [request(n, user="flood") for n in range(50)])
    await line.place(POOL, [request(100, user="one")])
    assert (await drain_order(line, 100)).index("req_0100") <= 1


async def test_tiers_are_served_by_share(line: ValkeyLine) -> None:
    rows = [request(n * 10 + t, tier, f"{tier}{n % 7}") for n in range(400) for t, tier in enumerate(SHARES)]
    await line.place(POOL, rows)
    tier_of = {r.request_id: r.tier for r in rows}
    first = [tier_of[i] for i in await drain_order(line, 300)]
    for tier, share in SHARES.items():
        assert first.count(tier) == pytest.approx(300 * share / 15, abs=2)


async def test_an_idle_tier_gains_no_credit(line: ValkeyLine) -> None:
    await line.place(POOL, [request(n, "pro") for n in range(200)])
    await drain_order(line, 100)
    await line.place(POOL, [request(1000 + n, "free", "late") for n in range(50)])
    order = await drain_order(line, 50)
    assert sum(i >= "req_1000" for i in order) == pytest.approx(10, abs=2)


async def test_the_bucket_lets_through_what_the_limit_allows(line: ValkeyLine, valkey: ValkeyServer) -> None:
    await limited(line, valkey, requests=60)
    await line.place(POOL, [request(n) for n in range(100)])
    assert await drain_order(line, 9) == [], "a new bucket is empty"
    sent: list[int] = []
    while line.virtual_now_ms < START_MS + 60_000:
        taken = await line.dispatch(POOL, 100, None)
        sent += [line.virtual_now_ms] * len(taken.request_ids)
        line.virtual_now_ms += taken.wait_ms
    assert 58 <= len(sent) <= 60
    assert min(b - a for a, b in zip(sent, sent[1:], strict=False)) >= 1000


async def test_a_request_larger_than_the_bucket_goes_into_debt_and_does_not_block(
    line: ValkeyLine, valkey: ValkeyServer
) -> None:
    await limited(line, valkey, tokens=6000)
    await line.place(POOL, [request(n, estimated_input_tokens=3000, estimated_output_tokens=0) for n in range(3)])
    assert await drain_order(line, 9) == []
    line.virtual_now_ms = START_MS + 1010
    assert len(await drain_order(line, 9)) == 1
    for wait_ms in (59_000, 27_000):
        # The debt of 2,900, and, now that so large a one was seen, enough for another.
        line.virtual_now_ms += wait_ms
        assert await drain_order(line, 9) == []
        line.virtual_now_ms += 2_000
        assert len(await drain_order(line, 9)) == 1


async def test_nothing_goes_while_a_pause_is_in_force(line: ValkeyLine) -> None:
    await line.place(POOL, [request(n) for n in range(3)])
    await line.pause(POOL, 5000, "provider_limit")
    await line.pause(POOL, 1000, "provider_limit")
    line.virtual_now_ms = START_MS + 4999
    assert await drain_order(line, 9) == []
    line.virtual_now_ms = START_MS + 5000
    assert len(await drain_order(line, 9)) == 3


async def test_concurrency_is_the_number_of_live_leases(line: ValkeyLine) -> None:
    await line.place(POOL, [request(n) for n in range(5)])
    assert len((await line.dispatch(POOL, 9, 2)).request_ids) == 2
    assert (await line.dispatch(POOL, 9, 2)).request_ids == ()
    await line.finish(request(0, attempt=1))
    assert len((await line.dispatch(POOL, 9, 2)).request_ids) == 1


async def test_a_change_of_tier_moves_what_waits_and_keeps_its_order(line: ValkeyLine) -> None:
    await line.place(POOL, [request(n, user="climber") for n in range(4)])
    assert await drain_order(line, 1) == ["req_0000"], "one runs"
    await line.place(POOL, [request(100 + n, user=f"other{n}") for n in range(20)])
    ids = [f"req_{n:04d}" for n in range(4)]
    assert await line.retier(POOL, TierTerms("enterprise", 2, 8, 100), ids) == 4
    assert await line.retier(POOL, TierTerms("enterprise", 2, 8, 100), ids) == 0
    assert await line.requeue(request(0, attempt=0), None, None, None), "and comes back to the new tier"
    view = read_view(await line.view(POOL))
    assert {tier: view.tiers[tier].queued for tier in ("free", "enterprise")} == {"free": 20, "enterprise": 4}
    order = await drain_order(line, 30)
    assert [i for i in order if i in ids] == ids
    assert max(order.index(i) for i in ids) <= 5, "eight shares against one"


async def test_an_entry_whose_request_is_gone_stops_nobody(line: ValkeyLine, valkey: ValkeyServer) -> None:
    await line.place(POOL, [request(1), request(2)])
    valkey.client().delete(f"{line_module.base_key(POOL)}req:req_0001")
    assert await drain_order(line, 9) == ["req_0002"]


async def test_without_a_known_limit_nothing_goes(line: ValkeyLine) -> None:
    await line.place(POOL, [request(1)])
    await line.set_limits(POOL, "plan", {"requests": None})
    assert await drain_order(line, 9) == []


async def test_a_late_worker_shows_nothing(line: ValkeyLine) -> None:
    row = request(1)
    await line.place(POOL, [row])
    await drain_order(line, 1)
    assert await line.start(POOL, row.request_id, 1, {"type": "processing", "attempt": 1}) == 1
    assert await line.append(POOL, row.request_id, 1, [{"type": "delta", "text": "a"}]) == 2
    assert await line.requeue(replace(row, attempt=1), 0, 0, {"type": "retrying"})
    assert await line.append(POOL, row.request_id, 1, [{"type": "delta", "text": "late"}]) == 0
    await drain_order(line, 1)
    assert await line.start(POOL, row.request_id, 2, {"type": "processing", "attempt": 2}) == 4
    assert await line.append(POOL, row.request_id, 1, [{"type": "delta", "text": "late"}]) == 0
    assert await line.start(POOL, row.request_id, 1, {"type": "processing", "attempt": 1}) == 0
    assert await line.renew(POOL, [(row.request_id, 1)]) == [row.request_id]
    assert await line.renew(POOL, [(row.request_id, 2)]) == []
    assert await line.finish(replace(row, attempt=2)) == 5
    assert await line.finish(replace(row, attempt=2)) == 5, "repeatable"
    assert await line.append(POOL, row.request_id, 2, [{"type": "delta", "text": "late"}]) == 0
    assert [seq for seq, _ in await line.events(POOL, row.request_id, 1)] == [2, 3, 4, 5]


async def test_a_retry_goes_back_to_its_old_place(line: ValkeyLine) -> None:
    rows = [request(n) for n in range(10)]
    await line.place(POOL, rows)
    assert await drain_order(line, 1) == ["req_0000"]
    assert await line.requeue(replace(rows[0], attempt=0, not_before_ms=START_MS + 500), None, None, None)
    assert await drain_order(line, 1) == ["req_0001"], "not before its time"
    line.virtual_now_ms = START_MS + 500
    assert await drain_order(line, 2) == ["req_0000", "req_0002"]


async def test_leases_run_out_and_are_renewed(line: ValkeyLine) -> None:
    await line.place(POOL, [request(1), request(2)])
    await drain_order(line, 2)
    await line.start(POOL, "req_0001", 1, {"type": "processing"})
    line.virtual_now_ms = START_MS + LEASE_MS - 1
    assert await line.expired(POOL) == []
    await line.renew(POOL, [("req_0001", 1)])
    line.virtual_now_ms = START_MS + LEASE_MS
    assert await line.expired(POOL) == ["req_0002"]


async def test_what_ends_holds_nothing(line: ValkeyLine, valkey: ValkeyServer) -> None:
    await line.place(POOL, [request(n) for n in range(4)])
    await drain_order(line, 2)
    for n in range(4):
        await line.finish(request(n, attempt=1), 10, 10)
    view = read_view(await line.view(POOL))
    assert view.running == 0
    assert view.tiers["free"].queued == 0
    assert await line.missing(POOL, ["req_0001"]) == ["req_0001"]
    keys = valkey.client().keys("*req:*")
    assert all(0 < valkey.client().pttl(key) <= 60_000 for key in keys)


async def test_scripts_of_an_old_epoch_change_nothing(line: ValkeyLine, valkey: ValkeyServer) -> None:
    await line.place(POOL, [request(1)])
    line.identity.epoch = 2
    with pytest.raises(LineUnavailable):
        await line.dispatch(POOL, 1, None)
    line.identity.epoch = 1
    assert await drain_order(line, 9) == ["req_0001"]


async def test_another_valkey_is_not_written_to(line: ValkeyLine, own_valkey: ValkeyServer) -> None:
    own_valkey.client().hset(f"{line_module.base_key(POOL)}meta", "epoch", "1")
    impostor = ValkeyLine(line_module.connect(own_valkey.url, line.identity), line.identity)
    # Not at the second try either: the connection that was found out is not kept.
    for _ in range(3):
        with pytest.raises(LineUnavailable):
            await impostor.place(POOL, [request(1)])
    assert own_valkey.client().keys("*line*") == []


async def test_at_maxmemory_only_placing_and_deltas_are_refused(own_valkey: ValkeyServer) -> None:
    identity = Identity(1, own_valkey.client().info("server")["run_id"])
    line = ValkeyLine(line_module.connect(own_valkey.url, identity), identity, virtual_now_ms=START_MS)
    own_valkey.client().hset(f"{line_module.base_key(POOL)}meta", "epoch", "1")
    await open_wide(line)
    await line.place(POOL, [request(n) for n in range(6)])
    assert await drain_order(line, 2) == ["req_0000", "req_0001"]
    await line.start(POOL, "req_0000", 1, {"type": "processing"})
    own_valkey.client().config_set("maxmemory", 1)
    with pytest.raises(LineUnavailable):
        await line.place(POOL, [request(9)])
    with pytest.raises(LineUnavailable):
        await line.append(POOL, "req_0000", 1, [{"type": "delta"}])
    assert await line.adopt(POOL, [request(8, attempt=1)]) == 1
    assert await line.renew(POOL, [("req_0000", 1)]) == []
    await line.answer(POOL, "req_0000", 1, "refused", {"requests": (6_000_000, 1_000_000)}, 0)
    await line.answer(POOL, "req_0000", 1, "begun", {})
    await line.take_turn(POOL, "req_0000")
    await line.grow(POOL, "req_0000", 9_000)
    assert await line.retier(POOL, TierTerms("pro", 2, 4, 9), ["req_0005"]) == 1
    assert await line.unpark(POOL) == 0
    assert await line.finish(request(0, attempt=1)) > 0
    assert await line.requeue(request(1), None, None, {"type": "retrying"})
    await line.pause(POOL, 1, "provider_limit")
    line.virtual_now_ms = START_MS + 1
    assert len(await drain_order(line, 9)) == 5
    assert await line.start(POOL, "req_0002", 1, {"type": "processing"}) > 0


@pytest.mark.parametrize("how", ["finish", "requeue"])
async def test_a_further_turn_is_settled_with_the_rest(line: ValkeyLine, valkey: ValkeyServer, how: str) -> None:
    """It took an estimate of its own when it began; what is paid in the end is what was used."""
    row = request(1, estimated_input_tokens=100, estimated_output_tokens=100)
    await limited(line, valkey, tokens=600_000)
    line.virtual_now_ms += 60_000
    full = (await line.view(POOL))["levels"]["tokens"]
    await line.place(POOL, [row])
    await drain_order(line, 1)
    await line.start(POOL, row.request_id, 1, {"type": "processing"})
    await line.take_turn(POOL, row.request_id)
    for_attempt = replace(row, attempt=1, not_before_ms=line.virtual_now_ms + 1)
    if how == "finish":
        await line.finish(for_attempt, 150, 90)
    else:
        assert await line.requeue(for_attempt, 150, 90, None)
    assert full - (await line.view(POOL))["levels"]["tokens"] == pytest.approx(240)


async def test_only_who_can_go_next_wakes_the_dispatchers(line: ValkeyLine, valkey: ValkeyServer) -> None:
    ear = valkey.client().pubsub()
    ear.subscribe(f"{line_module.base_key(POOL)}wake")
    assert ear.get_message(timeout=5)["type"] == "subscribe"

    async def woke(*placed: Request) -> bool:
        await line.place(POOL, placed)
        valkey.client().publish(f"{line_module.base_key(POOL)}wake", "end")
        heard = []
        while (message := ear.get_message(timeout=5)) and message["data"] != "end":
            heard.append(message)
        return bool(heard)

    assert await woke(request(1))
    assert not await woke(request(2))
    assert await woke(request(3), request(4, "pro"))
    # Ahead of what waits, and perhaps smaller: whoever dispatches must look again.
    assert await woke(request(5, priority=5))
    # In backoff: the moment at which to look may be sooner now.
    assert await woke(request(6, not_before_ms=START_MS + 50))
