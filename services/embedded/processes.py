"""The record of what runs on a data folder, so that a later start stops exactly what an earlier one left."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

STOP_S = 3.0
"""What a left-over gets between SIGTERM and SIGKILL."""
SAME_START_S = 1.5
"""Start times are derived from the time of boot, which moves when the clock is set."""


@dataclass(frozen=True)
class Running:
    """One process, known by more than its number: numbers are used again."""

    pid: int
    started: float
    command: list[str]

    @classmethod
    def of(cls, pid: int, command: Sequence[str]) -> Running | None:
        """The process as it is now; None if it is gone already."""
        try:
            return cls(pid, psutil.Process(pid).create_time(), list(command))
        except psutil.NoSuchProcess:
            return None

    def process(self) -> psutil.Process | None:
        """The process if it still is the one that was recorded."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < SAME_START_S and process.cmdline() == self.command
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.Error:
            return None


@dataclass
class Record:
    """Who owns the data folder, and the children it started; kept in a file."""

    owner: Running | None = None
    stop_with: Running | None = None
    """The process whose end ends the owner too (make)."""
    stopping: bool = False
    children: dict[str, Running] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Record:
        """What the file says; an empty record if it is missing or damaged."""
        try:
            found = json.loads(path.read_text())
            children = {name: Running(**child) for name, child in found["children"].items()}
            owner, stop_with = (Running(**found[key]) if found[key] else None for key in ("owner", "stop_with"))
            return cls(owner, stop_with, found["stopping"], children)
        except (OSError, ValueError, TypeError, KeyError):
            return cls()

    def write(self, path: Path) -> None:
        """Replaces the file at once."""
        beside = path.with_suffix(".new")
        beside.write_text(json.dumps(asdict(self), indent=1))
        os.replace(beside, path)

    @property
    def owner_leaves(self) -> bool:
        """Whether the owner is gone or about to go."""
        orphaned = self.stop_with is not None and self.stop_with.process() is None
        return self.stopping or orphaned or self.owner is None or self.owner.process() is None


def stop_leftovers(record: Record) -> list[str]:
    """Stops the recorded children that still run; returns their names. They get a moment, then SIGKILL."""
    left = {name: process for name, child in record.children.items() if (process := child.process())}
    for process in left.values():
        _signal(process.terminate)
    _, stubborn = psutil.wait_procs(list(left.values()), timeout=STOP_S)
    for process in stubborn:
        _signal(process.kill)
    psutil.wait_procs(stubborn, timeout=STOP_S)
    return sorted(left)


def _signal(send: object) -> None:
    try:
        send()  # type: ignore[operator]
    except psutil.NoSuchProcess:
        pass
