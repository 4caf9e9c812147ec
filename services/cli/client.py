"""Calls of the gateway's HTTP API, and its events with reconnect."""

from __future__ import annotations

import argparse
import contextlib
import json
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import httpx2

TIMEOUT_S = 30.0
SILENCE_S = 40.0
"""The gateway says something at least every 15 s; after that the connection is given up."""
GIVE_UP_AFTER = 12
"""Failed tries in a row to come back to the events: with the pauses below about a minute."""
PAUSES_S = (0.5, 1.0, 2.0, 4.0, 6.0)
SUBMIT_TRIES = 3
FINAL = ("completed", "failed")

Pause = Callable[[float], None]


class CliError(Exception):
    """What the user is told: one sentence. `body` is the gateway's own error, where it sent one."""

    def __init__(self, sentence: str, body: Mapping[str, Any] | None = None) -> None:
        super().__init__(sentence)
        self.body = dict(body or {})


class Client:
    """One gateway, called with one key."""

    def __init__(self, url: str, headers: Mapping[str, str], *, pause: Pause = time.sleep) -> None:
        self.url = url.rstrip("/")
        self._pause = pause
        try:
            # trust_env would send keys through whatever proxy a shell happens to name.
            self._http = httpx2.Client(base_url=self.url, headers=dict(headers), timeout=TIMEOUT_S, trust_env=False)
        except (httpx2.InvalidURL, UnicodeEncodeError, ValueError):
            raise CliError(f"'{url}' or the key cannot be used: check --url and the key.") from None

    def call(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Any:
        """The JSON answer. CliError for anything else."""
        return _json(self._send(method, path, body, headers))

    def text(self, path: str) -> str:
        """The body of an answer that is no JSON."""
        return str(self._send("GET", path).text)

    def submit(self, body: Any) -> dict[str, Any]:
        """Sends a request; one key for all tries, so that it is accepted once whatever gets lost."""
        headers = {"Idempotency-Key": secrets.token_urlsafe(24)}
        for attempt in range(1, SUBMIT_TRIES + 1):
            try:
                accepted: dict[str, Any] = self.call("POST", "/api/diagram/generate", body, headers)
                return accepted
            except CliError as error:
                if attempt == SUBMIT_TRIES or error.body.get("code", "UNAVAILABLE") != "UNAVAILABLE":
                    raise
                self._pause(PAUSES_S[attempt])
        raise AssertionError("unreachable")

    def events(self, request_id: str) -> Iterator[dict[str, Any]]:
        """Every event from the first to the last; after a break it goes on behind the last number seen."""
        last, failures = "0", 0
        while failures < GIVE_UP_AFTER:
            with contextlib.suppress(httpx2.HTTPError):
                for event in self._stream(request_id, last):
                    last, failures = str(event.get("seq", last)), 0
                    yield event
                    if event.get("type") in FINAL:
                        return
            failures += 1
            self._pause(PAUSES_S[min(failures, len(PAUSES_S)) - 1])
        raise CliError(f"The gateway at {self.url} is gone; see later with: headgate status {request_id}")

    def _stream(self, request_id: str, last: str) -> Iterator[dict[str, Any]]:
        timeout = httpx2.Timeout(TIMEOUT_S, read=SILENCE_S)
        headers = {"Last-Event-ID": last, "Accept": "text/event-stream"}
        with self._http.stream("GET", f"/api/diagram/{request_id}/events", headers=headers, timeout=timeout) as answer:
            if answer.status_code >= 500:
                return
            if answer.status_code != 200:
                answer.read()
                raise _error(answer)
            for line in _lines(answer.iter_bytes()):
                if line.startswith(b"data: "):
                    yield json.loads(line.removeprefix(b"data: "))

    def _send(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Any:
        content = None if body is None else json.dumps(body).encode()
        try:
            answer = self._http.request(method, path, content=content, headers=dict(headers or {}))
        except httpx2.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise CliError(f"The gateway at {self.url} cannot be reached ({reason}): is it running?") from None
        if answer.status_code >= 300:
            raise _error(answer)
        return answer


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    # Not the client's own: it also breaks at U+2028 and others, which JSON holds as they are.
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines


def _json(answer: Any) -> Any:
    try:
        return answer.json()
    except ValueError:
        raise CliError(f"{answer.url} is not a Headgate gateway: its answer is not JSON.") from None


def _error(answer: Any) -> CliError:
    try:
        body = answer.json()
        sentence = str(body["message"])
    except (ValueError, KeyError, TypeError):
        return CliError(f"{answer.url} answered {answer.status_code}, and not as a Headgate gateway does.")
    if body.get("code") == "USER_LIMIT_EXCEEDED":
        sentence = _upsell(sentence, body)
    elif body.get("accepted") == "unknown":
        sentence += f" See with: headgate status {body.get('requestId')}"
    return CliError(sentence, body)


def _upsell(sentence: str, body: Mapping[str, Any]) -> str:
    text = f"{sentence} ({body.get('currentUsage')}); more at {body.get('resetTime')}."
    if body.get("nextTier"):
        text += f" The {body['nextTier']} tier gives {body['nextTierLimit']} for {body['price']}."
        text += f" Upgrade at {body['upgradeUrl']}" if body.get("upgradeUrl") else ""
    return text


Connect = Callable[[argparse.Namespace], Client]
"""Makes the client that a command's options ask for."""
