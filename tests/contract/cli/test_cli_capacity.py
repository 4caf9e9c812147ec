"""`headgate capacity` against a real gateway before a scripted scheduler."""

from __future__ import annotations

import json

import grpc
import pytest

from services.cli.__main__ import main
from services.cli.capacity import bar, picture
from tests.servers.command import run
from tests.servers.gateway import Running, scheduler_refusal


async def test_a_bar_is_drawn_for_each_limit(gateway: Running, capsys: pytest.CaptureFixture[str]) -> None:
    assert await run("capacity") == 0
    assert capsys.readouterr().out == (
        "opus\n"
        "  tokens/min        ░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░   0% of 10 (header), peak 0%\n"
        "\n"
        "sonnet\n"
        "  requests/min      ██████████████████████████░▌░░  85% of 100 (plan), peak 92%, 3 refused, full on 2026-01-01"
        " if it grows on\n"
        "  requests/day      █░░░░░░░░░░░░░░░░░░░░░░░░░░░░░   1% of 36,000 (override), peak 1%\n"
        "  Go to plan start.\n"
    )


async def test_capacity_for_programs(gateway: Running, capsys: pytest.CaptureFixture[str]) -> None:
    assert await run("capacity", "--json") == 0
    assert json.loads(capsys.readouterr().out)["pools"][1]["limits"][0]["used"] == 85


async def test_the_plan_is_switched(gateway: Running, capsys: pytest.CaptureFixture[str]) -> None:
    assert await run("capacity", "use", "5x") == 0
    assert capsys.readouterr().out == "Provider plan: 20x → 5x\n"
    (sent,) = gateway.scheduler.named("SetProviderPlan")
    assert (sent.name, list(sent.overrides), sent.keep_overrides) == ("5x", [], True)


async def test_an_unknown_plan_is_said(gateway: Running, capsys: pytest.CaptureFixture[str]) -> None:
    refusal = scheduler_refusal("INVALID_REQUEST", grpc.StatusCode.INVALID_ARGUMENT, "There is no provider plan 'x'.")
    gateway.scheduler.refusals["SetProviderPlan"] = refusal
    assert await run("capacity", "use", "x") == 1
    assert "There is no provider plan 'x'." in capsys.readouterr().err


async def test_a_pool_is_stopped_and_resumed(gateway: Running, capsys: pytest.CaptureFixture[str]) -> None:
    assert await run("capacity", "pause", "opus") == 0
    assert await run("capacity", "resume", "opus", "--json") == 0
    assert capsys.readouterr().out == 'Pool opus stands still until it is resumed\n{"pool": "opus"}\n'
    assert [one.pool for one in gateway.scheduler.named("PausePool", "ResumePool")] == ["opus", "opus"]


@pytest.mark.parametrize("arguments", [("use",), ("stop", "opus")])
def test_what_cannot_be_run_is_a_mistake_of_use(arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["capacity", "--key", "k", *arguments])
    assert raised.value.code == 2


@pytest.mark.parametrize(("used", "peak"), [(0, 0), (0, 1), (1, 1), (100, 100), (250, 300), (99, 100)])
def test_a_bar_is_always_as_long(used: int, peak: int) -> None:
    assert len(bar(used, peak, 100)) == 30


def test_no_pool_is_said() -> None:
    assert picture({"pools": [], "advice": None}) == "No pool can be read at the moment."
