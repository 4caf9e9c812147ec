"""How the scheduler's environment is read."""

from __future__ import annotations

import pytest

from services.scheduler.settings import Settings
from services.settings import SettingsError, load

REQUIRED = {
    "HEADGATE_DATABASE_URL": "sqlite:///x", "HEADGATE_REDIS_URL": "redis://x", "HEADGATE_QUOTA_ADDRESS": "q:1",
    "HEADGATE_GENERATOR_ADDRESSES": "g:1",
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "nano_usd"),
    [
        ("", None), ("250", 250_000_000_000), ("12.50", 12_500_000_000), ("0.000000001", 1), ("0", 0),
        ("9000000", 9_000_000_000_000_000),
    ],
)  # fmt: skip
def test_a_days_spend_limit_is_read_to_the_nano_dollar(text: str, nano_usd: int | None) -> None:
    settings = load(Settings, REQUIRED | {"HEADGATE_MAX_SPEND_PER_DAY": text})
    assert settings.max_spend_nano_usd_per_day == nano_usd


@pytest.mark.parametrize(
    "text", ["-1", "$250", "12,50", "1e3", "12.", ".5", "0.0000000001", "9000000.01", "nan", "1_000", "٣"]
)
def test_what_is_no_amount_of_dollars_is_refused_by_name(text: str) -> None:
    with pytest.raises(SettingsError, match="HEADGATE_MAX_SPEND_PER_DAY is wrong: .* is not an amount of dollars"):
        load(Settings, REQUIRED | {"HEADGATE_MAX_SPEND_PER_DAY": text})
