"""`headgate usage` and `headgate users list` against a real gateway before scripted services."""

from __future__ import annotations

import json

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from headgate.quota.v1 import ledger_pb2 as pb

from services.cli.usage import plot
from services.money import dollars
from tests.servers.command import run
from tests.servers.gateway import NOW, Running

LATER = Timestamp(seconds=NOW.seconds + 3600)


def use(cost: int) -> pb.Use:
    return pb.Use(requests=1234, cached=5, input_tokens=10_000, output_tokens=1, cost_nano_usd=cost)


async def test_use_by_hour_with_a_plot(gateway: Running, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(NOW, "free", 10**9), (NOW, "[b]pro", 10**9), (LATER, "free", 500_000_001)]
    gateway.ledger.report = pb.GetUsageReportResponse(
        rows=[pb.UsageRow(start_time=at, group=group, use=use(cost)) for at, group, cost in rows]
    )
    assert await run("usage", "--by", "hour", "--group", "tier") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[:4]] == [
        ["hour", "tier", "requests", "cached", "tokens", "cost"],
        ["2026-01-01", "12:00", "free", "1,234", "5", "10,001", "$1.00"],
        ["2026-01-01", "12:00", "[b]pro", "1,234", "5", "10,001", "$1.00"],
        ["2026-01-01", "13:00", "free", "1,234", "5", "10,001", "$0.500000001"],
    ]
    assert lines[4:] == [
        "",
        "cost by hour",
        "2026-01-01 12:00  " + "█" * 40 + "  $2.00",
        "2026-01-01 13:00  " + "█" * 10 + " " * 32 + "$0.500000001",
    ]
    assert gateway.ledger.named("GetUsageReport") == [pb.GetUsageReportRequest(days=1, hourly=True, group=1)]


async def test_use_for_programs(gateway: Running, capsys: pytest.CaptureFixture[str]) -> None:
    gateway.ledger.report = pb.GetUsageReportResponse(rows=[pb.UsageRow(start_time=NOW, use=use(7))] * 2)
    assert await run("usage", "--days", "3", "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["time"], line["costNanoUsd"]) for line in lines] == [("2026-01-01T12:00:00Z", 7)] * 2
    assert gateway.ledger.named("GetUsageReport") == [pb.GetUsageReportRequest(days=3)]


async def test_no_use(gateway: Running, capsys: pytest.CaptureFixture[str]) -> None:
    assert await run("usage") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "Nothing was used."


async def test_users_go_from_page_to_page(gateway: Running, capsys: pytest.CaptureFixture[str]) -> None:
    ann = pb.UserUse(user_id="ann\x1b[2J", tier="pro", use=use(10**9), revenue_nano_usd=2_600_000_000)
    gateway.ledger.users = pb.ListUsersResponse(users=[ann], next_page_token="7")
    assert await run("users", "list", "a", "--limit", "2", "--sort", "tokens", "--tier", "pro", "--days", "7") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [
        ["user", "tier", "requests", "tokens", "cost", "revenue"],
        *[["ann[2J", "pro", "1,234", "10,001", "$1.00", "$2.60"]] * 2,
    ]
    asked = gateway.ledger.named("ListUsers")
    assert [(one.page_size, one.page_token, one.prefix, one.tier, one.days, one.sort) for one in asked] == [
        (2, "", "a", "pro", 7, pb.USER_SORT_TOKENS),
        (1, "7", "a", "pro", 7, pb.USER_SORT_TOKENS),
    ]
    assert await run("users", "list", "--limit", "1", "--json") == 0
    assert json.loads(capsys.readouterr().out)["revenueNanoUsd"] == 2_600_000_000


async def test_what_the_gateway_refuses_is_told(gateway: Running, capsys: pytest.CaptureFixture[str]) -> None:
    assert await run("usage", "--days", "999") == 1
    assert "days must be a whole number from 1 to 366" in capsys.readouterr().err


def test_money_and_bars() -> None:
    assert [dollars(n) for n in (0, 1, 10**7, 1_234_567_890_000, -5 * 10**8)] == [
        "$0.00", "$0.000000001", "$0.01", "$1,234.56789", "-$0.50",
    ]  # fmt: skip
    assert plot([("a", 0), ("bb", 0)]) == ["a   " + " " * 42 + "$0.00", "bb  " + " " * 42 + "$0.00"]
    assert plot([("a", 320), ("b", 1), ("c", 12)])[1:] == [
        "b  ▏" + " " * 41 + "$0.000000001",
        "c  █▌" + " " * 40 + "$0.000000012",
    ]
