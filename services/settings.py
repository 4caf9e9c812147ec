"""Environment variables as frozen dataclasses, checked before anything starts.

A settings class is a frozen dataclass whose fields are made with `variable`; `load` reads
them all and raises `SettingsError` with one sentence that names the first wrong variable.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


class SettingsError(Exception):
    """A variable is missing or wrong; the text is one sentence that names it."""


def variable(name: str, parse: Callable[[str], Any], *, default: Any = dataclasses.MISSING) -> Any:
    """A field read from the environment variable `name`; without a default it is required."""
    return dataclasses.field(default=default, metadata={"variable": name, "parse": parse})


def load(cls: type[T], environ: Mapping[str, str]) -> T:
    """Reads `cls` from the environment. An empty variable counts as unset."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        name = field.metadata["variable"]
        text = environ.get(name, "").strip()
        if text:
            try:
                values[field.name] = field.metadata["parse"](text)
            except (ValueError, OSError) as error:
                raise SettingsError(f"{name} is wrong: {error}.") from error
        elif field.default is dataclasses.MISSING:
            raise SettingsError(f"{name} is not set: it is required here.")
    return cls(**values)


def names(cls: type) -> list[str]:
    """The variables that a settings class reads."""
    return [field.metadata["variable"] for field in dataclasses.fields(cls)]


def integer(least: int, most: int) -> Callable[[str], int]:
    """Parses a whole number from `least` to `most`."""

    def parse(text: str) -> int:
        if not text.lstrip("-").isdigit() or not least <= int(text) <= most:
            raise ValueError(f"'{text}' is not a whole number from {least} to {most}")
        return int(text)

    return parse


def dollars(most: int) -> Callable[[str], int]:
    """Parses an amount of dollars up to `most`, to the nano-dollar, into nano-dollars."""

    def parse(text: str) -> int:
        whole, point, part = text.partition(".")
        digits = text.isascii() and whole.isdigit() and len(part) <= 9 and (part.isdigit() if point else True)
        if not digits or not 0 <= (nano := int(whole + part.ljust(9, "0"))) <= most * 10**9:
            raise ValueError(f"'{text}' is not an amount of dollars from 0 to {most}, such as 250 or 12.50")
        return nano

    return parse


def boolean(text: str) -> bool:
    """Parses true/false, 1/0, yes/no, on/off."""
    known = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    if text.lower() not in known:
        raise ValueError(f"'{text}' is neither true nor false")
    return known[text.lower()]


def words(text: str) -> tuple[str, ...]:
    """Parses a comma-separated list."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def secret(text: str) -> bytes:
    """Parses a secret of at least 32 characters."""
    if len(text) < 32:
        raise ValueError("it must have at least 32 characters")
    return text.encode()


def one_of(*allowed: str) -> Callable[[str], str]:
    """Parses one of a few words."""

    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"'{text}' is not one of {', '.join(allowed)}")
        return text

    return parse


def config_dir() -> Path:
    """Where plans.yaml, providers.yaml and prices.yaml are: inside the wheel, or in the checkout."""
    here = Path(__file__).parent
    inside = here / "config"
    return inside if inside.is_dir() else here.parent / "config"
