"""Holds runs without faults against the bold sentences of order (§5) and limiter (§6), by what really happened:
rows of SQL say when a request was accepted and began, the provider's book says what it cost."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tests.simulation.loop import START_MS
from tests.simulation.provider import Call
from tests.simulation.scenario import TIERS
from tests.simulation.world import World

WAITING_S = 20.0
"""The shortest time of waiting that says anything about the use of a limit."""
USED = {"requests": 0.97, "input_tokens": 0.9, "output_tokens": 0.9}
"""Least use of the scarcest limit while work waits. Runs are a minute or two: what a run begins and ends with is a
larger part of it than of a day, so these are below the 98% that the benchmarks of a steady flow show."""
REFUSED = 0.02
"""Part of calls that the provider may refuse; at least one is let pass."""
SLACK_S = 1.0
"""Between a row's commit and its place in line, and back."""


@dataclass(frozen=True)
class Served:
    """One request that was served, as it really was."""

    request_id: str
    user: str
    tier: str
    priority: int
    acceptance: int
    accepted_s: float
    begun_s: float
    ended_s: float
    cost_s: float
    """Provider-seconds of what it really used."""


def served(world: World) -> list[Served]:
    """All that was served, in the order in which it began."""
    calls = {call.request_id: call for call in world.api.calls if call.status == 200}
    found = []
    # What was tried again began when it was first tried, which its row no longer says.
    for row in world.rows("scheduler", "SELECT * FROM scheduler_requests WHERE attempt = 1 AND ended_ms > 0"):
        if (call := calls.get(row["request_id"])) is not None:
            found.append(
                Served(
                    row["request_id"], row["user_id"], row["tier"], row["priority"], row["acceptance"],
                    (row["accepted_ms"] - START_MS) / 1000, (row["started_ms"] - START_MS) / 1000,
                    (row["ended_ms"] - START_MS) / 1000, cost_s(call, world.api.limits),
                )
            )  # fmt: skip
    return sorted(found, key=lambda one: one.begun_s)


def cost_s(call: Call, limits: dict[str, float]) -> float:
    """Its share of the provider in seconds: its need of the limit it strains most."""
    need = {
        "requests": 1, "tokens": call.input_tokens + call.output_tokens,
        "input_tokens": call.input_tokens, "output_tokens": call.output_tokens,
    }  # fmt: skip
    return max(need[name] * 60 / limit for name, limit in limits.items())


def ones_own_keep_their_order(world: World) -> Iterator[str]:
    """§5: one user's requests keep their order, by priority, then acceptance."""
    by_user = defaultdict(list)
    for one in served(world):
        by_user[one.user].append(one)
    sent_s = {sent.request_id: sent.begun_s for sent in world.gateway.sent}
    told_s = {sent.request_id: sent.accepted_s for sent in world.gateway.sent if sent.accepted_s is not None}
    sent_prompt = {sent.request_id: sent.arrival.prompt for sent in world.gateway.sent}
    prompts = Counter(arrival.prompt for arrival in world.scenario.arrivals)
    for own in by_user.values():
        for begun_first, other in itertools.combinations(own, 2):
            first = (-other.priority, other.acceptance) < (-begun_first.priority, begun_first.acceptance)
            # Of two sent at once nobody can say which came first; who waited for an answer knows.
            waited = told_s.get(other.request_id, math.inf) < sent_s[begun_first.request_id]
            # What is parked behind an equal one is not in line.
            parked = prompts[sent_prompt[other.request_id]] > 1
            in_line = not parked and told_s.get(other.request_id, math.inf) + SLACK_S < begun_first.begun_s
            if first and in_line and (waited or other.priority > begun_first.priority):
                yield f"{begun_first.request_id} of {other.user} overtook {other.request_id}"


def neighbours_are_served_alike(world: World) -> Iterator[str]:
    """§5: two users of one tier who both always have work queued never differ in service received by more than twice
    the largest request's cost, plus what is in flight."""
    all_ = served(world)
    waiting = {user: _always_waiting([one for one in all_ if one.user == user]) for user in world.scenario.users}
    for one, other in itertools.combinations(world.scenario.users, 2):
        if world.scenario.users[one] != world.scenario.users[other]:
            continue
        for begin_s, end_s in _both(waiting[one], waiting[other]):
            gap, bound = _gap(all_, begin_s, end_s, lambda s: s.user, (one, other), (1, 1))
            if gap > bound:
                yield f"{one} and {other} differ by {gap:.1f} s of service, {bound:.1f} s are allowed"


def tiers_get_their_shares(world: World) -> Iterator[str]:
    """§5: tiers get shares; no crowd in one tier slows another below its share."""
    all_ = served(world)
    tiers = sorted(set(world.scenario.users.values()))
    waiting = {tier: _always_waiting([one for one in all_ if one.tier == tier]) for tier in tiers}
    for one, other in itertools.combinations(tiers, 2):
        for begin_s, end_s in _both(waiting[one], waiting[other]):
            shares = TIERS[one], TIERS[other]
            gap, bound = _gap(all_, begin_s, end_s, lambda s: s.tier, (one, other), shares)
            if gap > bound:
                yield f"{one} and {other} differ by {gap:.1f} s of service a share, {bound:.1f} s are allowed"


def the_provider_hardly_refuses(world: World) -> Iterator[str]:
    """§6: dispatch never makes the provider refuse while the key is ours alone."""
    refused = sum(call.status == 429 for call in world.api.calls)
    if refused > max(1, REFUSED * len(world.api.calls)):
        yield f"{refused} of {len(world.api.calls)} calls were refused for a limit"


