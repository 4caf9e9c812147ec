"""What a price a month brings in each day."""

from __future__ import annotations

import calendar

from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy import BigInteger, create_engine, literal, select

from services.quota.revenue import agreed_price, day_before, day_revenue, days_between, month_bounds

PRICES = st.integers(0, 2**63 - 1)
YEARS, MONTHS = st.integers(1970, 2400), st.integers(1, 12)


@given(PRICES, YEARS, MONTHS)
@example(79_000_000_000, 2026, 1)
@example(79_000_000_000, 2028, 2)
@example(1, 2026, 2)
@example(29, 2028, 2)
def test_the_days_of_any_month_add_up_to_the_price(price: int, year: int, month: int) -> None:
    days = calendar.monthrange(year, month)[1]
    revenue = [day_revenue(price, f"{year}-{month:02}-{day:02}") for day in range(1, days + 1)]
    assert sum(revenue) == price
    assert {amount - price // days for amount in revenue} <= {0, 1}
    # Not late either: by the end of each day the share of the month that is over has come in, rounded down.
    assert [sum(revenue[:day]) for day in range(1, days + 1)] == [price * day // days for day in range(1, days + 1)]


@given(PRICES, YEARS, MONTHS, st.integers(1, 28))
def test_a_database_comes_to_the_same_figure_within_its_64_bits(price: int, year: int, month: int, day: int) -> None:
    when = f"{year}-{month:02}-{day:02}"
    with create_engine("sqlite://").connect() as connection:
        counted = connection.execute(select(day_revenue(literal(price, BigInteger), when))).scalar_one()
    assert counted == day_revenue(price, when)


def test_an_own_price_wins_even_if_it_is_nothing() -> None:
    prices = {"pro": 79, "enterprise": 0}
    asked = [("pro", None), ("pro", 0), ("enterprise", None), ("enterprise", 5), ("gone", None), ("gone", 7)]
    assert [agreed_price(prices, tier, own) for tier, own in asked] == [79, 0, 0, 5, 0, 7]


def test_days_and_months() -> None:
    assert list(days_between("2028-02-28", "2028-03-01")) == ["2028-02-28", "2028-02-29", "2028-03-01"]
    assert list(days_between("2026-01-02", "2026-01-01")) == []
    assert (day_before("2026-03-01"), day_before("2026-01-01", 30)) == ("2026-02-28", "2025-12-02")
    assert (month_bounds("2028-02"), month_bounds("2026-02")) == (
        ("2028-02-01", "2028-02-29"),
        ("2026-02-01", "2026-02-28"),
    )
