"""The tiers of config/plans.yaml, read with errors that name the line and the tier."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

MAX_TIERS = 32
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_INT32 = 2**31 - 1
_INT64 = 2**63 - 1


class PlanError(Exception):
    """The plans file is wrong; the text names the file, the line, the tier and the field."""


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
    try:
        root = yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        raise PlanError(f"{file}{where}: this is not YAML: {getattr(error, 'problem', None) or error}") from None
    if root is None:
        raise PlanError(f"{file}: the file is empty")
    top = _Entry(root, file, "")
    names = top.take("tiers", _sequence)
    if not 1 <= len(names) <= MAX_TIERS:
        raise top.error("tiers", f"must list 1 to {MAX_TIERS} tiers")
    tiers: list[Tier] = []
    for node in names:
        tiers.append(_tier(_Entry(node, file, ", tier"), tiers))
    default = top.take("default_tier", _text)
    if default not in {tier.name for tier in tiers}:
        raise top.error("default_tier", f"'{default}' is not one of the tiers")
    top.finish()
    return Plans(tiers, default)


def _tier(entry: _Entry, lower: Sequence[Tier]) -> Tier:
    name = entry.take("name", _text)
    entry.place = f", tier {name}"
    if not _NAME.fullmatch(name):
        raise entry.error("name", "must be a lower-case word of at most 32 characters")
    if name in {tier.name for tier in lower}:
        raise entry.error("name", "is used twice")
    models, all_models = entry.take("models", _models)
    tier = Tier(
        name=name,
        title=entry.take("title", _text),
        requests_per_day=entry.take("requests_per_day", _whole(1, _INT64)),
        outstanding=entry.take("outstanding", _whole(1, _INT32)),
        share=entry.take("share", _whole(1, _INT32)),
        price_nano_usd_per_month=entry.take("price_nano_usd_per_month", _whole(0, _INT64), None),
        price=entry.take("price", _text),
        models=models,
        all_models=all_models,
        upgrade_url=entry.take("upgrade_url", _text, ""),
    )
    if lower and tier.requests_per_day < lower[-1].requests_per_day:
        raise entry.error("requests_per_day", f"is below that of {lower[-1].name}, but tiers go from lowest to highest")
    entry.finish()
    return tier


_REQUIRED = object()


class _Entry:
    """A mapping of the file whose fields are taken one by one; what is left over is a mistake."""

    def __init__(self, node: yaml.Node, file: str, place: str) -> None:
        self.place = place
        self._file = file
        self._node = node
        self._fields: dict[str, yaml.Node] = {}
        self._taken: set[str] = set()
        if not isinstance(node, yaml.MappingNode):
            raise PlanError(f"{file} line {node.start_mark.line + 1}{place}: must be a mapping of fields")
        for key, value in node.value:
            if key.value in self._fields:
                raise PlanError(f"{file} line {key.start_mark.line + 1}{place}: '{key.value}' is given twice")
            self._fields[key.value] = value

    def take(self, name: str, read: Callable[[yaml.Node], Any], default: Any = _REQUIRED) -> Any:
        """The field `name` as `read` understands it."""
        self._taken.add(name)
        if name not in self._fields:
            if default is _REQUIRED:
                raise self.error(name, "is missing")
            return default
        try:
            return read(self._fields[name])
        except ValueError as error:
            raise self.error(name, str(error)) from None

    def finish(self) -> None:
        """Raises if a field was not taken."""
        for name in self._fields.keys() - self._taken:
            raise self.error(name, "is not a field of plans")

    def error(self, name: str, problem: str) -> PlanError:
        line = self._fields.get(name, self._node).start_mark.line + 1
        return PlanError(f"{self._file} line {line}{self.place}: {name} {problem}")


def _text(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode) or not 1 <= len(node.value) <= 200:
        raise ValueError("must be text of 1 to 200 characters")
    return str(node.value)


def _sequence(node: yaml.Node) -> list[yaml.Node]:
    if not isinstance(node, yaml.SequenceNode):
        raise ValueError("must be a list")
    return list(node.value)


def _whole(least: int, most: int) -> Callable[[yaml.Node], int]:
    def read(node: yaml.Node) -> int:
        text = node.value if isinstance(node, yaml.ScalarNode) else ""
        if not re.fullmatch(r"\d{1,19}", text) or not least <= int(text) <= most:
            raise ValueError(f"must be a whole number from {least} to {most}, not '{text}'")
        return int(text)

    return read


def _models(node: yaml.Node) -> tuple[tuple[str, ...], bool]:
    if isinstance(node, yaml.ScalarNode) and node.value in ("default", "all"):
        return (), node.value == "all"
    if isinstance(node, yaml.SequenceNode) and node.value:
        return tuple(_text(item) for item in node.value), False
    raise ValueError("must be 'default', 'all' or a list of model ids")
