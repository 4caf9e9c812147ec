"""Whatever happens in whatever order, what Valkey counts is what is there, and nothing stays behind."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from services.scheduler.equals import Equals
from services.scheduler.life import End, Request, State, TierTerms
from services.scheduler.line import ValkeyLine, base_key
from tests.integration.test_scheduler_line import POOL, SHARES, limited, line, request
from tests.servers.quota import VirtualClock
from tests.servers.valkey import ValkeyServer

__all__ = ["line"]
BASE = base_key(POOL)
DIMENSIONS = ("requests", "tokens", "input_tokens", "output_tokens")
TIERS = ("free", "pro")


@dataclass
class Story:
    """Requests in all states and the moves that a scheduler, or what is left of one, may make."""

    line: ValkeyLine
    dice: random.Random
    rows: dict[str, Request] = field(default_factory=dict)
    running: dict[str, int] = field(default_factory=dict)
    """Dispatched, by the attempt that began (0: none has)."""
    tiers: dict[str, str] = field(default_factory=dict)
    ended: list[str] = field(default_factory=list)

    async def come(self) -> None:
        number, user = len(self.rows) + len(self.ended), f"u{self.dice.randrange(5)}"
        row = request(number, self.tiers.setdefault(user, "free"), user)
        work = self.dice.choice(("", "", "v", "w"))
        output = self.dice.choice((0, 100, 5_000))
        row = replace(row, cache_key=work or None, priority=self.dice.choice((0, 0, 5)), estimated_output_tokens=output)
        self.rows[row.request_id] = row
        await self.line.place(POOL, [row])

    async def go(self) -> None:
        for request_id, attempts in (await self.line.dispatch(POOL, self.dice.randint(1, 6), 20)).request_ids:
            self.rows[request_id] = replace(self.rows[request_id], attempt=attempts)
            self.running[request_id] = 0

    async def begin(self) -> None:
        """Also what still waits in line: a rebuild put it there while it began."""
        if request_id := self._any(self.rows if self.dice.random() < 0.1 else self.running):
            attempt = self.rows[request_id].attempt + 1
            if await self.line.start(POOL, request_id, attempt, {"type": "processing"}):
                self.rows[request_id] = replace(self.rows[request_id], attempt=attempt)
                self.running[request_id] = attempt

    async def answer(self) -> None:
        if request_id := self._any(self.running):
            kind = self.dice.choice(("begun", "begun", "begun", "refused", "failed", "other", "ramp"))
            headers = {d: (60_000, self.dice.randint(0, 60_000)) for d in DIMENSIONS if self.dice.random() < 0.3}
            await self.line.answer(POOL, request_id, self.running[request_id], kind, headers, 100)

    async def go_on(self) -> None:
        if request_id := self._any(self.running):
            if self.dice.random() < 0.5:
                await self.line.take_turn(POOL, request_id)
            else:
                await self.line.grow(POOL, request_id, self.dice.randint(100, 20_000))

    async def return_(self) -> None:
        if request_id := self._any(self.running):
            used = self.dice.choice(((None, None), (0, 0), (90, 400)))
            later = int(self.line.virtual_now_ms or 0) + self.dice.choice((0, 0, 300))
            row = replace(self.rows[request_id], not_before_ms=later)
            if await self.line.requeue(row, *used, None, budgeted=self.dice.random() < 0.3):
                del self.running[request_id]

    async def end(self) -> None:
        if request_id := self._any(self.rows if self.dice.random() < 0.5 else self.running):
            await self.finish(request_id)

    async def finish(self, request_id: str) -> None:
        row = replace(self.rows.pop(request_id), state=self.dice.choice((State.COMPLETED, State.CANCELLED)))
        began, used = self.running.pop(request_id, 0), ((90, 400), (None, None))
        await self.line.finish(row, *(self.dice.choice(used) if began else (None, None)))
        self.ended.append(request_id)

    async def move(self) -> None:
        user = f"u{self.dice.randrange(5)}"
        tier = self.tiers[user] = self.dice.choice(TIERS)
        mine = [row.request_id for row in self.rows.values() if row.user_id == user]
        for request_id in mine:
            self.rows[request_id] = replace(self.rows[request_id], tier=tier, share=SHARES[tier])
        await self.line.retier(POOL, TierTerms(tier, 1, SHARES[tier], 1_000), mine)

    async def repeat(self) -> None:
        """What sweeps and late workers do again."""
        await self.line.unpark(POOL)
        if request_id := self._any(self.rows):
            await self.line.place(POOL, [self.rows[request_id]])
        if self.ended:
            await self.line.place(POOL, [request(int(self.dice.choice(self.ended)[4:]))])

    async def wait(self) -> None:
        self.line.virtual_now_ms = int(self.line.virtual_now_ms or 0) + self.dice.randint(0, 500)

    def _any(self, ids: Any) -> str | None:
        return self.dice.choice(sorted(ids)) if ids else None


def true_counts(client: Any) -> dict[str, float]:
    """What is there, counted one by one."""
    counts: dict[str, float] = defaultdict(float)
    for tier in TIERS:
        for member in client.zrange(f"{BASE}line:{tier}", 0, -1):
            row = client.hgetall(f"{BASE}req:{member[12:]}")
            assert row["tier"] == tier, "nobody stands in two lines"
            counts[f"ready:{tier}:{row['user']}"] += 1
            counts[f"sum:{tier}"] += float(row["cost"])
    for key in client.keys(f"{BASE}own:*"):
        for request_id in client.zrange(key, 0, -1):
            counts["waiting:" + key.split("own:")[1]] += float(client.hget(f"{BASE}req:{request_id}", "cost"))
    for request_id in client.zrange(f"{BASE}leases", 0, -1):
        if asked := client.hget(f"{BASE}req:{request_id}", "asked"):
            used = json.loads(asked)
            for dimension, need in zip(DIMENSIONS, (1, sum(used), *used), strict=True):
                counts[f"unanswered:{dimension}"] += need
    return counts


def kept_counts(client: Any) -> dict[str, float]:
    """What the scripts keep."""
    counts = {f"sum:{tier}": float(client.hget(f"{BASE}meta", f"sum:{tier}") or 0) for tier in TIERS}
    for key in client.keys(f"{BASE}user:*"):
        who = key.split("user:")[1]
        kept = client.hgetall(key)
        counts |= {f"ready:{who}": float(kept.get("ready", 0)), f"waiting:{who}": float(kept.get("waiting", 0))}
    bucket = client.hgetall(f"{BASE}bucket")
    return counts | {f"unanswered:{d}": float(bucket.get(f"unanswered:{d}", 0)) for d in DIMENSIONS}


def differences(client: Any) -> dict[str, tuple[float, float]]:
    kept, true = kept_counts(client), true_counts(client)
    both = {name: (kept.get(name, 0.0), true.get(name, 0.0)) for name in kept.keys() | true.keys()}
    return {name: pair for name, pair in both.items() if abs(pair[0] - pair[1]) > 1e-6 * max(1, abs(pair[1]))}


@pytest.mark.parametrize("seed", range(3))
async def test_what_is_counted_is_what_is_there(line: ValkeyLine, valkey: ValkeyServer, seed: int) -> None:
    client = valkey.client()
    await limited(line, valkey, requests=6_000, input_tokens=6_000_000, output_tokens=6_000_000)
    story = Story(line, random.Random(seed))
    moves = [story.come, story.come, story.go, story.begin, story.begin, story.answer, story.go_on, story.return_]
    moves += [story.end, story.move, story.repeat, story.wait]
    for step in range(300):
        move = story.dice.choice(moves)
        await move()
        assert not differences(client), f"step {step}: {move.__name__}"
    for request_id in sorted(story.rows):
        await story.finish(request_id)
    assert not differences(client)
    kept = {key.removeprefix(BASE) for key in client.keys(f"{BASE}*") if client.ttl(key) < 0}
    assert kept <= {"meta", "bucket", "tiers"}, "what does not go away by itself"


async def serve(line: ValkeyLine, many: int) -> list[str]:
    """Takes one after the other and serves it at once; their users."""
    users = []
    for _ in range(many):
        line.virtual_now_ms = int(line.virtual_now_ms or 0) + 1_000
        ((request_id, _),) = (await line.dispatch(POOL, 1, None)).request_ids
        users.append("b" if request_id >= "req_5000" else "a")
        await line.finish(request(int(request_id[4:]), state=State.COMPLETED), 100, 100)
    return users


@pytest.mark.parametrize("why", ["parked", "backing off"])
async def test_what_cannot_go_keeps_no_credit_for_its_user(line: ValkeyLine, why: str) -> None:
    """Else a copy of a long stream, parked behind it, would be worth all that others are served meanwhile."""
    later = line.virtual_now_ms + 3_600_000 if line.virtual_now_ms and why == "backing off" else 0
    await line.place(POOL, [request(n, user="a", cache_key="w", not_before_ms=later * n) for n in range(2)])
    await line.dispatch(POOL, 2, None)
    await line.start(POOL, "req_0000", 1, {"type": "processing"})
    assert (await line.parked(POOL, "req_0000") != []) == (why == "parked")
    await line.place(POOL, [request(n, user="b") for n in range(5_000, 5_100)])
    assert set(await serve(line, 50)) == {"b"}
    await line.renew(POOL, [("req_0000", 1)])
    await line.place(POOL, [request(n, user="a") for n in range(2, 40)])
    assert 4 <= (await serve(line, 10)).count("a") <= 6


async def test_what_runs_while_its_user_changes_tier_is_paid_there(line: ValkeyLine, valkey: ValkeyServer) -> None:
    await line.place(POOL, [request(n, "pro", "b") for n in range(5_000, 5_100)])
    await serve(line, 50)
    await line.place(POOL, [request(0, "free", "a"), request(9_000, "free", "c")])
    await line.dispatch(POOL, 8, None)
    before = {t: float(valkey.client().hget(f"{BASE}meta", f"T:{t}")) for t in TIERS}
    await line.retier(POOL, TierTerms("pro", 2, 4, 1_000), ["req_0000"])
    assert await line.requeue(request(0, "pro", "a"), None, None, None)
    after = {t: float(valkey.client().hget(f"{BASE}meta", f"T:{t}")) for t in TIERS}
    assert after["free"] < before["free"], "it is not served here"
    assert after["pro"] == pytest.approx(before["pro"]), "nor has it been served there"
    # Its user has just come there, and owes and is owed nothing.
    await line.place(POOL, [request(n, "pro", "a") for n in range(2, 40)])
    line.virtual_now_ms = int(line.virtual_now_ms or 0) + 1_000
    assert 4 <= (await serve(line, 10)).count("a") <= 6


async def test_one_that_was_taken_and_ends_before_it_is_sent_costs_nothing(
    line: ValkeyLine, valkey: ValkeyServer
) -> None:
    """An equal one completed just then, or its user cancelled it."""
    await line.place(POOL, [request(1, user="a"), request(2, "pro", "a"), request(3, user="b")])
    await line.dispatch(POOL, 1, None)
    await line.finish(request(3))
    client = valkey.client()
    first = "req_0001" if client.zscore(f"{BASE}leases", "req_0001") else "req_0002"
    tier = "free" if first == "req_0001" else "pro"
    await line.finish(request(int(first[4:]), tier))
    assert float(client.hget(f"{BASE}user:{tier}:a", "F")) == pytest.approx(0)
    assert float(client.hget(f"{BASE}meta", f"T:{tier}")) == pytest.approx(0)


class Told:
    async def tell(self, seqs: Any) -> None: ...


async def test_a_users_many_equals_end_without_holding_everybody_up(line: ValkeyLine, valkey: ValkeyServer) -> None:
    """Each gave all that stood behind it a new tag: 500 of a thousand took Valkey seconds."""
    rows = [request(n, user="a", cache_key="w", acceptance=n, state=State.COMPLETED, cached=True) for n in range(200)]
    await line.place(POOL, rows)
    await line.dispatch(POOL, 1, None)
    valkey.client().config_resetstat()
    equals = Equals(Told(), line, VirtualClock())  # type: ignore[arg-type]
    await equals.tell(rows, End(State.COMPLETED), (100, 100))
    calls = valkey.client().info("commandstats").get("cmdstat_zadd", {"calls": 0})["calls"]
    assert calls < 200 * 3
    assert not differences(valkey.client())


async def test_a_clock_that_was_set_back_stops_nothing(line: ValkeyLine, valkey: ValkeyServer) -> None:
    """A replica of Valkey whose clock is behind took over."""
    await limited(line, valkey, requests=60)
    await line.place(POOL, [request(n) for n in range(3)])
    line.virtual_now_ms = int(line.virtual_now_ms or 0) + 1_100
    assert len((await line.dispatch(POOL, 1, None)).request_ids) == 1
    line.virtual_now_ms -= 600_000
    await line.dispatch(POOL, 1, None)
    line.virtual_now_ms += 1_100
    assert len((await line.dispatch(POOL, 1, None)).request_ids) == 1


async def test_a_pause_that_outlasts_the_day_is_kept(line: ValkeyLine, valkey: ValkeyServer) -> None:
    await limited(line, valkey, requests=6_000, requests_day=1)
    line.virtual_now_ms = 86_400_000 - 10_000
    await line.place(POOL, [request(n) for n in range(3)])
    assert len((await line.dispatch(POOL, 9, None)).request_ids) == 1
    await line.pause(POOL, 60_000, "provider_account")
    line.virtual_now_ms = 86_400_000 + 1_000
    assert (await line.dispatch(POOL, 9, None)).request_ids == ()
    line.virtual_now_ms = 86_400_000 + 50_000
    assert len((await line.dispatch(POOL, 9, None)).request_ids) == 1


async def test_what_the_operator_changes_is_in_force_until_the_provider_says_otherwise(
    line: ValkeyLine, valkey: ValkeyServer
) -> None:
    await limited(line, valkey, requests=600, tokens=90_000)
    line.virtual_now_ms = int(line.virtual_now_ms or 0) + 60_000
    await line.place(POOL, [request(1)])
    await line.dispatch(POOL, 1, None)
    await line.start(POOL, "req_0001", 1, {"type": "processing"})
    await line.answer(POOL, "req_0001", 1, "begun", {"requests": (50, 40), "tokens": (9_000, 8_000)})
    await line.set_limits(POOL, "plan", {"requests": 600, "tokens": 90_000})
    assert (await line.view(POOL))["limits"] == {"requests": 50, "tokens": 9_000}, "a restart changes nothing"
    await line.set_limits(POOL, "plan", {"requests": 4_000, "tokens": None})
    assert (await line.view(POOL))["limits"] == {"requests": 4_000}
