"""Prices: exact in whole numbers, and a file that is wrong is refused with its line."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.config import ConfigError
from services.pricing import ModelPrice, Price, PriceList, Tokens, read_prices
from services.settings import config_dir

GOOD = """\
read_on: 2026-11-24
in_force_from: 2026-11-01
default_model: small
multipliers:
  batch: 1/2
  abroad: 110%
models:
  small: {input: 100, output: 500, cache_read: 10, cache_write_5m: 125, cache_write_1h: 200}
  large:
    input: 4000
    output: 20000
    cache_read: 200
    cache_write_5m: 5000
    cache_write_1h: 8000
    long_prompt: {over_tokens: 100, input: 1, output: 2, cache_read: 3, cache_write_5m: 4, cache_write_1h: 5}
"""


def prices_of(tmp_path: Path, text: str) -> PriceList:
    file = tmp_path / "prices.yaml"
    file.write_text(text)
    return read_prices(file)


def test_the_shipped_prices_are_those_of_the_provider() -> None:
    prices = read_prices(config_dir() / "prices.yaml")
    million = Tokens(10**6, 10**6, 10**6, 10**6, 10**6)
    # Dollars a million tokens, as published: input, output, cache read, cache write of 5 minutes, of an hour.
    for model, dollars in {
        "claude-opus-5-5": (4, 20, "0.2", 5, 8),
        "claude-sonnet-5-5": (2, 10, "0.1", "2.5", 4),
        "claude-haiku-4-5": (1, 5, "0.1", "1.25", 2),
        "claude-haiku-5-5": ("0.5", "2.5", "0.05", "0.625", 1),
    }.items():
        assert prices.cost_nano_usd(model, million) == sum(map(Fraction, dollars)) * 10**9
    assert prices.cost_nano_usd("claude-haiku-5-5-20261001", Tokens(100_000, 1)) == 100_000 * 100 + 500
    assert prices.cost_nano_usd("claude-haiku-5-5", Tokens(99_999, 1, 2)) == 99_999 * 500 + 2500 + 2 * 50
    assert prices.default_model in prices.models


def test_a_good_file_is_read_whole(tmp_path: Path) -> None:
    prices = prices_of(tmp_path, GOOD)
    assert (prices.read_on, prices.in_force_from, prices.default_model) == ("2026-11-24", "2026-11-01", "small")
    assert prices.multipliers == {"batch": (1, 2), "abroad": (110, 100)}
    assert prices.by_model == {
        "small": ModelPrice(Price(100, 500, 10, 125, 200)),
        "large": ModelPrice(Price(4000, 20000, 200, 5000, 8000), 100, Price(1, 2, 3, 4, 5)),
    }


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("input: 100,", "input: 0.5,", "line 8, model small: input is in nano-dollars a token ($1 per million tokens"),
        ("input: 100,", "input: -1,", "line 8, model small: input is in nano-dollars"),
        ("input: 100,", f"input: {10**9 + 1},", "must be a whole number from 0 to 1000000000"),
        ("input: 100,", "input: '',", "line 8, model small: input"),
        ("input: 100,", "", "line 8, model small: input is missing"),
        ("input: 100,", "input: 100, outputs: 1,", "line 8, model small: outputs is not a field"),
        ("output: 20000", "output: 2.5", "line 11, model large: output is in nano-dollars"),
        ("over_tokens: 100,", "over_tokens: 0,", "line 15, model large, long_prompt: over_tokens must be"),
        ("over_tokens: 100, input: 1,", "over_tokens: 100,", "line 15, model large, long_prompt: input is missing"),
        ("over_tokens: 100,", "over_tokens: 100, more: 1,", "line 15, model large, long_prompt: more is not a field"),
        ("batch: 1/2", "batch: 0.5", "line 5, multipliers: batch must be an exact fraction above zero"),
        ("batch: 1/2", "batch: 1/0", "line 5, multipliers: batch must be"),
        ("batch: 1/2", "batch: 0%", "line 5, multipliers: batch must be"),
        ("batch: 1/2", "batch: [1, 2]", "line 5, multipliers: batch must be"),
        ("batch: 1/2", "batch: 1", "line 5, multipliers: batch must be"),
        ("default_model: small", "default_model: huge", "line 3: default_model 'huge' is not one of the models"),
        ("default_model: small\n", "", "default_model is missing"),
        ("read_on: 2026-11-24", "read_on: yesterday", "line 1: read_on must be a day as YYYY-MM-DD, not 'yesterday'"),
        ("in_force_from: 2026-11-01", "in_force_from: 2026-11-31", "line 2: in_force_from must be a day"),
        ("in_force_from: 2026-11-01\n", "", "in_force_from is missing"),
        ("models:\n", "models: {}\nothers:\n", "line 7: models must map each model to its price"),
        ("  large:", "  small:", "line 9: 'small' is given twice"),
        ("read_on:", "read: on\nread_on:", "line 1: read is not a field"),
        ("models:", "models: [", "this is not YAML"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(tmp_path: Path, old: str, new: str, error: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError) as raised:
        prices_of(tmp_path, GOOD.replace(old, new, 1))
    assert error in str(raised.value)
    assert str(raised.value).startswith("prices.yaml")


def test_an_unknown_model_has_no_price(tmp_path: Path) -> None:
    prices = prices_of(tmp_path, GOOD)
    for model in ("huge", "smallish", ""):
        with pytest.raises(KeyError):
            prices.cost_nano_usd(model, Tokens(1))
        with pytest.raises(KeyError):
            prices.saved_nano_usd(model, Tokens(1))
    with pytest.raises(KeyError):
        prices.cost_nano_usd("small", Tokens(1), "free")


counts = st.integers(0, 10**9)
tokens = st.builds(Tokens, counts, counts, counts, counts, counts)
fractions = st.tuples(st.integers(1, 999_999), st.integers(1, 999_999))


@given(tokens, st.lists(fractions, max_size=3))
def test_a_multiplied_price_is_rounded_once_and_half_to_even(used: Tokens, by: list[tuple[int, int]]) -> None:
    prices = PriceList({"m": ModelPrice(Price(3, 7, 1, 5, 9))}, {str(i): fraction for i, fraction in enumerate(by)})
    whole = prices.cost_nano_usd("m", used)
    assert (
        whole == used.input * 3 + used.output * 7 + used.cache_read + used.cache_write_5m * 5 + used.cache_write_1h * 9
    )
    exact = Fraction(whole)
    for above, below in by:
        exact *= Fraction(above, below)
    # Python's own rounding of fractions is half to even.
    assert prices.cost_nano_usd("m", used, *map(str, range(len(by)))) == round(exact)


@pytest.mark.parametrize(("cost", "half"), [(0, 0), (1, 0), (2, 1), (3, 2), (5, 2), (7, 4), (125, 62)])
def test_half_of_an_odd_price_goes_to_the_even_number(tmp_path: Path, cost: int, half: int) -> None:
    prices = PriceList({"m": ModelPrice(Price(1, 0, 0, 0, 0))}, {"batch": (1, 2)})
    assert prices.cost_nano_usd("m", Tokens(cost), "batch") == half


@pytest.mark.parametrize(
    ("used", "saved"),
    [
        (Tokens(1000, 50), 0),
        (Tokens(0, 50, cache_read=100), 100 * (100 - 10)),
        (Tokens(5, 50, cache_write_5m=100), 100 * (100 - 125)),
        (Tokens(5, 50, cache_write_1h=100), 100 * (100 - 200)),
    ],
)
def test_what_the_prompt_cache_saved(tmp_path: Path, used: Tokens, saved: int) -> None:
    prices = prices_of(tmp_path, GOOD)
    assert prices.saved_nano_usd("small", used) == saved


def test_what_the_prompt_cache_saved_of_a_long_prompt_is_at_its_price(tmp_path: Path) -> None:
    prices = prices_of(tmp_path, GOOD)
    assert prices.saved_nano_usd("large", Tokens(cache_read=101)) == 101 * (1 - 3)
    assert prices.saved_nano_usd("large", Tokens(cache_read=100)) == 100 * (4000 - 200)
