"""What the benchmarks in real time stand on: all of Headgate, a strict upstream behind it, its users in front."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from websockets.asyncio.client import connect

from benchmarks.book import Call
from benchmarks.http_load import post
from tests.e2e.stack import Stack, Stacks, environment, eventually, free_port

USERS = 20
"""Of the highest tier, each with a socket that watches all they asked for."""
INSTANT = {"HEADGATE_EMULATOR_FIRST_TOKEN_MS": "20", "HEADGATE_EMULATOR_TOKENS_PER_SECOND": "1000000"}
"""Answers that take no time: what is measured is who may call when."""


class Upstream:
    """The stand-in's side door."""

    def __init__(self, url: str) -> None:
        self.url = url

    def forget(self) -> None:
        """Empties the book."""
        self._ask("DELETE", "calls")

    def change(self, **limits: int) -> None:
        """Sets limits as the provider would: at once, told by nothing but the headers of answers."""
        self._ask("PUT", "limits", limits)

    def share(self, part: float) -> None:
        """Lets somebody else use that part of every limit."""
        self._ask("PUT", "foreigner", {"share": part})

    def calls(self) -> list[Call]:
        """The book."""
        return [Call.of(noted) for noted in self._ask("GET", "calls")["calls"]]

    def _ask(self, method: str, what: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        call = urllib.request.Request(f"{self.url}/_emulator/{what}", data=data, method=method)
        with urllib.request.urlopen(call, timeout=30) as answer:
            return json.loads(answer.read())


@dataclass
class Answers:
    """What users who all asked at once got."""

    asked: int
    begun_s: float
    """Since 1970, as the book's times."""
    answered_s: list[float] = field(default_factory=list)
    """Since the beginning, for each that was completed."""
    failed: int = 0
    sent_again: int = 0
    """Submits that were answered with an error."""
    cpu_s: dict[str, float] = field(default_factory=dict)
    """Of the clients and of what stands between them and the upstream, by process."""

    @property
    def last_s(self) -> float:
        """When the last answer was there."""
        return max(self.answered_s, default=0.0)


class System:
    """A running Headgate with users."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.upstream = Upstream(stack.emulator_url)
        created = [stack.request("POST", "/api/admin/users", {"tier": "enterprise"}, admin=True) for _ in range(USERS)]
        self._keys = [str(user["apiKey"]) for _, user in created]

    def ask(self, prompts: Sequence[str], within_s: float) -> Answers:
        """Sends all prompts at once, and waits for the answers or that long."""
        children = {name: child for name, child in self.stack.children().items() if name != "emulator"}
        before, begun_cpu_s = {name: cpu_s(child) for name, child in children.items()}, time.process_time()
        answers = Answers(len(prompts), time.time())
        asyncio.run(self._all(prompts, answers, within_s))
        answers.cpu_s = {name: cpu_s(child) - before[name] for name, child in children.items()}
        answers.cpu_s["clients"] = time.process_time() - begun_cpu_s
        return answers

    async def _all(self, prompts: Sequence[str], answers: Answers, within_s: float) -> None:
        parts = [(key, prompts[i :: len(self._keys)]) for i, key in enumerate(self._keys)]
        try:
            async with asyncio.timeout(within_s):
                await asyncio.gather(*(self._user(key, part, answers) for key, part in parts if part))
        except TimeoutError:
            pass

    async def _user(self, key: str, prompts: Sequence[str], answers: Answers) -> None:
        url, waiting = f"ws://127.0.0.1:{self.stack.port}/ws", len(prompts)
        async with connect(url, compression=None, ping_interval=None, max_queue=None) as socket:
            await socket.send(json.dumps({"type": "auth", "apiKey": key}))

            async def submit(prompt: str) -> None:
                request_id = await self.submit(key, prompt, answers)
                await socket.send(json.dumps({"type": "subscribe", "requestId": request_id}))

            submits = [asyncio.create_task(submit(prompt)) for prompt in prompts]
            while waiting:
                kind = json.loads(await socket.recv())["type"]
                if kind == "completed":
                    answers.answered_s.append(time.time() - answers.begun_s)
                answers.failed += kind == "failed"
                waiting -= kind in ("completed", "failed")
            await asyncio.gather(*submits)

    async def submit(self, key: str, prompt: str, answers: Answers) -> str:
        """Sends one until it is accepted; its id."""
        body = json.dumps({"prompt": prompt, "options": {"maxTokens": 16_000}}).encode()
        headers = {"X_API_Key": key, "Idempotency_Key": prompt, "Connection": "close"}
        while True:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.stack.port)
            writer.write(post("/api/diagram/generate", body, **headers))
            head, _, answer = (await reader.read()).partition(b"\r\n\r\n")
            writer.close()
            if head.startswith(b"HTTP/1.1 202"):
                return str(json.loads(answer)["requestId"])
            # Overloaded: nothing was accepted, or nobody knows. The same key makes it the same request.
            answers.sent_again += 1
            await asyncio.sleep(1)


@contextmanager
def system(**variables: str) -> Iterator[System]:
    """All of Headgate, warm: it has drawn one diagram, and the upstream has forgotten that."""
    folder = Path(tempfile.mkdtemp(prefix="hg-bench-"))
    stacks = Stacks(folder)
    try:
        running = System(stacks.start(None, **variables))
        running.stack.draw(running.stack.demo_keys["enterprise"])
        running.upstream.forget()
        yield running
    finally:
        stacks.stop_all()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def stand_in(**variables: str) -> Iterator[Upstream]:
    """The upstream alone, for peers."""
    port = free_port()
    command = [sys.executable, "-P", "-m", "services.emulator"]
    environ = environment(HEADGATE_EMULATOR_PORT=str(port), **variables)
    process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL)
    try:
        eventually(lambda: listens(port), within_s=20, what="the stand-in")
        yield Upstream(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(10)


def listens(port: int) -> bool:
    """Whether somebody on this machine does."""
    return any(getattr(c.laddr, "port", 0) == port and c.status == "LISTEN" for c in psutil.net_connections("tcp"))


def cpu_s(process: psutil.Process) -> float:
    """Time that a process and its children have used."""
    total = 0.0
    for one in (process, *process.children(recursive=True)):
        times = one.cpu_times()
        total += times.user + times.system
    return total
