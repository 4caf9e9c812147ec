"""Usage to nano-dollars, exactly. Read by the scheduler (to price a turn) and by quota (to audit it)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


class PriceError(Exception):
    """The price file is wrong; the text names the model and the line."""


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


@dataclass(frozen=True)
class ModelPrice:
    """A model's price, and the one that holds for prompts over a threshold."""

    usual: Price
    long_prompt_over_tokens: int | None = None
    long_prompt: Price | None = None


class PriceList:
    """Prices by model, as read from config/prices.yaml."""

    def __init__(self, models: Mapping[str, ModelPrice]) -> None:
        self._models = dict(models)

    @property
    def models(self) -> list[str]:
        """Every model that has a price."""
        return list(self._models)

    def cost_nano_usd(self, model: str, tokens: Tokens) -> int:
        """The cost of one turn. KeyError for a model without a price."""
        entry = self._models[self._known(model)]
        over = entry.long_prompt_over_tokens
        long = entry.long_prompt if over is not None and tokens.prompt > over else None
        price = long or entry.usual
        return (
            tokens.input * price.input
            + tokens.output * price.output
            + tokens.cache_read * price.cache_read
            + tokens.cache_write_5m * price.cache_write_5m
            + tokens.cache_write_1h * price.cache_write_1h
        )

    def _known(self, model: str) -> str:
        # The provider answers an alias with its dated name (claude-x-20261001).
        if model in self._models:
            return model
        for name in sorted(self._models, key=len, reverse=True):
            if model.startswith(name + "-"):
                return name
        raise KeyError(model)


def read_prices(path: Path) -> PriceList:
    """Reads config/prices.yaml. PriceError if it is wrong."""
    content = yaml.safe_load(path.read_text())
    models = content.get("models") if isinstance(content, dict) else None
    if not isinstance(models, dict) or not models:
        raise PriceError(f"{path.name}: 'models' must map each model to its price")
    return PriceList({str(name): _model_price(path.name, str(name), entry) for name, entry in models.items()})


def _model_price(file: str, name: str, entry: Any) -> ModelPrice:
    long = entry.get("long_prompt") if isinstance(entry, dict) else None
    if long is None:
        return ModelPrice(_price(file, name, entry))
    over = long.get("over_tokens") if isinstance(long, dict) else None
    if not isinstance(over, int) or over < 1:
        raise PriceError(f"{file}: model {name}: long_prompt.over_tokens must be a whole number of tokens")
    return ModelPrice(_price(file, name, entry), over, _price(file, f"{name}.long_prompt", long))


def _price(file: str, name: str, entry: Any) -> Price:
    values = {}
    for key in ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h"):
        value = entry.get(key) if isinstance(entry, dict) else None
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise PriceError(f"{file}: model {name}: '{key}' must be whole nano-dollars a token, not {value!r}")
        values[key] = value
    return Price(**values)
