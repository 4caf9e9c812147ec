"""The scheduler's promises in virtual time: seeded loads, seeded faults at every await point, an independent checker.

What runs is production's: the mains of quota and scheduler, their servicers and loops, redis-py and the Lua on a real
Valkey, the SQL on SQLite, the generated gRPC stubs, the gateway's hub of events. What is replaced stands below them:
sockets (`valkey.py`, `network.py`), threads (`stores.py`), time (`loop.py`), the Claude API (`provider.py`).

A run is a function of its seed: `make sim SEED=7` replays one, `make sim SEEDS=1000` runs many. Each seed runs in a
process of its own kind (PYTHONHASHSEED is part of a run), so these tests start `python -m tests.simulation`.

Broken on purpose, each by itself, and caught (`test_what_is_broken_is_noticed`; the reasons are the checker's words):
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.mutations import NAMES

ROOT = Path(__file__).parents[2]
SEEDS = 32
A_TEST = 4
"""Seeds of one test: about as many seconds."""


def simulate(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.simulation", *options]
    env = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": f"{ROOT}:{ROOT / 'protos'}"}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=110)


@pytest.mark.parametrize("first", range(0, SEEDS, A_TEST))
def test_every_promise_holds_in_every_seed(first: int) -> None:
    done = simulate("--seeds", f"{first}-{first + A_TEST - 1}")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_seed_replays_exactly() -> None:
    digests = [re.findall(r"^digest .*$", simulate("--seeds", "5-6", "--digests").stdout, re.MULTILINE) for _ in "ab"]
    assert len(digests[0]) == 2
    assert digests[0] == digests[1]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_broken_is_noticed(name: str) -> None:
    done = simulate("--seeds", "0-11", "--mutation", name, "--brief")
    assert "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
    assert done.returncode == 1, f"nobody noticed: {name}"
    assert "BROKEN" in done.stdout
