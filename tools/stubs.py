"""Generates the Python stubs of every contract in protos/, or checks that those there are fresh.

Usage: python tools/stubs.py write|check
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

PROTOS = Path("protos")


def generate(out: Path) -> None:
    """Writes the stubs of all contracts under `out`, in the folders of their packages."""
    outputs = [f"--{kind}_out={out}" for kind in ("python", "pyi", "grpc_python", "mypy_grpc")]
    contracts = [str(path) for path in sorted(PROTOS.rglob("*.proto"))]
    # protoc finds the mypy plugin by PATH; it lies beside this interpreter.
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", *outputs, *contracts]
    subprocess.run(command, check=True, env={"PATH": path})


def stubs_under(folder: Path) -> dict[Path, str]:
    """The generated files below `folder`, by their path in it."""
    files = [path for pattern in ("*_pb2*.py", "*_pb2*.pyi") for path in folder.rglob(pattern)]
    return {path.relative_to(folder): path.read_text() for path in files}


def stale() -> list[str]:
    """One line for each stub that is missing, left over or different."""
    with tempfile.TemporaryDirectory() as fresh:
        generate(Path(fresh))
        wanted, present = stubs_under(Path(fresh)), stubs_under(PROTOS)
    lines = [f"{PROTOS / path} is missing" for path in sorted(wanted.keys() - present.keys())]
    lines += [f"{PROTOS / path} belongs to no contract" for path in sorted(present.keys() - wanted.keys())]
    both = sorted(wanted.keys() & present.keys())
    return lines + [f"{PROTOS / path} is stale" for path in both if wanted[path] != present[path]]


def main(action: str) -> int:
    if action == "write":
        generate(PROTOS)
        return 0
    lines = stale()
    for line in lines:
        print(line)
    if lines:
        print("Run `make protos` and commit what it writes.")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
