"""Kill -9 of each process in turn, under load: nothing accepted is lost, counted twice or left held."""

from __future__ import annotations

import json
import shutil
import urllib.request
from collections.abc import Iterator

import pytest

from tests.chaos.checker import Checker
from tests.chaos.load import Load
from tests.e2e.stack import Stack, Stacks, eventually

VICTIMS = ("gateway", "quota", "scheduler", "generator-1", "generator-2", "valkey")


@pytest.fixture
def stacks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stacks]:
    started = Stacks(tmp_path_factory.mktemp("chaos"))
    try:
        yield started
    finally:
        started.stop_all()


def a_stack(stacks: Stacks) -> Stack:
    return stacks.start(
        HEADGATE_GENERATORS="2", HEADGATE_PROVIDER_RPM="1200", HEADGATE_EMULATOR_FIRST_TOKEN_MS="400",
        HEADGATE_EMULATOR_TOKENS_PER_SECOND="60",
    )  # fmt: skip


def settle_and_check(stack: Stack, load: Load, *, bill: bool) -> None:
    checker = Checker(stack.data_dir)
    assert load.refusals == []
    eventually(lambda: checker.open_requests() == 0, within_s=60, what="every accepted request ends")
    # A reservation whose Submit never came is asked about after a minute.
    eventually(lambda: checker.unsettled() == 0, within_s=90, what="nothing stays held")
    checker.check(load.journal)
    if bill:
        with urllib.request.urlopen(f"{stack.emulator_url}/_emulator/calls?limit=0", timeout=10) as answer:
            checker.check_bill(json.loads(answer.read())["totals"])


@pytest.mark.timeout(400)
def test_each_process_killed_in_turn(stacks: Stacks) -> None:
    stack = a_stack(stacks)
    with Load(stack, stack.demo_keys["enterprise"]) as load:
        for victim in VICTIMS:
            before = load.accepted
            eventually(lambda before=before: load.accepted >= before + 6, within_s=60, what="load before the kill")
            if victim == "valkey":
                shutil.rmtree(stack.data_dir / "valkey", ignore_errors=True)
            stack.restarted(victim, stack.kill(victim))
    settle_and_check(stack, load, bill=True)
    assert load.accepted >= 6 * len(VICTIMS)


@pytest.mark.timeout(400)
def test_everything_killed_at_once_and_started_again(stacks: Stacks) -> None:
    stack = a_stack(stacks)
    with Load(stack, stack.demo_keys["enterprise"]) as load:
        eventually(lambda: load.accepted >= 15, within_s=60, what="load before the kill")
        stack.parent.kill()
        stack.ended(15)
        again = stacks.start(
            stack.data_dir, HEADGATE_HTTP_PORT=str(stack.port), HEADGATE_GENERATORS="2", HEADGATE_PROVIDER_RPM="1200"
        )
        before = load.accepted
        eventually(lambda: load.accepted >= before + 5, within_s=60, what="load after the start")
    settle_and_check(again, load, bill=False)
