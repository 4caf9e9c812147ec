"""HEADGATE_MAX_SPEND_PER_DAY as its owner sets it: real processes, the emulator's answers, the emulator's bill."""

from __future__ import annotations

from typing import Any

from tests.e2e.stack import Stack, Stacks, eventually

SLOTS = 2


def states(stack: Stack, ids: list[str], key: str) -> list[dict[str, Any]]:
    return [stack.request("GET", f"/api/diagram/{request_id}", key=key)[1] for request_id in ids]


def test_requests_wait_at_the_limit_and_go_on_with_a_higher_one(stacks: Stacks) -> None:
    limits = {"HEADGATE_GENERATOR_SLOTS": str(SLOTS), "HEADGATE_PROVIDER_PLAN": "scale"}
    stack = stacks.start(HEADGATE_MAX_SPEND_PER_DAY="0.02", **limits)
    key = stack.demo_keys["pro"]
    ids = [stack.submit(f"How a user signs in, version {n}", key) for n in range(16)]
    # At once: they are accepted as ever.
    paused = eventually(
        lambda: [state for state in states(stack, ids, key) if state.get("paused") == "spend_limit"],
        within_s=60, what="requests that wait for the limit",
    )  # fmt: skip
    assert all(state["status"] == "queued" and 0 < state["estimatedWait"] <= 86_460_000 for state in paused)
    eventually(
        lambda: "processing" not in {state["status"] for state in states(stack, ids, key)},
        within_s=40, what="what ran is done",
    )  # fmt: skip
    log = (stack.data_dir / "logs" / "scheduler.log").read_text()
    assert "ALERT spend/site: The spend limit of the site, $0.02 a day, is reached" in log
    done = [state for state in states(stack, ids, key) if state["status"] == "completed"]
    costs = [state["costNanoUsd"] for state in done]
    assert 20_000_000 <= sum(costs) < 20_000_000 + SLOTS * max(costs)
    waiting = [state["requestId"] for state in states(stack, ids, key) if state["status"] == "queued"]
    assert waiting
    stack.stop()
    again = stacks.start(stack.data_dir, HEADGATE_MAX_SPEND_PER_DAY="99", **limits)
    for request_id in waiting:
        assert again.finished(request_id, key)["status"] == "completed"
