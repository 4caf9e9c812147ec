"""The tiers of config/plans.yaml, read with errors that name the line and the tier."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import yaml

from services.config import Entry, read_file, read_list, read_text, read_whole

MAX_TIERS = 32
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_INT32 = 2**31 - 1
_INT64 = 2**63 - 1


@dataclass(frozen=True)
class Tier:
    """What a tier gives. `price_nano_usd_per_month` is None where the price is agreed on with each user."""

    name: str
    title: str
    requests_per_day: int
    outstanding: int
    share: int
    price_nano_usd_per_month: int | None
    price: str
    models: tuple[str, ...]
    all_models: bool
    upgrade_url: str


class Plans:
    """All tiers, lowest first."""

    def __init__(self, tiers: Sequence[Tier], default: str) -> None:
        self.tiers = tuple(tiers)
        self.default = default
        self._by_name = {tier.name: tier for tier in tiers}

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def tier(self, name: str) -> Tier:
        """The tier of that name. KeyError if there is none."""
        return self._by_name[name]

    def above(self, name: str) -> Tier | None:
        """The next tier up; None at the top."""
        rank = self.tiers.index(self._by_name[name]) + 1
        return self.tiers[rank] if rank < len(self.tiers) else None


def read_plans(text: str, file: str) -> Plans:
    """Reads and checks the text of a plans file; `file` is how errors call it."""
    top = read_file(text, file)
    names = top.take("tiers", read_list)
    if not 1 <= len(names) <= MAX_TIERS:
        raise top.error("tiers", f"must list 1 to {MAX_TIERS} tiers")
    tiers: list[Tier] = []
    for node in names:
        tiers.append(_tier(Entry(node, file, ", tier"), tiers))
    default = top.take("default_tier", read_text)
    if default not in {tier.name for tier in tiers}:
        raise top.error("default_tier", f"'{default}' is not one of the tiers")
    top.finish()
    return Plans(tiers, default)


def _tier(entry: Entry, lower: Sequence[Tier]) -> Tier:
    name = entry.take("name", read_text)
    entry.place = f", tier {name}"
    if not _NAME.fullmatch(name):
        raise entry.error("name", "must be a lower-case word of at most 32 characters")
    if name in {tier.name for tier in lower}:
        raise entry.error("name", "is used twice")
    models, all_models = entry.take("models", _models)
    tier = Tier(
        name=name,
        title=entry.take("title", read_text),
        requests_per_day=entry.take("requests_per_day", read_whole(1, _INT64)),
        outstanding=entry.take("outstanding", read_whole(1, _INT32)),
        share=entry.take("share", read_whole(1, _INT32)),
        price_nano_usd_per_month=entry.take("price_nano_usd_per_month", read_whole(0, _INT64), None),
        price=entry.take("price", read_text),
        models=models,
        all_models=all_models,
        upgrade_url=entry.take("upgrade_url", read_text, ""),
    )
    if lower and tier.requests_per_day < lower[-1].requests_per_day:
        raise entry.error("requests_per_day", f"is below that of {lower[-1].name}, but tiers go from lowest to highest")
    entry.finish()
    return tier


def _models(node: yaml.Node) -> tuple[tuple[str, ...], bool]:
    if isinstance(node, yaml.ScalarNode) and node.value in ("default", "all"):
        return (), node.value == "all"
    if isinstance(node, yaml.SequenceNode) and node.value:
        return tuple(read_text(item) for item in node.value), False
    raise ValueError("must be 'default', 'all' or a list of model ids")
