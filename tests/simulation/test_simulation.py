"""The scheduler's promises in virtual time: seeded loads, seeded faults at every await point, an independent checker.

What runs is production's: the mains of quota and scheduler, their servicers and loops, redis-py and the Lua on a real
Valkey, the SQL on SQLite, the generated gRPC stubs, the gateway's hub of events. What is replaced stands below them:
time (`loop.py`), sockets (`valkey.py`, `network.py`), threads (`stores.py`), the Claude API (`provider.py`). So each
await of the product is a point where `faults.py` may lose, double, delay or kill; `scenario.py` says what a seed
stands for, `checker.py` and `order.py` hold what is left against every bold sentence of the design.

A run is a function of its seed (and of PYTHONHASHSEED, so each test starts `python -m tests.simulation`): `make sim
SEED=7` replays one, `make sim SEEDS=1000` runs many, and a seed that failed prints its faults and its history.

Broken on purpose, each by itself (`mutations.py`), and what noticed it:

    skip the fence                       a cancelled request was completed by an attempt that had been lost
    begin whatever the state is          cancelled requests ran
    forget a release                     requests that never ended: leases filled every slot
    max_tokens as the estimate           0.74 of the output limit was used while work waited
    drop the outbox row                  answers that nobody paid, places that stayed reserved
    expire a reservation by time         completed requests whose place had been given to another
    count whatever was cancelled         a cancelled request that had shown nothing took a place
    old copy of valkey answers           event numbers that were given twice
    number events anew after a rebuild   users who were never told the end: its number was one they had seen
    show what a late worker says         output of an attempt that was over
    no sweep of leases, missing, untold  requests and ends that stayed for ever
    no sweep of deadlines                requests that began after their deadline
    take estimates for the truth         neighbours 157 provider-seconds apart where 71 are allowed
    serve tiers alike                    tiers 20 provider-seconds a share apart where 12 are allowed
    send a little faster than allowed    11 of 85 calls refused
    tell no pool what was spent          a request that was begun seconds after the limit was reached
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.mutations import NAMES, SPENDING

ROOT = Path(__file__).parents[2]
SEEDS = 18
A_TEST = 3
"""Seeds of one test: some ten seconds."""
GROUPS = 6
"""Tests that share the mutations: starting a process for each would take as long as its run."""


def simulate(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.simulation", *options]
    env = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": f"{ROOT}:{ROOT / 'protos'}"}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=110)


@pytest.mark.parametrize("first", range(0, SEEDS, A_TEST))
def test_every_promise_holds_in_every_seed(first: int) -> None:
    done = simulate("--seeds", f"{first}-{first + A_TEST - 1}")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_seed_replays_exactly() -> None:
    """In another process, too: the history's hash is the same."""
    digests = [re.findall(r"^digest .*$", simulate("--seeds", "3", "--digests").stdout, re.MULTILINE) for _ in "ab"]
    assert len(digests[0]) == 1
    assert digests[0] == digests[1]


def test_nothing_goes_beyond_a_spend_limit() -> None:
    done = simulate("--control", "--noticed", SPENDING)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("group", range(GROUPS))
def test_what_is_broken_is_noticed(group: int) -> None:
    names = NAMES[group::GROUPS]
    # Each where it is needed: `--control` shows that the same runs break nothing by themselves.
    done = simulate("--noticed", *names)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("noticed: ") == len(names)
