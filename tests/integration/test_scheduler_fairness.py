"""The order's promises on the scripts themselves, in virtual time: what users get, by what it really cost.

Broken once on purpose: with estimates taken for the truth (no `correct`) the bound of two users fails in every seed;
without the start at V every newcomer gets arrears; without giving F back, what is cancelled costs its user.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from services.scheduler import line as line_module
from services.scheduler.life import Request
from services.scheduler.line import ValkeyLine
from tests.servers.line import POOL, virtual_line
from tests.servers.valkey import ValkeyServer
from tests.unit.test_scheduler_outcomes import a_request

TOKENS_A_MINUTE = 60_000
ESTIMATE = 500


@pytest.fixture
async def line(valkey: ValkeyServer) -> AsyncIterator[ValkeyLine]:
    async with virtual_line(valkey, tokens=TOKENS_A_MINUTE) as line:
        yield line


def cost(tokens: int) -> float:
    """Provider-seconds."""
    return tokens * 60 / TOKENS_A_MINUTE


class World:
    """Users who send, a provider that answers at lengths nobody knew, and what each user was served."""

    def __init__(self, line: ValkeyLine, seed: int, slots: int = 4) -> None:
        self.line, self.random, self.slots = line, random.Random(seed), slots
        self.served: dict[str, float] = defaultdict(float)
        self.queued: dict[str, int] = defaultdict(int)
        self.running: dict[str, tuple[Request, int, int, int]] = {}
        self.order: list[str] = []
        self.largest = cost(ESTIMATE)
        self._requests: dict[str, Request] = {}
        self._assumed: dict[str, float] = {}
        self._count = 0
        self._in_flight: dict[str, float] = defaultdict(float)

    async def send(self, user: str, tier: str = "free", share: int = 1, priority: int = 0) -> str:
        self._count += 1
        request = replace(
            a_request(), request_id=f"req_{self._count}", user_id=user, tier=tier, share=share, priority=priority,
            pool=POOL, estimated_input_tokens=0, estimated_output_tokens=ESTIMATE,
        )  # fmt: skip
        self._requests[request.request_id] = request
        await self.line.place(POOL, [request])
        self.queued[user] += 1
        # What is learned from the answers so far is assumed of it.
        (placed,) = (await self.line.view(POOL, [request.request_id]))["places"]
        self._assumed[request.request_id] = placed["cost"]
        self.largest = max(self.largest, placed["cost"])
        return request.request_id

    async def step(self, length: dict[str, tuple[int, int]]) -> None:
        """Dispatches what may go and ends the attempt that ends next. `length` is each user's range of tokens."""
        taken = await self.line.dispatch(POOL, self.slots - len(self.running), None)
        now_ms = int(self.line.virtual_now_ms or 0)
        for request_id, _ in taken.request_ids:
            request = self._requests[request_id]
            tokens = self.random.randint(*length[request.user_id])
            self.largest = max(self.largest, cost(tokens))
            # At most a minute of output, whatever its length: heavy answers stay longer.
            ends_ms = now_ms + self.random.randint(1, 20 * tokens)
            self.running[request_id] = (request, tokens, now_ms, ends_ms)
            self.queued[request.user_id] -= 1
            self.order.append(request.user_id)
            await self.line.start(POOL, request_id, 1, {"type": "processing", "attempt": 1})
        running = self.running.values()
        in_flight = sum(max(cost(tokens), self._assumed[r.request_id]) for r, tokens, *_ in running)
        self._in_flight |= {self._requests[i].user_id: in_flight for i, _ in taken.request_ids}
        if not self.running:
            self.line.virtual_now_ms = now_ms + max(1, taken.wait_ms)
            return
        first = min(self.running, key=lambda i: self.running[i][3])
        request, tokens, _, ends_ms = self.running.pop(first)
        self.line.virtual_now_ms = max(now_ms, ends_ms)
        await self._grow()
        self.served[request.user_id] += cost(tokens)
        await self.line.finish(replace(request, attempt=1), 0, tokens)

    async def _grow(self) -> None:
        """Answers that are longer than assumed say so while they are written."""
        for request_id, (_, tokens, begun_ms, ends_ms) in self.running.items():
            written = int(tokens * ((self.line.virtual_now_ms or 0) - begun_ms) / max(1, ends_ms - begun_ms))
            if cost(written) > self._assumed[request_id]:
                await self.line.grow(POOL, request_id, written)

    def in_flight(self, user: str) -> float:
        """What was in flight when a user's last answer was begun: their lengths were not known then."""
        return self._in_flight[user]


SHORT, LONG = (20, 400), (300, 4_000)


@pytest.mark.parametrize("seed", range(12))
async def test_two_backlogged_users_never_differ_by_more_than_the_bound(line: ValkeyLine, seed: int) -> None:
    """Twice the largest request's cost, plus what is in flight, on actual cost; one asks for ten times the length."""
    world, length = World(line, seed), {"brief": SHORT, "wordy": LONG}
    for _ in range(250):
        for user in length:
            while world.queued[user] < 3:
                await world.send(user)
        await world.step(length)
        ahead = max(length, key=lambda user: world.served[user])
        difference = abs(world.served["brief"] - world.served["wordy"])
        assert difference <= 2 * world.largest + world.in_flight(ahead)
    assert min(world.served.values()) > 10 * world.largest, "long enough to mean something"


