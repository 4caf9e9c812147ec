"""Whose terms hold, and which limit is told, for every order they may be used up in."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.clock import next_day_ms, next_month_ms
from services.quota.plans import Tier
from services.quota.terms import NO_LIMIT, OWN_BOUNDS, TERMS, Limit, LimitUse, OwnTerms, effective, reached

TIER = Tier("pro", "Pro", 500, 100, 4, 79, "$79", (), True, "", 60, 1_000_000, 5_000, 70_000)
MINUTE = 29_454_000
DAY = "2026-02-28"
UNUSED = LimitUse(0, 0, 0, 0, 0)


def test_without_own_terms_the_tier_holds() -> None:
    assert effective(TIER, OwnTerms()) is TIER
    assert set(OWN_BOUNDS) == set(TERMS)


@given(st.builds(OwnTerms, *[st.none() | st.integers(0, 10**6)] * len(TERMS)))
def test_own_terms_replace_the_tiers_one_by_one(own: OwnTerms) -> None:
    held = effective(TIER, own)
    for name in TERMS:
        # A price is told in words, and the tier's spend of a day is that of all its users.
        replaced = name not in ("price_nano_usd_per_month", "spend_nano_usd_per_day")
        expected = getattr(own, name) if replaced and getattr(own, name) is not None else getattr(TIER, name)
        assert getattr(held, name) == expected
    assert (held.name, held.share, held.models, held.price) == (TIER.name, TIER.share, TIER.models, TIER.price)


def test_a_limit_that_is_absent_is_more_than_any() -> None:
    free = replace(TIER, requests_per_minute=None, tokens_per_day=None, spend_nano_usd_per_month=None)
    assert [limit.of(free) for limit in Limit] == [500, NO_LIMIT, NO_LIMIT, NO_LIMIT]
    assert [limit.of(TIER) for limit in Limit] == [500, 60, 1_000_000, 5_000]


@pytest.mark.parametrize(
    ("use", "limit", "used", "reset_time_ms"),
    [
        (LimitUse(500, MINUTE, 60, 1_000_000, 5_000), Limit.REQUESTS_PER_DAY, 500, next_day_ms(DAY)),
        (LimitUse(499, MINUTE, 60, 1_000_000, 5_000), Limit.REQUESTS_PER_MINUTE, 60, (MINUTE + 1) * 60_000),
        (LimitUse(499, MINUTE + 1, 60, 0, 0), Limit.REQUESTS_PER_MINUTE, 60, (MINUTE + 2) * 60_000),
        (LimitUse(499, MINUTE - 1, 60, 1_000_001, 5_000), Limit.TOKENS_PER_DAY, 1_000_001, next_day_ms(DAY)),
        (LimitUse(499, MINUTE, 59, 999_999, 5_000), Limit.SPEND_PER_MONTH, 5_000, next_month_ms(DAY)),
    ],
)
def test_the_first_limit_that_is_used_up_is_told(use: LimitUse, limit: Limit, used: int, reset_time_ms: int) -> None:
    found = reached(TIER, use, DAY, MINUTE)
    assert (found.limit, found.used, found.most, found.reset_time_ms) == (limit, used, limit.of(TIER), reset_time_ms)


@pytest.mark.parametrize(
    ("day", "first"),
    [
        ("2026-01-31", "2026-01-31"),
        ("2026-02-01", "2026-02-28"),
        ("2028-02-10", "2028-02-29"),
        ("2026-12-01", "2026-12-31"),
    ],
)
def test_a_month_ends_with_its_last_day(day: str, first: str) -> None:
    assert next_month_ms(day) == next_day_ms(first)
