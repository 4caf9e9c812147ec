"""A crowd that sends diagrams through the front door, never gives up on one, and writes down what it was told."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import Any

from tests.e2e.stack import Stack

PACE_S = 0.05
GIVE_UP_TRIES = 400


@dataclass
class Sent:
    """One request as its sender knows it."""

    key: str
    """Idempotency-Key; repeats are the same request."""
    request_id: str = ""
    tries: int = 0
    unknown: int = 0
    """Answers that said "I do not know", or did not come."""


@dataclass
class Load:
    """Sends until told to stop, `threads` at once, each request with a key of its own."""

    stack: Stack
    api_key: str
    threads: int = 4
    journal: list[Sent] = field(default_factory=list)
    refusals: list[Any] = field(default_factory=list)

    def __enter__(self) -> Load:
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._senders = [threading.Thread(target=self._send, daemon=True) for _ in range(self.threads)]
        for sender in self._senders:
            sender.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for sender in self._senders:
            sender.join(60)

    @property
    def accepted(self) -> int:
        with self._lock:
            return sum(bool(sent.request_id) for sent in self.journal)

    def _send(self) -> None:
        while not self._over.is_set():
            with self._lock:
                sent = Sent(key=f"load-{len(self.journal)}")
                self.journal.append(sent)
            self._until_accepted(sent)
            self._over.wait(PACE_S)

    def _until_accepted(self, sent: Sent) -> None:
        tick = threading.Event()
        while not sent.request_id and sent.tries < GIVE_UP_TRIES:
            sent.tries += 1
            body = json.dumps({"prompt": f"How parcel {sent.key} reaches its reader"}).encode()
            headers = {"X-API-Key": self.api_key, "Idempotency-Key": sent.key}
            call = urllib.request.Request(f"{self.stack.url}/api/diagram/generate", body, headers)
            try:
                with urllib.request.urlopen(call, timeout=15) as answer:
                    sent.request_id = json.loads(answer.read())["requestId"]
            except urllib.error.HTTPError as error:
                if error.code != 503:
                    self.refusals.append((error.code, error.read()))
                    return
                sent.unknown += 1
                tick.wait(PACE_S)
            except OSError:
                sent.unknown += 1
                tick.wait(PACE_S)
