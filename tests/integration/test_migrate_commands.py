"""The migrate commands, with nothing but what the manifests give them."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def migrate(service: str, url: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", f"services.{service}", "migrate"]
    environ = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protos'}",
        "HEADGATE_DATABASE_URL": url,
    }
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("service", ["quota", "scheduler"])
def test_it_makes_the_schema_and_may_be_repeated(service: str, tmp_path: Path) -> None:
    for _ in range(2):
        done = migrate(service, f"sqlite:///{tmp_path / 'data.db'}")
        assert done.returncode == 0, done.stderr
    with sqlite3.connect(tmp_path / "data.db") as connection:
        assert connection.execute(f"SELECT count(*) FROM {service}_version").fetchone() == (1,)


@pytest.mark.parametrize("service", ["quota", "scheduler"])
def test_a_database_that_cannot_be_used_is_named_in_one_sentence(service: str, tmp_path: Path) -> None:
    done = migrate(service, f"sqlite:///{tmp_path / 'missing' / 'data.db'}")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"headgate-{service}: HEADGATE_DATABASE_URL")
    assert "Traceback" not in done.stderr
