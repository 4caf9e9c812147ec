"""A switch of the provider plan where the emulator answers: it follows, or its headers would undo the switch."""

from __future__ import annotations

import contextlib
import json
import urllib.request
from typing import Any

from tests.e2e.stack import Stack, Stacks, eventually

FOLLOWS_S = 2.0
"""A second, and what a busy machine adds."""
SMALL, LARGE = 25, 100
"""Requests a minute of the plans 5x and 20x."""


def asked(stack: Stack, path: str) -> Any:
    with urllib.request.urlopen(f"{stack.emulator_url}/_emulator/{path}", timeout=10) as answer:
        return json.load(answer)


def switch(stack: Stack, **change: Any) -> None:
    status, now = stack.request("PUT", "/api/admin/provider-plan", change, admin=True)
    assert status == 200, now


def followed(stack: Stack, rpm: int, within_s: float = FOLLOWS_S) -> None:
    def allows() -> bool:
        # While it is started again nobody listens.
        with contextlib.suppress(OSError):
            return bool(asked(stack, "limits")["rpm"] == rpm)
        return False

    eventually(allows, within_s=within_s, what=f"the emulator allows {rpm}")


def in_force(stack: Stack, pool: str = "sonnet") -> tuple[int, str]:
    """Requests a minute of a pool, and who says so."""
    _, told = stack.request("GET", "/api/admin/capacity", admin=True)
    limits = next(one["limits"] for one in told["pools"] if one["pool"] == pool)
    return next((one["limit"], one["source"]) for one in limits if one["dimension"] == "requestsPerMinute")


def test_the_emulator_follows_a_switch_and_its_answers_do_not_undo_it(stacks: Stacks) -> None:
    stack = stacks.start()
    key = stack.demo_keys["enterprise"]
    stack.draw(key, "Before the switch")
    assert in_force(stack) == (LARGE, "header")

    switch(stack, plan="5x")
    assert in_force(stack) == (SMALL, "plan")
    followed(stack, SMALL)
    crowd = [stack.submit(f"Number {n} after the switch", key) for n in range(4)]
    assert {stack.finished(one, key)["status"] for one in crowd} == {"completed"}
    assert in_force(stack) == (SMALL, "header")

    switch(stack, plan="20x")
    followed(stack, LARGE)
    stack.draw(key, "After the switch back")
    assert in_force(stack) == (LARGE, "header")
    assert {call["status"] for call in asked(stack, "calls")["calls"]} == {200}


def test_the_plan_outlives_restarts_of_the_emulator_and_of_everything(stacks: Stacks) -> None:
    stack = stacks.start()
    switch(stack, plan="5x")
    followed(stack, SMALL)
    stack.restarted("emulator", stack.kill("emulator"))
    followed(stack, SMALL, within_s=20)
    assert stack.stop() == 0
    again = stacks.start(stack.data_dir)
    followed(again, SMALL)
    # One limit for all pools it follows, too; one of a single pool the scheduler keeps by itself.
    switch(again, requestsPerMinute=40)
    followed(again, 40)
    switch(again, pool="haiku", requestsPerMinute=10)
    again.draw(again.demo_keys["pro"], "With a limit set by hand")
    assert asked(again, "limits")["rpm"] == 40
    assert in_force(again) == (40, "override")
    assert in_force(again, "haiku") == (10, "override")
