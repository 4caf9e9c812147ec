"""Mixed traffic: users of every tier, all kinds and lengths, equal ones, repeats, and cancels at random moments."""

from __future__ import annotations

import http.client
import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.e2e.stack import Stack

KINDS = (
    "mermaid", "flowchart", "sequence", "class", "state", "er", "gantt", "mindmap", "pie", "journey", "timeline",
    "quadrant", "gitgraph", "c4", "block", "architecture", "sankey",
)  # fmt: skip
THINGS = ("parcel", "invoice", "user", "letter", "sensor", "loan", "ticket", "patient", "order", "backup")
DOES = ("signs in", "is delivered", "is paid", "fails and is retried", "moves between stores", "is reviewed by two")
PACE_S = 0.05
MOST_OPEN = 200
"""Requests that have not ended: few enough that most cancels meet one that runs."""
GIVE_UP_TRIES = 1_200
"""At PACE_S: a minute, six times what any restart takes."""


@dataclass
class Sent:
    """One request as its sender knows it."""

    number: int
    user: str
    key: str
    """Idempotency-Key; empty: none was sent."""
    request_id: str = ""
    refused: str = ""
    cancelled: bool = False
    unknown: int = 0
    """Answers that said "I do not know", or did not come."""


@dataclass
class Mixed:
    """Sends `requests` of them through a stack, then returns."""

    stack: Stack
    users: Mapping[str, tuple[str, str]]
    """By id: tier and key."""
    requests: int
    open_requests: Callable[[], int]
    seed: int = 1
    threads: int = 12
    journal: list[Sent] = field(default_factory=list)
    repeats: int = 0

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._broken: list[BaseException] = []
        # Who may send more sends more; those of the lowest tiers pass their limits all the same.
        shares = {"free": 20, "basic": 4, "pro": 15, "enterprise": 60}
        self._ids = list(self.users)
        self._shares = [shares[self.users[user][0]] for user in self._ids]

    def run(self) -> None:
        """Sends them all; every one has been accepted or refused for good after that."""
        senders = [threading.Thread(target=self._send, args=(n,), daemon=True) for n in range(self.threads)]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        assert not self._broken, self._broken[0]

    @property
    def sent(self) -> int:
        return len(self.journal)

    def refusals(self) -> Counter[str]:
        """How many were refused, by code."""
        return Counter(sent.refused for sent in self.journal if sent.refused)

    def _send(self, thread: int) -> None:
        rng = random.Random(f"{self.seed}.{thread}")
        door = _Door(self.stack.port)
        mine: list[Sent] = []
        try:
            while (sent := self._next(rng)) is not None:
                self._until_answered(door, sent, self._body(rng, sent))
                if sent.request_id:
                    mine.append(sent)
                if mine and rng.random() < 0.12:
                    self._cancel(door, rng.choice(mine[-8:]))
        except BaseException as error:
            self._broken.append(error)
        finally:
            door.close()

    def _next(self, rng: random.Random) -> Sent | None:
        tick = threading.Event()
        while self.sent > MOST_OPEN and self.open_requests() > MOST_OPEN:
            tick.wait(PACE_S)
        with self._lock:
            if self.sent >= self.requests:
                return None
            number = self.sent
            key = "" if rng.random() < 0.2 else f"mixed-{self.seed}-{number}"
            sent = Sent(number, rng.choices(self._ids, self._shares)[0], key)
            self.journal.append(sent)
            return sent

    def _body(self, rng: random.Random, sent: Sent) -> dict[str, Any]:
        tier = self.users[sent.user][0]
        # One in eight is equal to some other.
        number = rng.randrange(20) if rng.random() < 0.125 else 1000 + sent.number
        words = random.Random(number)
        prompt = f"How {words.choice(THINGS)} {number} {words.choice(DOES)}"
        if words.random() < 0.2:
            prompt += ". It " + ", then it ".join(words.choice(DOES) for _ in range(words.randrange(20, 400)))
        if words.random() < 0.1:
            prompt += f" [emulate {words.randrange(300, 1500)} tokens]"
        options: dict[str, Any] = {"priority": rng.randrange(-10, 11)}
        if words.random() < 0.1:
            options["maxTokens"] = words.randrange(60, 400)
        if tier in ("pro", "enterprise") and words.random() < 0.3:
            options["model"] = words.choice(["claude-haiku-5-5", "claude-opus-5-5", "claude-haiku-4-5"])
        return {"prompt": prompt, "diagramType": words.choice(KINDS), "options": options}

    def _until_answered(self, door: _Door, sent: Sent, body: Any) -> None:
        headers = {"X-API-Key": self.users[sent.user][1]}
        if sent.key:
            headers["Idempotency-Key"] = sent.key
        tick = threading.Event()
        for _ in range(GIVE_UP_TRIES):
            status, answer = door.ask("POST", "/api/diagram/generate", body, headers)
            if status == 202:
                assert sent.request_id in ("", answer["requestId"]), "one key, two requests"
                again, sent.request_id = bool(sent.request_id), answer["requestId"]
                if sent.key and not again and sent.number % 9 == 0:
                    self.repeats += 1
                    continue
                return
            if status == 429 and answer.get("code") == "USER_LIMIT_EXCEEDED":
                sent.refused = answer["code"]
                return
            assert status in (0, 409, 503) or answer.get("code") == "CONCURRENCY_LIMIT_EXCEEDED", (status, answer)
            sent.unknown += status in (0, 503)
            if not sent.key and (status == 0 or answer.get("accepted")):
                # Without a key there is no second try that could not be a second request.
                sent.request_id = answer.get("requestId", "") if self._exists(door, headers, answer) else ""
                sent.refused = "" if sent.request_id else "unknown"
                return
            tick.wait(PACE_S)
        raise AssertionError(f"not answered: {sent}")

    def _exists(self, door: _Door, headers: dict[str, str], answer: Any) -> bool:
        if "requestId" not in answer:
            return False
        tick = threading.Event()
        while (status := door.ask("GET", f"/api/diagram/{answer['requestId']}", None, headers)[0]) not in (200, 404):
            tick.wait(PACE_S)
        return status == 200

    def _cancel(self, door: _Door, sent: Sent) -> None:
        headers = {"X-API-Key": self.users[sent.user][1]}
        status, _ = door.ask("DELETE", f"/api/diagram/{sent.request_id}", None, headers)
        sent.cancelled = sent.cancelled or status == 200


class _Door:
    """One connection to the gateway, made anew when it breaks."""

    def __init__(self, port: int) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def ask(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> tuple[int, Any]:
        """Status and JSON; status 0 if there was no answer."""
        try:
            self._http.request(method, path, None if body is None else json.dumps(body).encode(), dict(headers))
            answer = self._http.getresponse()
            return answer.status, json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError):
            self._http.close()
            return 0, {}

    def close(self) -> None:
        self._http.close()
