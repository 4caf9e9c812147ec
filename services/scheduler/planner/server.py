"""A Valkey of our own for as long as it is needed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis, RedisError

from services import tether, valkey
from services.process import StartError

START_S = 20.0


@contextmanager
def private_valkey() -> Iterator[str]:
    """Its URL; it and its folder are gone afterwards, and it cannot outlive us."""
    folder = Path(tempfile.mkdtemp(prefix="headgate-plan-"))
    try:
        socket = folder / "valkey.sock"
        # Logs of two events that live for a minute: 4 KB each is what Valkey would lay out for them.
        command = (*valkey.command(valkey.find_server(), socket, folder), "--stream-node-max-bytes", "128")
        tied = [sys.executable, "-I", "-S", str(tether.__file__), str(os.getpid()), *command]
        process = subprocess.Popen(tied, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            _until_up(f"unix://{socket}", process)
            yield f"unix://{socket}"
        finally:
            process.kill()
            process.wait(10)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _until_up(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    with Redis.from_url(url) as client:
        while True:
            try:
                client.ping()
                return
            except RedisError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise StartError("The private Valkey did not start: give --valkey URL to use another.") from None
                time.sleep(0.02)
