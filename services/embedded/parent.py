"""The process that started us and takes us along when it goes: make."""

from __future__ import annotations

import os
import signal
from pathlib import Path

CHECK_S = 0.5


class Parent:
    """Watched because it passes on only SIGTERM: not its own sudden end, and not a SIGINT that only it was sent.

    A make that was interrupted waits for its children, with its handler for SIGINT taken away.
    Where there is no /proc, only its end is seen.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._caught_interrupts = _catches_interrupts(pid)

    def leaves(self) -> bool:
        """Whether it is gone or waits for us to go."""
        gone = os.getppid() != self._pid
        return gone or (self._caught_interrupts and not _catches_interrupts(self._pid))


def _catches_interrupts(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    caught = next((line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")), "0")
    return bool(int(caught, 16) >> (signal.SIGINT - 1) & 1)
