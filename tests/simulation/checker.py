"""Holds what a run left behind against each bold sentence of the design, and shares no code with the product.

Its witnesses are the rows of SQL and every move they made (triggers wrote them down), the keys of Valkey and all it
ever published, the provider's own book of calls, and what users were told.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from tests.simulation.world import World

ENDS = ("completed", "failed", "cancelled", "expired")
MOVES = {
    ("queued", "running"), ("queued", "cancelled"), ("queued", "expired"), ("queued", "completed"),
    ("queued", "failed"), ("running", "queued"), ("running", "completed"), ("running", "failed"),
    ("running", "cancelled"),
}  # fmt: skip
RESERVATION_MOVES = {
    ("pending", "pending"), ("pending", "counted"), ("pending", "given_back"), ("pending", "absent"),
    ("absent", "pending"),
}  # fmt: skip
KEPT = ("meta", "tiers", "bucket", "user:", "req:", "log:")
"""Keys that hold nothing of a request that has ended, or only its log."""


def check(world: World) -> list[str]:
    """Every promise that was not kept, in a sentence with the request it was not kept to."""
    found = list(world.history.violations)
    for promise in PROMISES:
        found += [f"{promise.__name__}: {broken}" for broken in promise(world)]
    return found


def every_accepted_request_ends_once(world: World) -> Iterator[str]:
    """§4: an accepted request reaches exactly one of completed, failed, cancelled, expired."""
    rows = {row["request_id"]: row["state"] for row in world.rows("scheduler", "SELECT * FROM scheduler_requests")}
    for sent in world.gateway.sent:
        if sent.accepted_s is not None and rows.get(sent.request_id) not in ENDS:
            yield f"{sent.request_id} was accepted and is {rows.get(sent.request_id, 'gone')}"
        if sent.accepted_s is not None and sent.ends != 1:
            yield f"{sent.request_id}: its user was told {sent.ends} ends"
        told = sent.seen[-1][3] if sent.ends else ""
        if told and told.removeprefix("STATE_").lower() != rows.get(sent.request_id):
            yield f"{sent.request_id}: its user was told {told}, its row says {rows.get(sent.request_id)}"
    for row in world.rows("scheduler", "SELECT * FROM seen_moves ORDER BY number"):
        if row["old_state"] != row["new_state"] and (row["old_state"], row["new_state"]) not in MOVES:
            yield f"{row['request_id']} went from {row['old_state']} to {row['new_state']}"


def attempts_only_rise(world: World) -> Iterator[str]:
    """§4: `attempt` is the fence and only ever rises, by one, with queued -> running and with nothing else."""
    for row in world.rows("scheduler", "SELECT * FROM seen_moves ORDER BY number"):
        rise = row["new_attempt"] - row["old_attempt"]
        if rise != ((row["old_state"], row["new_state"]) == ("queued", "running")):
            yield f"{row['request_id']}: attempt {row['old_attempt']} -> {row['new_attempt']} as {row['new_state']}"


def results_are_of_the_last_attempt(world: World) -> Iterator[str]:
    """§4: a worker that wakes up late changes nothing."""
    for row in world.rows("scheduler", "SELECT * FROM scheduler_requests WHERE state = 'completed' AND NOT cached"):
        if not row["result"].startswith(f"{row['request_id']}.{row['attempt']}:"):
            yield f"{row['request_id']}: attempt {row['attempt']} completed with the answer {row['result'][:40]}"


def places_are_counted_at_most_once(world: World) -> Iterator[str]:
    """§4: counted at most once; settled for good; nothing stays reserved."""
    rows = {row["request_id"]: row for row in world.rows("scheduler", "SELECT * FROM scheduler_requests")}
    counted: dict[tuple[str, str], int] = defaultdict(int)
    for place in world.rows("quota", "SELECT * FROM quota_reservations"):
        row = rows.get(place["request_id"])
        counts = row is not None and (row["state"] == "completed" or (row["state"] == "cancelled" and row["delivered"]))
        wanted = "absent" if row is None else "counted" if counts else "given_back"
        if place["state"] != wanted:
            yield f"{place['request_id']} is {row['state'] if row else 'unknown'}, its place {place['state']}"
        counted[place["user_id"], place["day"]] += counts
    for request_id in rows.keys() - {
        row["request_id"] for row in world.rows("quota", "SELECT * FROM quota_reservations")
    }:
        yield f"{request_id} was accepted without a place"
    for day in world.rows("quota", "SELECT * FROM quota_days"):
        if day["used"] != (count := counted[day["user_id"], day["day"]]):
            yield f"{day['user_id']} used {day['used']} places of {day['day']}, {count} count"
    for row in world.rows("quota", "SELECT * FROM seen_moves ORDER BY number"):
        if (row["old_state"], row["new_state"]) not in RESERVATION_MOVES:
            yield f"the place of {row['request_id']} went from {row['old_state']} to {row['new_state']}"
        if row["new_generation"] < row["old_generation"]:
            yield f"the place of {row['request_id']} fell to generation {row['new_generation']}"
    for row in world.rows("quota", "SELECT * FROM seen_days WHERE used < 0"):
        yield f"{row['user_id']} had {row['used']} places taken"


def equals_share_an_answer(world: World) -> Iterator[str]:
    """§8: followers and hits get the answer of one that was served, to the same prompt, and cost nothing themselves."""
    rows = {row["request_id"]: row for row in world.rows("scheduler", "SELECT * FROM scheduler_requests")}
    for row in rows.values():
        if row["state"] != "completed" or not row["cached"]:
            continue
        source = rows.get(row["result"].partition(".")[0])
        if source is None or source["prompt"] != row["prompt"] or source["state"] != "completed":
            yield f"{row['request_id']} got the answer {row['result'][:40]}"
        elif source["result"] != row["result"] or source["cached"]:
            yield f"{row['request_id']} got another answer than {source['request_id']}"


def what_was_delivered_counts(world: World) -> Iterator[str]:
    """§4: delivered is a flag of the row, set under attempt and state before the first append."""
    delivered = {
        row["request_id"]: row["delivered"] for row in world.rows("scheduler", "SELECT * FROM scheduler_requests")
    }
    for _, request_id, event in _events(world):
        if event["type"] == "delta" and not delivered.get(request_id):
            yield f"{request_id}: output was shown and its row does not say so"


def nothing_stays_held(world: World) -> Iterator[str]:
    """§4: reservation, provider tokens, lease, outstanding slot: nothing stays held after the end."""
    yield from world.moving()
    for raw in world.valkey.ask("KEYS", "*"):
        key = raw.decode()
        name = key.partition("}:")[2]
        if not name.startswith(KEPT):
            yield f"{key} is left"
        elif name.startswith("req:") and not world.valkey.ask("HEXISTS", key, "closed"):
            yield f"{key} is open"
        elif name.startswith("user:"):
            waiting, ready = world.valkey.ask("HMGET", key, "waiting", "ready")
            if abs(float(waiting or 0)) > 1e-6 or int(ready or 0):
                yield f"{key}: {waiting!r} waiting, {ready!r} ready"


def events_rise_and_are_of_the_running_attempt(world: World) -> Iterator[str]:
    """§9, §4: numbers rise strictly, across rebuilds too; a late worker shows nothing."""
    newest: dict[str, int] = {}
    open_: dict[str, int] = {}
    ended: dict[str, int] = {}
    for seq, request_id, event in _events(world):
        kind, attempt = event["type"], event.get("attempt", 0)
        if kind == "ended" and request_id in ended:
            # Said again for who missed it: the same number while the log lives, a higher one of a later epoch.
            if seq < ended[request_id]:
                yield f"{request_id}: its end was number {ended[request_id]}, then {seq}"
            continue
        if seq <= newest.get(request_id, 0):
            yield f"{request_id}: {kind} has number {seq} after {newest[request_id]}"
        newest[request_id] = seq
        if request_id in ended:
            yield f"{request_id}: {kind} after its end"
        if kind == "processing":
            if attempt < open_.get(request_id, 0):
                yield f"{request_id}: attempt {attempt} began after {open_[request_id]}"
            open_[request_id] = attempt
        elif kind == "delta" and attempt < open_.get(request_id, 1):
            # Nor need `processing` have been told: a rebuild adopts an attempt whose start Valkey did not live to see.
            yield f"{request_id}: output of attempt {attempt} while {open_[request_id]} runs"
        elif kind == "delta" and not event["text"].startswith(f"{request_id}.{attempt}:"):
            yield f"{request_id}: attempt {attempt} shows {event['text'][:40]}"
        elif kind == "retrying":
            # The next must begin anew.
            open_[request_id] = attempt + 1
        elif kind == "ended":
            ended[request_id] = seq


def users_see_events_in_order(world: World) -> Iterator[str]:
    """§9: from any replica, across rebuilds, each number once and rising; the final one is the last."""
    for sent in world.gateway.sent:
        numbers = [seq for seq, *_ in sent.seen]
        if any(later <= earlier for earlier, later in zip(numbers, numbers[1:], strict=False)):
            yield f"{sent.request_id}: its user saw {numbers}"
        if any(kind == "ended" for _, kind, *_ in sent.seen[:-1]):
            yield f"{sent.request_id}: its user was told more after its end"
        # Number 0 is the state as it was found while the log could not be read: what led to it may follow.
        attempts = [attempt for seq, kind, attempt, _ in sent.seen if seq and kind in ("processing", "delta")]
        if attempts != sorted(attempts):
            yield f"{sent.request_id}: its user saw attempts {attempts}"


def what_was_used_is_paid_once(world: World) -> Iterator[str]:
    """§4: ledger rows, one per attempt and turn, exact where the provider reported usage."""
    rows = {row["request_id"]: row for row in world.rows("scheduler", "SELECT * FROM scheduler_requests")}
    calls = {(call.request_id, call.attempt): call for call in world.api.calls if call.status == 200}
    paid = {(row["request_id"], row["attempt"]): row for row in world.rows("quota", "SELECT * FROM quota_charges")}
    for (request_id, attempt), row in paid.items():
        call = calls.get((request_id, attempt))
        if attempt > rows[request_id]["attempt"]:
            yield f"{request_id}: attempt {attempt} is charged and never was"
        if not row["estimated"] and (call is None or not call.complete or call.output_tokens != row["output_tokens"]):
            yield f"{request_id}: attempt {attempt} is charged {row['output_tokens']} as exact, not as {call}"
    for (request_id, attempt), call in calls.items():
        if call.complete and (request_id, attempt) not in paid:
            yield f"{request_id}: attempt {attempt} made {call.output_tokens} tokens that nobody paid"
    for row in world.rows("scheduler", "SELECT * FROM scheduler_requests WHERE state = 'completed' AND NOT cached"):
        if (charge := paid.get((row["request_id"], row["attempt"]))) is None or charge["estimated"]:
            yield f"{row['request_id']} completed and its last attempt is not charged exactly"


def deadlines_hold(world: World) -> Iterator[str]:
    """§4: acceptance + maxWait ends what is queued, backoff included."""
    if world.skewed:
        return
    # Stores are away for up to 25 s at a time, and a rebuild whose maker died is begun anew after 30 s.
    late_ms = 90_000 if world.scenario.faulty else 2_500
    for row in world.rows("scheduler", "SELECT * FROM scheduler_requests"):
        if row["attempt"] == 1 and row["started_ms"] and row["started_ms"] > row["deadline_ms"] + late_ms:
            yield f"{row['request_id']} began {row['started_ms'] - row['deadline_ms']} ms after its deadline"
        late = row["ended_ms"] - row["deadline_ms"] if row["state"] == "expired" else 0
        # What ran is bounded by its attempt; it expires when it comes back to the queue too late.
        if late < 0 or (late > late_ms and row["attempt"] == 0):
            yield f"{row['request_id']} expired {late} ms after its deadline"


def _events(world: World) -> list[tuple[int, str, dict[str, Any]]]:
    """(number, request, event) of all that was ever published, in order."""
    found = []
    for _, channel, message in world.valkey.published:
        if channel.endswith(":events"):
            seq, request_id, payload = message.split(" ", 2)
            found.append((int(seq), request_id, json.loads(payload)))
    return found


PROMISES: list[Callable[[World], Iterator[str]]] = [
    every_accepted_request_ends_once,
    attempts_only_rise,
    results_are_of_the_last_attempt,
    places_are_counted_at_most_once,
    equals_share_an_answer,
    what_was_delivered_counts,
    nothing_stays_held,
    events_rise_and_are_of_the_running_attempt,
    users_see_events_in_order,
    what_was_used_is_paid_once,
    deadlines_hold,
]
