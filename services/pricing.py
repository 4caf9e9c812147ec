"""Usage to nano-dollars, exactly. Read by the scheduler (to price a turn) and by quota (to audit it)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

import yaml

from services.config import Entry, read_day, read_file, read_text, read_whole

MOST_NANO_USD = 10**9
"""A dollar a token, far above any: beyond it somebody mistook the unit."""


@dataclass(frozen=True)
class Tokens:
    """What one turn used, by what is priced."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0

    @property
    def prompt(self) -> int:
        """All tokens that went in, cached or not: what a long-prompt threshold compares."""
        return self.input + self.cache_read + self.cache_write_5m + self.cache_write_1h


@dataclass(frozen=True)
class Price:
    """Nano-dollars a token; every published price is a whole number of them."""

    input: int
    output: int
    cache_read: int
    cache_write_5m: int
    cache_write_1h: int

    def of(self, tokens: Tokens) -> int:
        """What those tokens cost."""
        return (
            tokens.input * self.input
            + tokens.output * self.output
            + tokens.cache_read * self.cache_read
            + tokens.cache_write_5m * self.cache_write_5m
            + tokens.cache_write_1h * self.cache_write_1h
        )


@dataclass(frozen=True)
class ModelPrice:
    """A model's price, and the one that holds for prompts over a threshold."""

    usual: Price
    long_prompt_over_tokens: int | None = None
    long_prompt: Price | None = None

    def for_prompt(self, tokens: int) -> Price:
        """The price of a whole turn whose prompt has so many tokens."""
        over = self.long_prompt_over_tokens
        return self.long_prompt if self.long_prompt and over is not None and tokens > over else self.usual


@dataclass(frozen=True)
class PriceList:
    """Prices by model, as read from config/prices.yaml."""

    by_model: Mapping[str, ModelPrice]
    multipliers: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """By name, as numerator and denominator."""
    default_model: str = ""
    read_on: str = ""
    in_force_from: str = ""
    """The first UTC day they hold for."""

    @property
    def models(self) -> list[str]:
        """Every model that has a price."""
        return list(self.by_model)

    def cost_nano_usd(self, model: str, tokens: Tokens, *multipliers: str) -> int:
        """The cost of one turn, at those multipliers all together. KeyError for what has no price."""
        cost = self._entry(model).for_prompt(tokens.prompt).of(tokens)
        fractions = [self.multipliers[name] for name in multipliers]
        return _half_to_even(
            cost * math.prod(above for above, _ in fractions), math.prod(below for _, below in fractions)
        )

    def saved_nano_usd(self, model: str, tokens: Tokens) -> int:
        """What the same tokens would have cost more without the provider's prompt cache; below zero if less."""
        price = self._entry(model).for_prompt(tokens.prompt)
        return price.of(Tokens(tokens.prompt, tokens.output)) - price.of(tokens)

    def _entry(self, model: str) -> ModelPrice:
        # The provider answers an alias with its dated name (claude-x-20261001).
        if model in self.by_model:
            return self.by_model[model]
        for name in sorted(self.by_model, key=len, reverse=True):
            if model.startswith(name + "-"):
                return self.by_model[name]
        raise KeyError(model)


def _half_to_even(above: int, below: int) -> int:
    whole, rest = divmod(above, below)
    return whole + (2 * rest > below or (2 * rest == below and whole % 2))


def read_prices(path: Path) -> PriceList:
    """Reads config/prices.yaml. ConfigError if it is wrong."""
    top = read_file(path.read_text(), path.name)
    models = top.within("models", "")
    if not models.names:
        raise top.error("models", "must map each model to its price")
    by_model = {name: _model_price(models.within(name, f", model {name}")) for name in models.names}
    multipliers = top.within("multipliers", ", multipliers")
    prices = PriceList(
        by_model,
        {name: multipliers.take(name, _fraction) for name in multipliers.names},
        default_model=top.take("default_model", read_text),
        read_on=top.take("read_on", read_day),
        in_force_from=top.take("in_force_from", read_day),
    )
    if prices.default_model not in by_model:
        raise top.error("default_model", f"'{prices.default_model}' is not one of the models")
    top.finish()
    return prices


def _model_price(entry: Entry) -> ModelPrice:
    usual, over, long = _price(entry), None, None
    if "long_prompt" in entry.names:
        above = entry.within("long_prompt", entry.place + ", long_prompt")
        over, long = above.take("over_tokens", read_whole(1, 10**9)), _price(above)
        above.finish()
    entry.finish()
    return ModelPrice(usual, over, long)


def _price(entry: Entry) -> Price:
    return Price(**{part.name: entry.take(part.name, _nano_usd) for part in fields(Price)})


def _nano_usd(node: yaml.Node) -> int:
    try:
        return read_whole(0, MOST_NANO_USD)(node)
    except ValueError as error:
        raise ValueError(f"is in nano-dollars a token ($1 per million tokens is 1000): it {error}") from None


def _fraction(node: yaml.Node) -> tuple[int, int]:
    text = node.value if isinstance(node, yaml.ScalarNode) else ""
    found = re.fullmatch(r"(\d{1,6})(?:/(\d{1,6})|(%))", text)
    if not found or not int(found[1]) or (found[2] and not int(found[2])):
        raise ValueError(f"must be an exact fraction above zero such as 1/2 or 50%, not '{text}'")
    return int(found[1]), int(found[2] or 100)
