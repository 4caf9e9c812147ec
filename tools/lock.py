"""Locks what pyproject.toml asks for, with hashes, for every platform and Python it allows.

Usage: python tools/lock.py [--upgrade]

The files name no registry, so that a mirror serves as well. They are "universal": markers
say what only some platforms or Pythons need, since a lock made for this machine alone would
lack a package on another (redis needs one more on Python 3.11.2, which is Debian 12's).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HEADER = "# Made by `make lock` from pyproject.toml; do not edit.\n"
COMPILE = ["pip", "compile", "--quiet", "--universal", "--python-version=3.11", "--generate-hashes", "--strip-extras"]
SILENT = ["--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links"]


def lock(output: str, *options: str) -> None:
    """Writes one lock file; what it already pins stays as it is unless `--upgrade` is among the options."""
    uv = str(Path(sys.executable).parent / "uv")
    subprocess.run([uv, *COMPILE, *SILENT, *options, "pyproject.toml", "--output-file", output], check=True)
    path = Path(output)
    path.write_text(HEADER + path.read_text().removeprefix(HEADER))


if __name__ == "__main__":
    lock("requirements.txt", *sys.argv[1:])
    lock("requirements-dev.txt", "--extra", "dev", "--constraint", "requirements.txt", *sys.argv[1:])
