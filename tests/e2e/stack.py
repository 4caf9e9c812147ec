"""All of Headgate as its user starts it: one command, its own data folder, free ports.

    def test_something(stacks):
        stack = stacks.start(HEADGATE_GENERATORS="2", HEADGATE_EMULATOR_RPM="6000")
        stack.request("POST", "/api/diagram/generate", {"prompt": "…"}, key=stack.demo_keys["pro"])
        stack.kill("generator-1")

`stacks` (in conftest.py) stops what it started. Waiting is always for something that can be
seen, up to a deadline: `eventually`, `Stack.line`.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import psutil

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-P", "-m", "services.embedded")
START_S = 60.0
STOP_S = 10.0
"""What a stop may take: the promise of `make run`."""


def eventually(check: Callable[[], T], *, within_s: float, what: str = "") -> T:
    """The first true value of `check`; fails with `what` if there is none in time."""
    tick, deadline = threading.Event(), time.monotonic() + within_s
    while not (value := check()):
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what or check}"
        tick.wait(0.02)
    return value


def free_port() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(**variables: str) -> dict[str, str]:
    """This process's environment without any setting of Headgate, plus the given ones."""
    mine = ("HEADGATE_", "ANTHROPIC_", "OTEL_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(mine)}
    return {**inherited, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protos'}", **variables}


class Stack:
    """One run of it."""

    def __init__(
        self, data_dir: Path, *, variables: dict[str, str], command: tuple[str, ...] = COMMAND, cwd: Path = ROOT
    ) -> None:
        self.data_dir = data_dir
        wished = variables.get("HEADGATE_HTTP_PORT", "")
        self.port = int(wished) if wished.isdigit() else free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        emulator_port = variables.get("HEADGATE_EMULATOR_PORT") or str(free_port())
        self.emulator_url = f"http://127.0.0.1:{emulator_port}"
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        given = {
            "HEADGATE_DATA_DIR": str(data_dir), "HEADGATE_HTTP_PORT": str(self.port),
            "HEADGATE_EMULATOR_PORT": emulator_port, **variables,
        }  # fmt: skip
        self.process = subprocess.Popen(
            command, cwd=cwd, env=environment(**given), text=True, encoding="utf-8",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def output(self) -> str:
        """All it printed so far."""
        return "\n".join(self.lines)

    @property
    def admin_key(self) -> str:
        return (self.data_dir / "admin.key").read_text().strip()

    @property
    def demo_keys(self) -> dict[str, str]:
        """A key for each tier."""
        return dict(json.loads((self.data_dir / "demo-keys.json").read_text()))

    @property
    def parent(self) -> psutil.Process:
        """The process that keeps the others (make's child, if make started it)."""
        return psutil.Process(self._record()["owner"]["pid"])

    def children(self) -> dict[str, psutil.Process]:
        """The children that run now, by name: gateway, quota, scheduler, generator-1…, emulator, valkey."""
        found = {}
        for name, child in self._record()["children"].items():
            with contextlib.suppress(psutil.NoSuchProcess):
                found[name] = psutil.Process(child["pid"])
        return found

    def ready(self, within_s: float = START_S) -> Stack:
        """Waits for the ready line."""
        self.line(lambda line: line == f"ready {self.url}", within_s)
        return self

    def line(self, wanted: Callable[[str], bool], within_s: float) -> str:
        """The first line that is wanted, also among those already printed; fails if it ends before."""
        deadline = time.monotonic() + within_s
        with self._changed:
            while True:
                for line in self.lines:
                    if wanted(line):
                        return line
                left = deadline - time.monotonic()
                assert left > 0, f"not printed within {within_s:g} s; so far:\n{self.output}"
                assert not self._ended, f"it ended and printed only:\n{self.output}"
                self._changed.wait(left)

    def request(
        self, method: str, path: str, body: Any = None, *, key: str = "", admin: bool = False
    ) -> tuple[int, Any]:
        """Status and JSON of a call to the gateway, as a user or as the administrator."""
        headers = {"X-API-Key": key} if key else {}
        if admin:
            headers["Authorization"] = f"Bearer {self.admin_key}"
        data = None if body is None else json.dumps(body).encode()
        call = urllib.request.Request(self.url + path, data=data, headers=headers, method=method)
        try:
            with urllib.request.urlopen(call, timeout=40) as answer:
                return answer.status, _json(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, _json(error.read())

    def submit(self, prompt: str, key: str, within_s: float = 20.0) -> str:
        """Sends a request, again while the answer is that nothing was accepted or nobody answers; returns its id."""

        def sent() -> str | None:
            try:
                status, answer = self.request("POST", "/api/diagram/generate", {"prompt": prompt}, key=key)
            except (OSError, http.client.HTTPException):
                return None
            assert status in (202, 503), answer
            return str(answer["requestId"]) if status == 202 else None

        return eventually(sent, within_s=within_s, what=f"{prompt!r} is accepted")

    def finished(self, request_id: str, key: str, within_s: float = 40.0) -> dict[str, Any]:
        """The request's final state."""

        def state() -> dict[str, Any] | None:
            try:
                status, now = self.request("GET", f"/api/diagram/{request_id}?wait=1000", key=key)
            except (OSError, http.client.HTTPException):
                return None
            return now if status == 200 and now["status"] not in ("queued", "processing") else None

        return eventually(state, within_s=within_s, what=f"{request_id} ends")

    def draw(self, key: str, prompt: str = "How a user signs in") -> dict[str, Any]:
        """Submits and waits for the end."""
        return self.finished(self.submit(prompt, key), key)

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> psutil.Process:
        """Signals a child; returns the process that it was."""
        child = self.children()[name]
        child.send_signal(number)
        return child

    def restarted(self, name: str, old: psutil.Process, within_s: float = 20.0) -> psutil.Process:
        """The child that took the place of one that was killed."""
        return eventually(
            lambda: (now := self.children().get(name)) and now.pid != old.pid and now, within_s=within_s, what=name
        )

    def stop(self, number: signal.Signals = signal.SIGTERM, within_s: float = STOP_S) -> int:
        """Signals the process that was started and waits; returns its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.ended(within_s)

    def ended(self, within_s: float) -> int:
        """Waits until it has ended and its last line was read; returns its exit status."""
        status = self.process.wait(within_s)
        self._reader.join(within_s)
        return status

    def _record(self) -> dict[str, Any]:
        return dict(json.loads((self.data_dir / "processes.json").read_text()))

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode(errors="replace")


class Stacks:
    """Starts stacks and stops them all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[Stack] = []

    def launch(
        self, data_dir: Path | None = None, *, command: tuple[str, ...] = COMMAND, cwd: Path = ROOT, **variables: str
    ) -> Stack:
        """Starts one and does not wait for anything."""
        place = data_dir or self._folder / f"data-{len(self._started)}"
        stack = Stack(place, variables=variables, command=command, cwd=cwd)
        self._started.append(stack)
        return stack

    def start(self, data_dir: Path | None = None, **variables: str) -> Stack:
        """Starts one and waits until it is ready."""
        return self.launch(data_dir, **variables).ready()

    def stop_all(self) -> None:
        for stack in self._started:
            if stack.process.poll() is None:
                stack.process.terminate()
        for stack in self._started:
            try:
                stack.ended(STOP_S + 5)
            except subprocess.TimeoutExpired:
                stack.process.kill()
                raise
