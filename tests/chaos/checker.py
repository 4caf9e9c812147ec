"""Looks at what is left afterwards, without asking the product: the SQL files, Valkey, the emulator's own book."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import redis

ENDS = ("completed", "failed", "cancelled", "expired")


class Sent(Protocol):
    """What a sender knows of a request."""

    request_id: str


class Checker:
    """Reads the stores of a stack."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir

    def open_requests(self) -> int:
        """Accepted requests that have not ended."""
        return int(
            self._one("scheduler", "SELECT count(*) FROM scheduler_requests WHERE state IN ('queued', 'running')")
        )

    def running(self) -> int:
        """Attempts under way."""
        return int(self._one("scheduler", "SELECT count(*) FROM scheduler_requests WHERE state = 'running'"))

    def untold(self) -> int:
        """Settlements under way, and ends that were not told or not paid."""
        waiting = self._one("scheduler", "SELECT count(*) FROM scheduler_outbox")
        rest = "NOT told OR (state = 'cancelled' AND charged_attempt < attempt)"
        return int(waiting + self._one("scheduler", f"SELECT count(*) FROM scheduler_requests WHERE {rest}"))

    def unsettled(self) -> int:
        """The same, and reservations of which nobody knows the end."""
        pending = self._one("quota", "SELECT count(*) FROM quota_reservations WHERE state = 'pending'")
        return self.untold() + int(pending)

    def states(self) -> dict[str, str]:
        """The state of every request."""
        return {
            row["request_id"]: row["state"]
            for row in self._all("scheduler", "SELECT request_id, state FROM scheduler_requests")
        }

    def check(self, journal: Sequence[Sent], *, resolved: bool = True) -> None:
        """Every promise about an accepted request. Not `resolved`: what was reserved and never accepted may be held."""
        rows = self._all("scheduler", "SELECT * FROM scheduler_requests")
        states = self.states()
        accepted = [sent.request_id for sent in journal if sent.request_id]
        assert len(set(accepted)) == len(accepted), "two keys, one request"
        lost = [request_id for request_id in accepted if states.get(request_id) not in ENDS]
        assert not lost, f"accepted and not ended: {lost}"
        self._check_places(rows, resolved=resolved)
        self._check_charges(rows)
        self._check_valkey()

    def check_bill(self, totals: dict[str, Any]) -> None:
        """Nothing is charged that the provider did not serve; only turns that were seen to their end count as exact."""
        exact = self._all(
            "quota", "SELECT sum(output_tokens) AS tokens, count(*) AS turns FROM quota_charges WHERE NOT estimated"
        )
        assert exact[0]["turns"] <= totals["ended"].get("complete", 0)
        assert (exact[0]["tokens"] or 0) <= totals["output_tokens"]

    def _check_places(self, rows: list[sqlite3.Row], *, resolved: bool) -> None:
        reserved = {row["request_id"]: row for row in self._all("quota", "SELECT * FROM quota_reservations")}
        for row in rows:
            assert row["counted"] == (row["state"] == "completed" or (row["state"] == "cancelled" and row["delivered"]))
            wanted = "counted" if row["counted"] else "given_back"
            assert reserved[row["request_id"]]["state"] == wanted, row["request_id"]
        orphans = [reserved[request_id] for request_id in set(reserved) - {row["request_id"] for row in rows}]
        states = {"absent"} if resolved else {"absent", "pending"}
        assert {orphan["state"] for orphan in orphans} <= states, "a place that nobody holds"
        taken = Counter(row["user_id"] for row in rows if row["counted"])
        taken += Counter(orphan["user_id"] for orphan in orphans if orphan["state"] == "pending")
        used = {row[0]: row[1] for row in self._all("quota", "SELECT user_id, sum(used) FROM quota_days GROUP BY 1")}
        assert +Counter(used) == taken, "each is counted once, and only what counts"

    def _check_charges(self, rows: list[sqlite3.Row]) -> None:
        charges = self._all("quota", "SELECT request_id, attempt, estimated FROM quota_charges")
        paid = Counter(row["request_id"] for row in charges if not row["estimated"])
        for row in rows:
            if row["state"] == "completed" and not row["cached"]:
                assert paid[row["request_id"]] >= 1, f"{row['request_id']} completed and was not charged"
        attempts = {row["request_id"]: row["attempt"] for row in rows}
        assert all(1 <= row["attempt"] <= attempts[row["request_id"]] for row in charges)

    def _check_valkey(self) -> None:
        client = redis.Redis(unix_socket_path=str(self._socket()), decode_responses=True)
        for kind in ("leases", "backoff"):
            for key in client.keys(f"hg:*:{kind}"):
                assert client.zcard(key) == 0, f"{key} still holds {client.zrange(key, 0, 5)}"
        for key in client.keys("hg:*:line:*"):
            assert client.zcard(key) == 0, f"{key} still holds something"

    def _socket(self) -> Path:
        return next(p for p in self._data_dir.rglob("valkey.sock"))

    def _all(self, service: str, query: str, *values: Any) -> list[sqlite3.Row]:
        connection = sqlite3.connect(f"file:{self._data_dir}/{service}.db?mode=ro", uri=True, timeout=10)
        connection.row_factory = sqlite3.Row
        try:
            return connection.execute(query, values).fetchall()
        finally:
            connection.close()

    def _one(self, service: str, query: str, *values: Any) -> Any:
        return self._all(service, query, *values)[0][0]
