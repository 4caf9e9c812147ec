"""Becomes another program that the kernel kills as soon as our parent is gone.

Usage: python -I -S tether.py PARENT_PID PROGRAM ARGUMENT…

The wish survives exec, so that a Valkey is tied to us as firmly as a Python process. It is a
program of its own because the interpreter may not run code between fork and exec safely once
gRPC has threads. Without Linux's prctl, the next start stops what was left.
"""

from __future__ import annotations

import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(parent: int, command: list[str]) -> None:
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # It may have died before the wish was made.
    if os.getppid() != parent:
        sys.exit(1)
    os.execv(command[0], command)  # noqa: S606


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
