"""One child process: how it is started, found out about and stopped."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from services import tether

TETHER = Path(tether.__file__)
LOG_BYTES = 8 * 1024 * 1024
"""Size at which a log is set aside; with the one set aside a child's logs take twice this at most."""


@dataclass(frozen=True)
class ChildSpec:
    """What to run and how to tell that it is up."""

    name: str
    command: tuple[str, ...]
    environ: Mapping[str, str] = field(repr=False)
    probe: str
    """Where to ask whether it is up: see `probes`."""
    stop_rank: int
    """Children of a lower rank are stopped, and gone, before those of a higher one."""
    stop_by_s: float
    """When it is killed, counted from the beginning of the stop: what earlier ranks did not use is its own."""
    folder: Path | None = None
    """Working data that is made if it is missing; it can be rebuilt, so it is set aside when the child cannot start."""


class Child:
    """A running process of ours."""

    def __init__(self, spec: ChildSpec, log: Path, process: asyncio.subprocess.Process, log_from: int) -> None:
        self.spec = spec
        self._log = log
        self._log_from = log_from
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ended(self) -> int:
        """Waits for its end; returns the exit status, negative for a signal."""
        return await self._process.wait()

    async def stop(self, grace_s: float) -> bool:
        """SIGTERM, then SIGKILL for it and all it started; returns whether it went by itself in time."""
        self._signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self.ended(), grace_s)
            return True
        except TimeoutError:
            self.kill()
            await self.ended()
            return False

    def kill(self) -> None:
        """SIGKILL for it and all it started."""
        self._signal(signal.SIGKILL)

    def last_words(self) -> str:
        """The last line that this run wrote to its log."""
        with self._log.open("rb") as file:
            file.seek(max(self._log_from, file.seek(0, os.SEEK_END) - 4096))
            lines = file.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is not None:
            return
        try:
            # It leads a session of its own (so that Ctrl-C reaches only us), hence also a group.
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            pass


async def start(spec: ChildSpec, logs: Path) -> Child:
    """Starts it, its output going to a log of its own."""
    log = logs / f"{spec.name}.log"
    bound(log)
    if spec.folder:
        spec.folder.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", str(TETHER), str(os.getpid()), *spec.command,
            env=dict(spec.environ), stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True,
        )  # fmt: skip
        return Child(spec, log, process, output.tell())


def bound(log: Path) -> None:
    """Sets a large log aside. Its writer appends to what is then an empty file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > LOG_BYTES:
        shutil.copyfile(log, log.with_suffix(".log.1"))
        os.truncate(log, 0)
