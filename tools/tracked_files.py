"""Looks through the tracked files for what must not be in a public tree, and checks the lock files.

Usage: python tools/tracked_files.py

No package registry's host (a mirror must work too) and no path of the machine the text was
written on; and everything pyproject.toml asks for is locked, at a version it allows.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# Written in halves, or this file would find itself.
HOSTS = re.compile("|".join(("pypi" + r"\.org", "python" + "hosted", "registry" + r"\.npmjs", "deb" + r"\.debian")))
PLACES = re.compile(r"(?<![\w.$}/])/(?:" + "|".join(("root", "home", "work", "Users")) + r")/\w")
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)


def strays(name: str, text: str) -> list[str]:
    """One line for each place in `text` that names a registry or a place of this machine."""
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if HOSTS.search(line):
            rows.append(f"{name}:{number} names a package registry")
        if PLACES.search(line):
            rows.append(f"{name}:{number} names a place of one machine")
    return rows


def unlocked(wanted: list[str], lock: str) -> list[str]:
    """One line for each requirement that the lock does not meet."""
    pins = {canonicalize_name(name): version for name, version in PIN.findall(lock)}
    rows = []
    for text in wanted:
        requirement = Requirement(text)
        version = pins.get(canonicalize_name(requirement.name))
        if version is None:
            rows.append(f"{requirement.name} is not locked")
        elif not requirement.specifier.contains(version, prereleases=True):
            rows.append(f"{requirement.name} is locked at {version}, which is not {requirement.specifier}")
    return rows


def tracked() -> list[Path]:
    """The files git knows."""
    listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True, check=True, text=True).stdout
    return [Path(name) for name in listed.split("\0") if name]


def main() -> int:
    rows: list[str] = []
    for path in tracked():
        try:
            rows += strays(str(path), path.read_text())
        except (UnicodeDecodeError, FileNotFoundError):
            continue
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    runtime = project["dependencies"]
    everything = runtime + project["optional-dependencies"]["dev"]
    for wanted, lock in ((runtime, "requirements.txt"), (everything, "requirements-dev.txt")):
        rows += [f"{lock}: {row}: run `make lock`" for row in unlocked(wanted, Path(lock).read_text())]
    for row in rows:
        print(row)
    return 1 if rows else 0


if __name__ == "__main__":
    sys.exit(main())
