"""A private Valkey for the tests of one process, emptied before each test that asks for it.

It listens on a socket file in a folder of its own and dies with the process that started it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import redis

from services import tether as tether_module
from services.valkey import find_server

START_DEADLINE_S = 20


@dataclass
class ValkeyServer:
    """A server that can be killed and started again on its own data."""

    folder: Path
    options: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """How clients reach it."""
        return f"unix://{self.folder}/valkey.sock"

    def client(self) -> redis.Redis:
        """A plain client for looking at what is there."""
        return redis.Redis.from_url(self.url, decode_responses=True)

    def start(self) -> None:
        """Starts it and returns once it answers."""
        program = os.environ.get("HEADGATE_TEST_VALKEY") or find_server()
        command = [program, "--port", "0", "--unixsocket", f"{self.folder}/valkey.sock", "--dir", str(self.folder)]
        command += ["--appendonly", "yes", "--appendfsync", "always", "--save", "", *self.options]
        tether = [sys.executable, "-I", "-S", tether_module.__file__, str(os.getpid())]
        self.process = subprocess.Popen([*tether, *command], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + START_DEADLINE_S
        while True:
            try:
                self.client().ping()
                return
            except redis.RedisError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise
                os.sched_yield()

    def kill(self) -> None:
        """Kills it as a power cut would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None

    def pause(self) -> None:
        """Stops it in its tracks, as a machine that swaps does: it keeps its connections and answers nobody."""
        if self.process is not None:
            self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets it go on where it stood."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)

    def lose_data(self) -> None:
        """Deletes everything it wrote; only while it is down."""
        for child in self.folder.iterdir():
            if child.is_dir():
                shutil.rmtree(child)
            else:
                child.unlink()


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[ValkeyServer]:
    """One server for all tests of this process."""
    server = ValkeyServer(Path(tempfile.mkdtemp(prefix="headgate-valkey-")))
    server.start()
    yield server
    server.kill()
    shutil.rmtree(server.folder, ignore_errors=True)


@pytest.fixture
def valkey(valkey_server: ValkeyServer) -> ValkeyServer:
    """The shared server, empty."""
    valkey_server.client().flushall()
    return valkey_server


@pytest.fixture
def own_valkey() -> Iterator[ValkeyServer]:
    """A server of this test alone, to be killed and robbed of its data."""
    server = ValkeyServer(Path(tempfile.mkdtemp(prefix="headgate-valkey-")))
    server.start()
    yield server
    server.kill()
    shutil.rmtree(server.folder, ignore_errors=True)