def the_scarcest_limit_is_used(world: World) -> Iterator[str]:
    """§6: at least 98% of the scarcest limit is used while work waits."""
    calls = [call for call in world.api.calls if call.status == 200]
    all_ = [one for one in served(world) if not _was_parked(world, one)]
    slots = world.scenario.slots * world.scenario.workers
    for begin_s, end_s in _always_waiting(all_):
        within = [call for call in calls if call.at_s < end_s and (call.ended_s or end_s) > begin_s]
        if end_s - begin_s < WAITING_S or _most_at_once(calls, begin_s, end_s) >= min(slots, world.scenario.slots):
            continue
        used = {}
        for name, limit in world.api.limits.items():
            # And one more: a whole number of calls never fills a time to its end.
            needs = [_need(name, call, begin_s, end_s) for call in within] or [0]
            need = sum(needs) + max(needs)
            used[name] = need * 60 / (limit * (end_s - begin_s))
        scarcest = max(used, key=lambda name: used[name] / USED[name])
        if used[scarcest] < USED[scarcest]:
            yield f"{used[scarcest]:.3f} of {scarcest} was used in {end_s - begin_s:.0f} s of waiting"


def _was_parked(world: World, one: Served) -> bool:
    """Whether an equal request ran while it waited: then it waited for that one's end, not for its turn."""
    prompts = world.rows("scheduler", "SELECT request_id, prompt, started_ms, ended_ms FROM scheduler_requests")
    mine = next(row["prompt"] for row in prompts if row["request_id"] == one.request_id)
    return any(
        row["prompt"] == mine and row["request_id"] != one.request_id and row["started_ms"]
        and (row["started_ms"] - START_MS) / 1000 < one.begun_s
        for row in prompts
    )  # fmt: skip


def equals_cost_one_call(world: World) -> Iterator[str]:
    """§8: equal requests cost one call, unless who was served first was cancelled."""
    rows = world.rows("scheduler", "SELECT * FROM scheduler_requests")
    cancelled = {row["prompt"] for row in rows if row["state"] in ("cancelled", "expired")}
    prompts = {row["request_id"]: row["prompt"] for row in rows}
    calls = Counter(prompts[call.request_id] for call in world.api.calls if call.status == 200)
    for prompt, count in calls.items():
        if count > 1 and prompt not in cancelled:
            yield f"{count} calls were made for {prompt[:12]}"


def everything_is_tried_once(world: World) -> Iterator[str]:
    """Where nothing fails, nothing is tried again."""
    if world.scenario.schedulers > 1 and world.scenario.workers > 1:
        # Replicas share all slots, but each balances the workers by its own attempts: one may be full for the other.
        return
    refused = sum(call.status == 429 for call in world.api.calls)
    for row in world.rows("scheduler", "SELECT request_id, attempt FROM scheduler_requests WHERE attempt > 1"):
        if row["attempt"] > 1 + refused:
            yield f"{row['request_id']} took {row['attempt']} attempts"


def _need(name: str, call: Call, begin_s: float, end_s: float) -> float:
    """What a call used of a limit in that time: output as it was made, all else when it came."""
    if name == "output_tokens":
        ended_s = call.ended_s or end_s
        part = (min(ended_s, end_s) - max(call.at_s, begin_s)) / max(0.001, ended_s - call.at_s)
        return call.output_tokens * min(1.0, part)
    return (1 if name == "requests" else call.input_tokens) if call.at_s >= begin_s else 0


def _most_at_once(calls: Sequence[Call], begin_s: float, end_s: float) -> int:
    moments = [(c.at_s, 1) for c in calls] + [(c.ended_s or end_s, -1) for c in calls]
    running = itertools.accumulate((change for at_s, change in sorted(moments) if at_s < end_s), initial=0)
    return max(running)


def _always_waiting(own: Sequence[Served]) -> list[tuple[float, float]]:
    """Times in which at least one of them was queued, without a gap."""
    found: list[tuple[float, float]] = []
    for one in sorted(own, key=lambda o: o.accepted_s):
        if found and one.accepted_s <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], one.begun_s)
        else:
            found.append((one.accepted_s, one.begun_s))
    return found


def _both(ones: list[tuple[float, float]], others: list[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    for (a, b), (c, d) in itertools.product(ones, others):
        # What is placed at the very beginning, or begun at the very end, was not yet or no longer waited for.
        begin_s, end_s = max(a, c) + SLACK_S, min(b, d) - SLACK_S
        if end_s > begin_s:
            yield begin_s, end_s


def _gap(
    all_: Sequence[Served], begin_s: float, end_s: float, side: Callable[[Served], str], sides: tuple[str, str],
    shares: tuple[int, int],
) -> tuple[float, float]:  # fmt: skip
    """The largest difference of service over any part of that time, and the bound for it."""
    theirs = [s for s in all_ if side(s) in sides]
    mine = [s for s in theirs if begin_s <= s.begun_s <= end_s]
    if not mine:
        return 0.0, 0.0
    steps = (s.cost_s / shares[0] if side(s) == sides[0] else -s.cost_s / shares[1] for s in mine)
    sums = list(itertools.accumulate(steps, initial=0.0))
    in_flight = max(
        sum(s.cost_s for s in theirs if s.begun_s <= moment.begun_s < s.ended_s) for moment in mine
    )  # fmt: skip
    largest = max(s.cost_s for s in all_)
    return max(sums) - min(sums), (2 * largest + in_flight) / min(shares)


ORDERLY: list[Callable[[World], Iterator[str]]] = [
    ones_own_keep_their_order,
    neighbours_are_served_alike,
    tiers_get_their_shares,
    the_provider_hardly_refuses,
    the_scarcest_limit_is_used,
    equals_cost_one_call,
    everything_is_tried_once,
]
