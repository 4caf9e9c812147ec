"""The ledger against the provider's bill: call by call, by whoever asked."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ESTIMATE_FACTOR = 3.0
"""How far the input of an estimate may be from what the provider counts: characters a token differ by less."""

LEAST_EXACT = 0.9
"""Of the calls that were completed, how many the ledger must have exactly, where a kill meets few of them."""

Prices = Mapping[str, Mapping[str, Any]]
"""By model, as config/prices.yaml has them."""

Key = tuple[str, int, int, int]
"""Model, tokens in, tokens out, nano-dollars: two calls with the same of these are the same to a bill."""


@dataclass(frozen=True)
class Bill:
    """What the two books come to."""

    requests: int
    calls: int
    completed_calls: int
    completed_nano_usd: int
    exact_rows: int
    exact_nano_usd: int
    unseen_calls: int
    """Completed upstream, but nobody lived, or was asked, to hear of it: an estimate stands for each."""
    unseen_nano_usd: int
    estimated_rows: int
    estimated_nano_usd: int
    without_call: int
    """Estimates of attempts whose scheduler was killed before anything was asked."""
    unpaid_repairs: int
    """Second turns of attempts whose scheduler was killed: it alone knew of them, and one estimate stands for both."""

    def text(self) -> str:
        """For people."""
        return "\n".join(f"{name:20} {value:>18,}" for name, value in vars(self).items())


def compare(
    data_dir: Path, book: Mapping[str, Any], prices: Prices, most_lost: int, least_exact: float = LEAST_EXACT
) -> Bill:
    """Raises AssertionError with every row and call that has no counterpart.

    `most_lost`: attempts that were under way when a process was killed. Of those, and of those that were cancelled,
    nobody may have heard what they used, or whether they were sent at all; of any other the exact usage must be there.
    """
    served = [call for call in book["calls"] if call["status"] == 200]
    assert book["totals"]["count"] == len(book["calls"]), "the emulator forgot calls"
    assert all(call["ended"] for call in served), "a call still runs"
    calls: defaultdict[str, list[Any]] = defaultdict(list)
    for call in served:
        calls[call["conversation_hash"]].append(call)
    requests = _requests(data_dir)
    asked = {request_id: _conversation(request["prompt"]) for request_id, request in requests.items()}
    assert calls.keys() <= set(asked.values()), "a call that nobody asked for"
    rows: defaultdict[str, list[Any]] = defaultdict(list)
    for row in _rows(data_dir, "quota", "SELECT * FROM quota_charges"):
        rows[asked[row["request_id"]]].append(row)
    completed = [_key_of_call(call, prices) for call in served if call["ended"] == "complete"]
    exact = [row for found in rows.values() for row in found if not row["estimated"]]
    guessed = [row for found in rows.values() for row in found if row["estimated"]]
    share = f"{len(exact)} exact rows for {len(completed)} completed calls"
    assert len(exact) >= least_exact * len(completed), share
    broken: Counter[str] = Counter()
    for request_id, request in requests.items():
        broken[asked[request_id]] += _broken_attempts(request)
    unseen: Counter[Key] = Counter()
    lost, repairs, wrong = 0, 0, []
    for conversation in set(asked.values()):
        try:
            more, without_call, unpaid = _compare(calls[conversation], rows[conversation], prices)
            assert more.total() <= broken[conversation] + unpaid, f"completed, and charged as a guess: {more}"
        except AssertionError as error:
            about = [_told(request) for i, request in requests.items() if asked[i] == conversation]
            wrong.append(f"{error}\n  {about}")
            continue
        unseen += more
        lost, repairs = lost + without_call, repairs + unpaid
    assert not wrong, "\n".join(wrong)
    most = most_lost + sum(row["state"] == "cancelled" and row["attempt"] > 0 for row in requests.values())
    assert lost <= most, f"{lost} estimates of calls that were never made, at most {most} can be"
    assert unseen.total() <= most + repairs, (
        f"{unseen.total()} completed calls without exact row, at most {most} can be"
    )
    bill = Bill(
        len(asked), len(served), len(completed), sum(key[3] for key in completed),
        len(exact), sum(row["cost_nano_usd"] for row in exact),
        unseen.total(), sum(key[3] * count for key, count in unseen.items()),
        len(guessed), sum(row["cost_nano_usd"] for row in guessed), lost, repairs,
    )  # fmt: skip
    assert bill.exact_nano_usd + bill.unseen_nano_usd == bill.completed_nano_usd
    return bill


def _broken_attempts(request: Any) -> int:
    """How many attempts at a request did not end it: they were cancelled, lost, or failed and repeated."""
    ended_it = request["state"] in ("completed", "failed") and request["code"] != "WORKER_LOST"
    return int(request["attempt"] - (ended_it and request["attempt"] > 0 and not request["cached"]))


def _compare(calls: list[Any], rows: list[Any], prices: Prices) -> tuple[Counter[Key], int, int]:
    """One conversation: the completed calls that no exact row has, estimates beyond the calls, repairs without one."""
    completed = Counter(_key_of_call(call, prices) for call in calls if call["ended"] == "complete")
    exact = Counter(_key_of_row(row) for row in rows if not row["estimated"])
    invented = exact - completed
    assert not invented, f"charged as exact, and no such call was completed: {invented}"
    unseen = completed - exact
    estimates = [row for row in rows if row["estimated"]]
    repairs = sum(call["prompt_hash"] != call["conversation_hash"] for call in calls)
    unpaid = max(0, len(calls) - exact.total() - len(estimates))
    assert unpaid <= repairs, f"served and not in the ledger: {calls}, {list(map(dict, rows))}"
    for row in estimates:
        _check_estimate(row, calls, prices)
    return unseen, max(0, len(estimates) + exact.total() - len(calls)), unpaid


def _check_estimate(row: Any, calls: list[Any], prices: Prices) -> None:
    assert row["cost_nano_usd"] == _cost(row, prices), dict(row)
    assert 1 <= row["output_tokens"] <= 32_768
    counted = [call["input_tokens"] for call in calls]
    if counted:
        least, most = min(counted) / ESTIMATE_FACTOR, max(counted) * ESTIMATE_FACTOR
        assert least <= row["input_tokens"] <= most, (dict(row), counted)


def _key_of_call(call: Any, prices: Prices) -> Key:
    return call["model"], call["input_tokens"], call["output_tokens"], _cost(call, prices)


def _cost(used: Any, prices: Prices) -> int:
    # On purpose not the product's own arithmetic.
    price = prices[used["model"]]
    return int(used["input_tokens"] * price["input"] + used["output_tokens"] * price["output"])


def _key_of_row(row: Any) -> Key:
    return row["model"], row["input_tokens"], row["output_tokens"], row["cost_nano_usd"]


def _requests(data_dir: Path) -> dict[str, Any]:
    return {row["request_id"]: row for row in _rows(data_dir, "scheduler", "SELECT * FROM scheduler_requests")}


def _conversation(prompt: str) -> str:
    """How the emulator's book calls what was asked with that prompt."""
    return hashlib.sha256(f"<request>\n{prompt}\n</request>".encode()).hexdigest()


def _told(request: Any) -> dict[str, Any]:
    names = (
        "request_id",
        "state",
        "code",
        "attempt",
        "charged_attempt",
        "failures",
        "losses",
        "started_ms",
        "ended_ms",
    )
    return {name: request[name] for name in names}


def book_of(emulator_url: str) -> dict[str, Any]:
    """The emulator's own book of calls."""
    with urllib.request.urlopen(f"{emulator_url}/_emulator/calls", timeout=60) as answer:
        return dict(json.loads(answer.read()))


def _rows(data_dir: Path, service: str, query: str) -> list[Any]:
    connection = sqlite3.connect(f"file:{data_dir}/{service}.db?mode=ro", uri=True, timeout=10)
    connection.row_factory = sqlite3.Row
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()
