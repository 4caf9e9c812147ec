"""Keeps the scheduler of a release, which tests run beside the one of today.

Usage: python tools/keep_release.py COMMIT

Writes tests/releases/scheduler-VERSION.zip and removes the one before: what is promised is one version back. The
same commit gives the same bytes; it is the archive's comment.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

RELEASES = Path("tests/releases")
KEPT = ("services/scheduler", "services/rpc", "config", "protos/headgate")
"""And the modules that lie in services/ itself."""
SUFFIXES = (".py", ".lua", ".yaml")


def keeps(name: str) -> bool:
    """Whether a scheduler needs that file to run."""
    path = Path(name)
    return path.suffix in SUFFIXES and (name.startswith(tuple(f"{f}/" for f in KEPT)) or str(path.parent) == "services")


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], capture_output=True, check=True).stdout


def keep(commit: str, folder: Path) -> Path:
    """Writes the archive of a commit into the folder, in place of any other."""
    whole = _git("rev-parse", f"{commit}^{{commit}}").decode().strip()
    version = tomllib.loads(_git("show", f"{whole}:pyproject.toml").decode())["project"]["version"]
    names = _git("ls-tree", "-r", "--name-only", whole).decode().splitlines()
    folder.mkdir(parents=True, exist_ok=True)
    for other in folder.glob("scheduler-*.zip"):
        other.unlink()
    target = folder / f"scheduler-{version}.zip"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in filter(keeps, names):
            # One folder for all of it, as in the wheel; no date, or no two archives would be the same.
            archive.writestr(zipfile.ZipInfo(name.removeprefix("protos/")), _git("show", f"{whole}:{name}"),
                             zipfile.ZIP_DEFLATED, 9)  # fmt: skip
        archive.comment = whole.encode()
    return target


if __name__ == "__main__":
    print(keep(sys.argv[1], RELEASES))
