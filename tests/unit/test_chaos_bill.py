"""That the comparison of the ledger with the bill can fail."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.chaos import bill

CALLS = 100
PRICES = {"m": {"input": 2, "output": 10}}
TRUTH = {"model": "m", "input_tokens": 100, "output_tokens": 50, "cost_nano_usd": 700, "estimated": False}
GUESS = {"model": "m", "input_tokens": 140, "output_tokens": 900, "cost_nano_usd": 9280, "estimated": True}
COMPLETED = {"state": "completed", "code": None, "attempt": 1, "cached": 0}
CANCELLED = {"state": "cancelled", "code": "CANCELLED", "attempt": 1, "cached": 0}
REPEATED = {"state": "completed", "code": None, "attempt": 2, "cached": 0}
REST = dict.fromkeys(("charged_attempt", "failures", "losses", "started_ms", "ended_ms"), 1)


def _compared(
    monkeypatch: pytest.MonkeyPatch, guesses: int, of: Mapping[str, Any], most_lost: int, without_call: int = 0
) -> bill.Bill:
    """A bill of so many calls, the first `guesses` known to the ledger only as that, from requests that went so."""
    total = CALLS + without_call
    requests = {
        f"r{i}": {**REST, "request_id": f"r{i}", "prompt": f"p{i}", **(of if i < guesses or i >= CALLS else COMPLETED)}
        for i in range(total)
    }
    charges = [{**(GUESS if i < guesses or i >= CALLS else TRUTH), "request_id": f"r{i}"} for i in range(total)]
    hashes = [bill._conversation(f"p{i}") for i in range(CALLS)]
    calls = [{**TRUTH, "status": 200, "ended": "complete", "conversation_hash": h, "prompt_hash": h} for h in hashes]
    monkeypatch.setattr(bill, "_requests", lambda data_dir: requests)
    monkeypatch.setattr(bill, "_rows", lambda data_dir, service, query: charges)
    return bill.compare(Path(), {"calls": calls, "totals": {"count": CALLS}}, PRICES, most_lost)


def test_an_exact_ledger_is_the_bill(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _compared(monkeypatch, 0, COMPLETED, 0)
    assert (found.exact_rows, found.unseen_calls) == (CALLS, 0)


@pytest.mark.parametrize("of", [CANCELLED, REPEATED])
def test_a_ledger_of_guesses_is_not_the_bill(monkeypatch: pytest.MonkeyPatch, of: Mapping[str, Any]) -> None:
    with pytest.raises(AssertionError, match="89 exact rows for 100 completed calls"):
        _compared(monkeypatch, 11, of, CALLS)


def test_a_guess_of_an_attempt_that_nothing_broke_is_not_the_bill(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError, match="completed, and charged as a guess"):
        _compared(monkeypatch, 1, COMPLETED, CALLS)


def test_as_many_guesses_are_the_bill_as_attempts_were_cancelled_or_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _compared(monkeypatch, 9, CANCELLED, 0).unseen_calls == 9
    assert _compared(monkeypatch, 9, REPEATED, 9).unseen_calls == 9
    with pytest.raises(AssertionError, match="9 completed calls without exact row, at most 8 can be"):
        _compared(monkeypatch, 9, REPEATED, 8)


def test_as_many_estimates_may_lack_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _compared(monkeypatch, 0, REPEATED, 3, without_call=3).without_call == 3
    with pytest.raises(AssertionError, match="3 estimates of calls that were never made, at most 2 can be"):
        _compared(monkeypatch, 0, REPEATED, 2, without_call=3)
