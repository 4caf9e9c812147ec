"""Provider files, good and wrong: errors name the line, the plan and the field."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.config import ConfigError
from services.scheduler.providers import PlanError, read_provider
from services.settings import config_dir

GOOD = """\
read_on: 2026-11-24
pools:
  sonnet: [claude-sonnet-5-5]
  haiku: [claude-haiku-5-5, claude-haiku-4-5]
plans:
  small:
    costs: $100 a month
    next: large
    all: {requests_per_minute: 25, requests_per_day: 100}
  # The next.
  large:
    all:
      requests_per_minute: 100
      concurrency: 5
    haiku: {requests_per_minute: 900}
"""


def read(folder: Path, text: str, plan: str = "small") -> object:
    file = folder / "providers.yaml"
    file.write_text(text)
    return read_provider(file, plan)


def test_the_shipped_plans_are_the_missions_and_the_providers() -> None:
    provider = read_provider(config_dir() / "providers.yaml", "20x")
    assert [provider.limits["sonnet"].of(name) for name in ("requests", "tokens", "requests_day")] == [
        100, 800_000, 144_000,
    ]  # fmt: skip
    smaller = provider.plans["5x"].limits["opus"]
    assert [smaller.of(name) for name in ("requests", "tokens", "requests_day")] == [25, 200_000, 36_000]
    assert [plan.name for plan in provider.above("5x")] == ["20x", "start", "build", "scale"]
    assert [plan.name for plan in provider.above("tier-1")] == ["tier-2", "tier-3", "tier-4"]
    assert "$" not in provider.plans["5x"].costs + provider.plans["20x"].costs
    assert {name: provider.plans[name].costs for name in ("start", "build", "scale")} == {
        "start": "pay per token; monthly spend cap $500",
        "build": "pay per token; monthly spend cap $1,000",
        "scale": "pay per token; monthly spend cap $200,000",
    }


def test_a_plan_may_give_each_pool_its_own_limits(tmp_path: Path) -> None:
    file = tmp_path / "providers.yaml"
    file.write_text(GOOD)
    provider = read_provider(file, "large")
    assert provider.limits["sonnet"].of("requests") == 100
    assert provider.limits["sonnet"].of("concurrency") == 5
    assert provider.limits["haiku"].of("requests") == 900
    assert provider.limits["haiku"].of("concurrency") is None
    assert (provider.pool_of("claude-haiku-4-5"), provider.pool_of("gpt")) == ("haiku", None)
    assert [plan.name for plan in provider.above("large")] == []


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("minute: 25", "minute: many", "line 9, plan small, all: requests_per_minute must be a whole number"),
        ("minute: 25", "minute: 0", "line 9, plan small, all: requests_per_minute must be"),
        ("minute: 25", "minute: -3", "line 9, plan small, all: requests_per_minute must be"),
        ("minute: 25", "minute: 2.5", "line 9, plan small, all: requests_per_minute must be"),
        ("minute: 25", "minute: 10000001", "line 9, plan small, all: requests_per_minute must be"),
        ("concurrency: 5", "concurrency: 100001", "line 14, plan large, all: concurrency must be"),
        ("concurrency: 5", "tokens_a_minute: 5", "line 14, plan large, all: tokens_a_minute is not a field here"),
        ("    haiku: {r", "    opus: {r", "line 15, plan large: opus is not a field here"),
        ("next: large", "next: huge", "line 8, plan small: next 'huge' is no plan further down"),
        ("next: large", "next: small", "line 8, plan small: next 'small' is no plan further down"),
        ("costs: $100 a month", "costs: " + "x" * 201, "line 7, plan small: costs must be text of 1 to 200"),
        ("requests_per_minute: 25, ", "", "line 9, plan small: all gives the pool sonnet no limit a minute"),
        ("[claude-haiku-5-5, c", "[claude-sonnet-5-5, c", "line 4, pools: haiku has claude-sonnet-5-5, which is in"),
        ("haiku: [", "haiku: 5 #", "line 4, pools: haiku must be a list"),
        ("read_on: 2026-11-24", "read_on: lately", "line 1: read_on must be a day"),
        ("  large:\n", "  large: 5\n  other:\n", "line 11, plan large: must be a mapping"),
        ("  # The next.\n", "  small: {}\n", "line 10: 'small' is given twice"),
        ("plans:", "plan:", "plans is missing"),
        ("pools:", "more: 1\npools:", "line 2: more is not a field here"),
        ("  # The next.\n", f"  {'l' * 65}: {{}}\n", f"line 10: {'l' * 65} has more than 64 characters"),
        ("plans:", "plans: [", "this is not YAML"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, old: str, new: str, error: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError) as raised:
        read(tmp_path, GOOD.replace(old, new, 1))
    assert error in str(raised.value)


def test_an_unknown_plan_is_told_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="'huge' is not one of small, large"):
        read(tmp_path, GOOD, "huge")
