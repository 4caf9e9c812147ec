"""The data folder: who may use it now, the secrets and keys kept in it, and where everything else lies."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import tempfile
import time
from pathlib import Path
from typing import IO

from services.embedded.processes import Record, Running, stop_leftovers
from services.process import StartError

SOCKET_PATH_BYTES = 100
"""The kernel's limit for a socket's path is 108 bytes on Linux and 104 on macOS."""
LONGEST_SOCKET = "generator-64.sock"
TAKE_OVER_S = 15.0
"""A stop takes at most 10 s, so whoever is leaving has left by then."""


class DataFolder:
    """Opened by `open_folder`; belongs to this process until `close`."""

    def __init__(self, path: Path, lock: IO[str]) -> None:
        self.path = path
        self.record = Record()
        self.leftovers: list[str] = []
        """Names of what an earlier run had left and this one stopped."""
        self._lock = lock
        self._sockets: Path | None = None

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def valkey(self) -> Path:
        return self.path / "valkey"

    @property
    def admin_key_file(self) -> Path:
        return self.path / "admin.key"

    def take_over(self, owner: Running | None, stop_with: Running | None) -> None:
        """Stops what an earlier owner left and notes the new one."""
        record_file = self.path / "processes.json"
        self.leftovers = stop_leftovers(Record.read(record_file))
        self.record = Record(owner=owner, stop_with=stop_with)
        self.write_record()

    def write_record(self) -> None:
        """Brings the record on disk up to date."""
        self.record.write(self.path / "processes.json")

    def kept_secret(self, name: str) -> str:
        """The secret in the file `name` (readable by its owner only), made if there is none: 64 hex digits."""
        path = self.path / name
        if path.exists() and (text := path.read_text().strip()):
            return text
        text = secrets.token_hex(32)
        self._write_private(path, text + "\n")
        return text

    def demo_keys(self) -> dict[str, str]:
        """The demo keys of an earlier run, by tier; empty if there are none."""
        try:
            found = json.loads((self.path / "demo-keys.json").read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def keep_demo_keys(self, keys: dict[str, str]) -> None:
        """Keeps the keys for the next run."""
        self._write_private(self.path / "demo-keys.json", json.dumps(keys, indent=1) + "\n")

    def sockets(self) -> Path:
        """An empty private folder for sockets: here, or in the system's temporary folder if the path is too long."""
        here, note = self.path / "run", self.path / "sockets"
        earlier = Path(note.read_text().strip()) if note.exists() else None
        for old in {here, earlier} - {None}:
            if old == here or (old and old.name.startswith("headgate-")):
                shutil.rmtree(old, ignore_errors=True)
        if len(os.fsencode(here / LONGEST_SOCKET)) <= SOCKET_PATH_BYTES:
            note.unlink(missing_ok=True)
            here.mkdir(mode=0o700)
            self._sockets = here
            return here
        elsewhere = Path(tempfile.mkdtemp(prefix="headgate-"))
        note.write_text(f"{elsewhere}\n")
        self._sockets = elsewhere
        return elsewhere

    def close(self) -> None:
        """Removes the sockets and lets the next run in."""
        if self._sockets:
            shutil.rmtree(self._sockets, ignore_errors=True)
        (self.path / "sockets").unlink(missing_ok=True)
        self.record = Record()
        self.write_record()
        self._lock.close()

    @staticmethod
    def _write_private(path: Path, text: str) -> None:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)


def open_folder(path: Path) -> DataFolder:
    """Makes the folder if need be and takes its lock; `StartError` if that cannot be."""
    path = path.absolute()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = open(path / "lock", "a")  # noqa: SIM115
    except OSError as error:
        raise StartError(f"HEADGATE_DATA_DIR: {path} cannot be used: {error.strerror}.") from error
    deadline = time.monotonic() + TAKE_OVER_S
    while not _locked(lock):
        record = Record.read(path / "processes.json")
        if not record.owner_leaves or time.monotonic() > deadline:
            number = f" (process {record.owner.pid})" if record.owner else ""
            raise StartError(
                f"HEADGATE_DATA_DIR: {path} is in use by another Headgate{number}: "
                "stop that one, or name another folder and HEADGATE_HTTP_PORT."
            )
        time.sleep(0.1)
    return DataFolder(path, lock)


def _locked(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