@pytest.mark.parametrize("seed", range(6))
async def test_a_newcomer_gets_neither_arrears_nor_credit(line: ValkeyLine, seed: int) -> None:
    world, length = World(line, seed), {"old": LONG, "new": LONG}
    for _ in range(120):
        while world.queued["old"] < 3:
            await world.send("old")
        await world.step(length)
    before = world.served["old"]
    for _ in range(150):
        for user in length:
            while world.queued[user] < 3:
                await world.send(user)
        await world.step(length)
        difference = world.served["new"] - (world.served["old"] - before)
        # What ran when the newcomer came was the old one's and ends in their favour.
        assert abs(difference) <= 3 * world.largest + world.in_flight("new" if difference > 0 else "old")


async def test_a_crowd_gets_no_more_than_its_tiers_share(line: ValkeyLine) -> None:
    world = World(line, 1)
    length = {"lone": LONG, **{f"crowd{n}": LONG for n in range(20)}}
    for _ in range(400):
        while world.queued["lone"] < 3:
            await world.send("lone", "basic", 2)
        for n in range(20):
            while world.queued[f"crowd{n}"] < 2:
                await world.send(f"crowd{n}", "pro", 4)
        await world.step(length)
    crowd = sum(served for user, served in world.served.items() if user != "lone")
    assert crowd / world.served["lone"] == pytest.approx(2.0, rel=0.15)


async def test_priority_reorders_only_ones_own(line: ValkeyLine) -> None:
    world, sent = World(line, 1, slots=1), {}
    for number in range(4):
        sent[await world.send("ada")] = f"ada {number}"
        sent[await world.send("bob")] = f"bob {number}"
    sent[await world.send("ada", priority=5)] = "ada urgent"
    sent[await world.send("ada", priority=-5)] = "ada last"
    order = []
    while taken := (await line.dispatch(POOL, 1, None)).request_ids or world.queued["ada"]:
        if isinstance(taken, int):
            assert line.virtual_now_ms is not None
            line.virtual_now_ms += 10_000
            world.queued["ada"] -= 1
            continue
        order += [sent[request_id] for request_id, _ in taken]
    assert [o for o in order if o.startswith("ada")] == ["ada urgent", "ada 0", "ada 1", "ada 2", "ada 3", "ada last"]
    assert [o for o in order if o.startswith("bob")] == ["bob 0", "bob 1", "bob 2", "bob 3"]
    assert all(o.startswith(("ada", "bob")) for o in order)
    for early in range(0, 8, 2):
        assert {o[:3] for o in order[early : early + 2]} == {"ada", "bob"}, "both are served in turn"


async def test_what_is_cancelled_in_the_queue_costs_its_user_nothing(line: ValkeyLine) -> None:
    world, length = World(line, 3), {"fickle": SHORT, "steady": SHORT}
    for _ in range(150):
        for user in length:
            while world.queued[user] < 3:
                request_id = await world.send(user)
                if user == "fickle":
                    gone = await world.send(user)
                    await line.finish(world._requests[gone])
                    world.queued[user] -= 1
                    assert request_id != gone
        await world.step(length)
        ahead = max(length, key=lambda user: world.served[user])
        difference = abs(world.served["fickle"] - world.served["steady"])
        assert difference <= 2 * world.largest + world.in_flight(ahead)


async def test_newcomers_with_cheaper_requests_do_not_keep_a_dear_one_waiting(line: ValkeyLine) -> None:
    """Each user's first goes in the order of arrival; broken once: with tags that include a request's own cost."""
    rows = [
        replace(
            a_request(), request_id=f"req_{n:03d}", user_id=f"user{n}", pool=POOL, estimated_input_tokens=0,
            estimated_output_tokens=ESTIMATE * (20 if n == 5 else 1), max_tokens=100_000,
        )
        for n in range(60)
    ]  # fmt: skip
    order: list[str] = []
    for row in rows:
        await line.place(POOL, [row])
        # Slower than they come.
        assert line.virtual_now_ms is not None
        line.virtual_now_ms += 300
        order += [request_id for request_id, _ in (await line.dispatch(POOL, 1, None)).request_ids]
    assert len(order) > 10
    assert order == [row.request_id for row in rows][: len(order)]


async def test_newcomers_without_end_do_not_keep_one_waiting_who_was_served_before(line: ValkeyLine) -> None:
    """Each second two new users come and one is served; broken once: with V as the smallest service it never went."""
    world, count = World(line, 2, slots=1), 0
    length: dict[str, tuple[int, int]] = defaultdict(lambda: (ESTIMATE, ESTIMATE))
    for _ in range(30):
        await world.send("regular")
        await world.step(length)
    await world.send("regular")
    before = len(world.order)
    while "regular" not in world.order[before:] and count < 600:
        for _ in range(2):
            count += 1
            await world.send(f"new{count}")
        await world.step(length)
    assert count < 600, "nobody starves"


async def test_counters_come_back_to_nothing(line: ValkeyLine, valkey: ValkeyServer) -> None:
    world, length = World(line, 5), {"a": LONG, "b": SHORT}
    for _ in range(20):
        await world.send("a")
        await world.send("b")
    while world.queued["a"] + world.queued["b"] + len(world.running):
        await world.step(length)
    client = valkey.client()
    for user in length:
        account = client.hgetall(f"{line_module.base_key(POOL)}user:free:{user}")
        assert float(account["waiting"]) == pytest.approx(0, abs=1e-6)
        assert int(account["ready"]) == 0
    assert client.keys("*own:*") == []
    assert client.zcard(f"{line_module.base_key(POOL)}users:free") == 0
