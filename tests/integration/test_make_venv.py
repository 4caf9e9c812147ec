"""The first thing that runs after a clone: the environment is made, kept, mended, and its mistakes are sentences."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tools" / "make_venv.py"
ANOTHER_VERSION = """
import runpy, sys
sys.version_info = (3, 9, 1)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "lock.txt").write_text("# nothing\n")
    return tmp_path


def start(place: Path, *before: str, path: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, *before, str(SCRIPT), ".venv", "lock.txt", ".venv/stamp"]
    environ = {"PATH": "/usr/bin:/bin", "PYTHONPATH": path}
    return subprocess.Popen(
        command, cwd=place, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )  # fmt: skip


def make(place: Path, *before: str, path: str = "") -> tuple[int, str, str]:
    process = start(place, *before, path=path)
    out, err = process.communicate(timeout=100)
    return process.returncode, out, err


def test_is_made_once_brought_up_when_the_lock_changes_and_made_anew_when_it_is_broken(place: Path) -> None:
    status, out, err = make(place)
    assert (status, out) == (0, "Making .venv from lock.txt, once; this takes half a minute.\n"), err
    assert make(place)[:2] == (0, "")
    (place / "lock.txt").write_text("# something else\n")
    assert make(place)[:2] == (0, "Bringing .venv up to lock.txt.\n")
    assert make(place)[:2] == (0, "")
    (place / ".venv" / "bin" / "python").unlink()
    assert make(place)[:2] == (0, "Making .venv from lock.txt, once; this takes half a minute.\n")


def test_two_that_start_at_once_take_turns(place: Path) -> None:
    both = [start(place) for _ in range(2)]
    outputs = [process.communicate(timeout=100) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert sorted(out for out, _ in outputs) == ["", "Making .venv from lock.txt, once; this takes half a minute.\n"]


def test_a_python_that_is_too_old_is_named(place: Path) -> None:
    status, out, err = make(place, "-c", ANOTHER_VERSION)
    assert (status, out) == (2, "")
    assert err.startswith("Headgate needs Python 3.11 or newer, but ")
    assert err.count("\n") == 1


def test_a_missing_venv_module_comes_with_the_command_that_brings_it(place: Path) -> None:
    (place / "venv.py").write_text("raise SystemExit('no ensurepip')\n")
    status, out, err = make(place, path=str(place))
    assert status == 2
    assert err == (
        "Python's venv module does not work here: on Debian and Ubuntu, `apt-get install python3-venv` brings it.\n"
    )
    assert not (place / ".venv").exists()


def test_a_lock_without_hashes_is_refused(place: Path) -> None:
    (place / "lock.txt").write_text("anyio==4.0\n")
    status, _, err = make(place)
    assert status == 2
    assert "The packages of lock.txt could not be installed: pip says why above." in err
    assert not (place / ".venv" / "stamp").exists()
