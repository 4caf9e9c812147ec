"""Plans files, good and wrong: errors name the line, the tier and the field."""

from __future__ import annotations

import pytest

from services.config import ConfigError
from services.quota.plans import read_plans
from services.settings import config_dir

GOOD = """\
default_tier: free
tiers:
  - name: free
    title: Free
    requests_per_day: 10
    outstanding: 5
    share: 1
    price_nano_usd_per_month: 0
    price: $0
    models: default
  - name: pro
    title: Pro
    requests_per_day: 100
    outstanding: 50
    share: 4
    price: custom
    models: [claude-opus-4, claude-haiku-4]
    upgrade_url: https://example.org/pro
"""


def test_the_shipped_plans_are_those_of_the_contract() -> None:
    plans = read_plans((config_dir() / "plans.yaml").read_text(), "plans.yaml")
    assert plans.default == "free"
    assert [(t.name, t.requests_per_day, t.outstanding, t.share) for t in plans.tiers] == [
        ("free", 10, 10, 1),
        ("basic", 100, 25, 2),
        ("pro", 500, 100, 4),
        ("enterprise", 5000, 1000, 8),
    ]


def test_a_good_file_is_read_whole() -> None:
    plans = read_plans(GOOD, "plans.yaml")
    free, pro = plans.tiers
    assert (free.price_nano_usd_per_month, free.models, free.all_models, free.upgrade_url) == (0, (), False, "")
    assert (pro.price_nano_usd_per_month, pro.price, pro.upgrade_url) == (None, "custom", "https://example.org/pro")
    assert pro.models == ("claude-opus-4", "claude-haiku-4")
    assert (plans.above("free"), plans.above("pro")) == (pro, None)
    assert "pro" in plans
    assert "gold" not in plans


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("    share: 4\n", "", "line 11, tier pro: share is missing"),
        ("    share: 4", "    share: four", "line 15, tier pro: share must be a whole number from 1"),
        ("    share: 4", "    share: 0", "line 15, tier pro: share must be"),
        ("    share: 4", "    share: 4.5", "line 15, tier pro: share must be"),
        ("    share: 4", "    share: -4", "line 15, tier pro: share must be"),
        ("    share: 4", "    share: [4]", "line 15, tier pro: share must be"),
        ("    share: 4", "    share: 4\n    share: 5", "line 16, tier: 'share' is given twice"),
        ("    share: 4", "    shares: 4", "share is missing"),
        ("    share: 4", "    share: 4\n    colour: red", "line 16, tier pro: colour is not a field"),
        ("requests_per_day: 100", "requests_per_day: 9", "line 13, tier pro: requests_per_day is below that of free"),
        ("requests_per_day: 10\n", "requests_per_day: 0\n", "line 5, tier free: requests_per_day must be"),
        ("requests_per_day: 10\n", f"requests_per_day: {2**63}\n", "line 5, tier free: requests_per_day must be"),
        ("outstanding: 50", f"outstanding: {2**31}", "line 14, tier pro: outstanding must be"),
        ("name: pro", "name: free", "line 11, tier free: name is used twice"),
        ("name: pro", "name: Pro!", "line 11, tier Pro!: name must be a lower-case word"),
        ("title: Pro", "title: ''", "line 12, tier pro: title must be text"),
        ("nano_usd_per_month: 0", "nano_usd_per_month: $0", "line 8, tier free: price_nano_usd_per_month must be"),
        ("models: default", "models: some", "line 10, tier free: models must be 'default', 'all' or a list"),
        ("models: default", "models: []", "line 10, tier free: models must be"),
        ("default_tier: free", "default_tier: gold", "line 1: default_tier 'gold' is not one of the tiers"),
        ("default_tier: free\n", "", "default_tier is missing"),
        ("default_tier: free", "default_tier: free\nextra: 1", "line 2: extra is not a field"),
        ("  - name: free", "  - free\n  - name: free", "line 3, tier: must be a mapping"),
        ("tiers:", "tiers: none\nothers:", "line 2: tiers must be a list"),
        ("    title: Free", "   title: Free", "line 4: this is not YAML"),
    ],
)
def test_a_wrong_file_is_refused_by_line_and_tier(old: str, new: str, error: str) -> None:
    wrong = GOOD.replace(old, new, 1)
    assert wrong != GOOD
    with pytest.raises(ConfigError) as raised:
        read_plans(wrong, "plans.yaml")
    assert str(raised.value).startswith("plans.yaml line ")
    assert error in str(raised.value)


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a list\n", "tiers: []\ndefault_tier: free\n", "a word\n"])
def test_a_file_without_tiers_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"plans\.yaml"):
        read_plans(text, "plans.yaml")
