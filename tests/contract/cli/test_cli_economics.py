"""`headgate economics` and `headgate tiers` against a real gateway before scripted services."""

from __future__ import annotations

import json

import pytest
from headgate.quota.v1 import ledger_pb2 as pb

from services.cli.economics import bar, losing, rounded
from tests.servers.command import run
from tests.servers.gateway import Running


def margin(revenue: int, cost: int, **use: int) -> pb.Margin:
    """In dollars."""
    return pb.Margin(
        revenue_nano_usd=revenue * 10**9,
        use=pb.Use(cost_nano_usd=cost * 10**9, **use),
        margin_nano_usd=(revenue - cost) * 10**9,
        unsustainable=cost > revenue,
    )


def report() -> pb.GetEconomicsResponse:
    return pb.GetEconomicsResponse(
        from_day="2026-06-29",
        to_day="2026-06-30",
        total=margin(7_915, 18_001, saved_by_equals_nano_usd=2 * 10**9),
        tiers=[
            pb.TierMargin(tier="free", margin=margin(0, 1), users=7),
            pb.TierMargin(tier="basic", margin=margin(15, 0), users=1),
            pb.TierMargin(tier="pro", margin=margin(7_900, 18_000), users=1_000),
        ],
        days=[
            pb.DayMargin(day="2026-06-29", tier="basic", margin=margin(15, 0)),
            pb.DayMargin(day="2026-06-29", tier="pro", margin=margin(3_950, 8_000)),
            pb.DayMargin(day="2026-06-30", tier="free", margin=margin(0, 1)),
            pb.DayMargin(day="2026-06-30", tier="pro", margin=margin(3_950, 10_000)),
        ],
        top_users=[pb.UserMargin(user_id="ann\x1b[2J[b]", tier="pro", margin=margin(79, 180, requests=15_000))],
    )


async def test_economics_by_tier_and_day(gateway: Running, capsys: pytest.CaptureFixture[str]) -> None:
    gateway.ledger.economics = report()
    assert await run("economics", "--days", "2") == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    lines = [" ".join(line.split()) for line in printed.out.splitlines() if line.strip()]
    assert lines == [
        "2026-06-29 to 2026-06-30, today with the tiers held now",
        "tier users revenue cost margin",
        "free 7 $0.00 $1.00 -$1.00",
        "basic 1 $15.00 $0.00 $15.00",
        "pro 1,000 $7,900.00 $18,000.00 -$10,100.00 █████████▓▓▓▓▓▓▓▓▓▓▓",
        "all $7,915.00 $18,001.00 -$10,086.00 █████████▓▓▓▓▓▓▓▓▓▓▓",
        "day revenue cost margin",
        "2026-06-29 $3,965.00 $8,000.00 -$4,035.00 ████████▓▓▓▓▓▓▓▓",
        "2026-06-30 $3,950.00 $10,001.00 -$6,051.00 ████████▓▓▓▓▓▓▓▓▓▓▓▓",
        "█ cost that revenue covers ▓ cost beyond it ░ what is left",
        "The users that cost most",
        "user tier revenue cost margin requests",
        "ann[2J[b] pro $79.00 $180.00 -$101.00 15,000",
        "free loses money: it cost $1.00 and brought in $0.00.",
        "pro loses money: it cost $18,000.00 and brought in $7,900.00."
        " To break even it would have to bring in 228% of that.",
        "Saved: $2.00 by answering equal requests once, $0.00 by the provider's cache.",
    ]


async def test_the_days_of_one_tier(gateway: Running, capsys: pytest.CaptureFixture[str]) -> None:
    gateway.ledger.economics = report()
    assert await run("economics", "--tier", "free") == 0
    days = [line.split()[:4] for line in capsys.readouterr().out.splitlines() if line.startswith("2026-06-30 ")]
    assert days == [["2026-06-30", "$0.00", "$1.00", "-$1.00"]]


async def test_nothing_yet(gateway: Running, capsys: pytest.CaptureFixture[str]) -> None:
    assert await run("economics") == 0
    assert "all" in capsys.readouterr().out


async def test_economics_for_programs_and_spreadsheets(gateway: Running, capsys: pytest.CaptureFixture[str]) -> None:
    gateway.ledger.economics = report()
    assert await run("economics", "--json") == 0
    assert json.loads(capsys.readouterr().out)["unsustainableTiers"] == ["free", "pro"]
    assert await run("economics", "--csv", "--days", "7") == 0
    lines = capsys.readouterr().out.splitlines()
    assert (lines[0].split(",")[:4], len(lines)) == (["day", "tier", "revenueNanoUsd", "costNanoUsd"], 5)
    assert gateway.ledger.named("GetEconomics")[1].days == 7


async def test_wrong_days_are_a_sentence(gateway: Running, capsys: pytest.CaptureFixture[str]) -> None:
    assert [await run("economics", "--days", days) for days in ("0", "x&top=1")] == [1, 1]
    assert capsys.readouterr().err.count("days must be a whole number from 1 to 366.") == 2


async def test_tiers(gateway: Running, capsys: pytest.CaptureFixture[str]) -> None:
    gateway.ledger.economics = report()
    assert await run("tiers") == 0
    # Behind these are limits that only some tiers have.
    lines = [line.split()[:6] for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["tier", "users", "price", "requests/day", "outstanding", "share"],
        ["free", "7", "$0", "10", "10", "1"],
        ["basic", "1", "$15/month", "100", "25", "2"],
    ]
    assert gateway.ledger.named("GetEconomics") == [pb.GetEconomicsRequest(days=1, top_users=10)]
    assert await run("tiers", "--json") == 0
    assert [json.loads(line)["users"] for line in capsys.readouterr().out.splitlines()] == [7, 1]


def test_amounts_for_people() -> None:
    amounts = (0, 1, 99_999, 1_234_567, 10**7, 14_999_999, -15_000_000, 12_345_678_901_234, 999_999_999)
    assert [rounded(amount) for amount in amounts] == [
        "$0.00", "$0.0000", "$0.0001", "$0.0012", "$0.01", "$0.01", "-$0.02", "$12,345.68", "$1.00",
    ]  # fmt: skip


def test_a_bar_is_cost_and_revenue_on_one_scale() -> None:
    def drawn(revenue: int, cost: int, longest: int = 20) -> str:
        return bar({"revenueNanoUsd": revenue, "costNanoUsd": cost}, longest).plain

    assert drawn(20, 5) == "█" * 5 + "░" * 15
    assert drawn(5, 10) == "█" * 5 + "▓" * 5
    assert drawn(10, 10) == "█" * 10
    assert (drawn(0, 0), drawn(0, 0, 0)) == ("", "")


def test_a_tier_that_pays_for_itself_has_no_sentence() -> None:
    tier = {"tier": "pro", "revenueNanoUsd": 2, "costNanoUsd": 1, "marginNanoUsd": 1, "unsustainable": False}
    assert losing(tier) == ""
