"""A user's own terms on the command line."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping

NAMES = {
    "requestsPerDay": "requests a UTC day",
    "requestsPerMinute": "requests a minute",
    "tokensPerDay": "tokens a UTC day",
    "spendNanoUsdPerMonth": "cost of a UTC month in nano-dollars",
    "spendNanoUsdPerDay": "cost in nano-dollars at which a UTC day's requests wait",
    "outstanding": "requests queued or running at once",
    "priceNanoUsd": "price of a month in nano-dollars",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """One option for each term."""
    for name, words in NAMES.items():
        option = "--" + re.sub("[A-Z]", lambda found: "-" + found[0].lower(), name)
        # SUPPRESS tells "none", which takes a term back, from an option that was not given.
        parser.add_argument(option, dest=name, type=_number, metavar="N|none", default=argparse.SUPPRESS, help=words)


def _number(text: str) -> int | None:
    if text != "none" and not re.fullmatch(r"[0-9]{1,19}", text):
        raise argparse.ArgumentTypeError(f"'{text}' is neither a whole number nor none")
    return None if text == "none" else int(text)


def changes(options: argparse.Namespace) -> dict[str, int | None]:
    """What was asked for, as the gateway reads it."""
    return {name: getattr(options, name) for name in NAMES if hasattr(options, name)}


def words(own: Mapping[str, int]) -> str:
    """A user's own terms for people."""
    return "; ".join(f"{NAMES.get(name, name)}: {value}" for name, value in own.items()) or "the terms of the tier"
