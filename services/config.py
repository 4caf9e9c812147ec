"""Reads YAML files of settings so that what is wrong in them is told with its line."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from typing import Any

import yaml


class ConfigError(Exception):
    """A file of settings is wrong; the text names the file, the line, the place and the field."""


_REQUIRED = object()


class Entry:
    """A mapping of the file whose fields are taken one by one; what is left over is a mistake."""

    def __init__(self, node: yaml.Node, file: str, place: str = "") -> None:
        """`place` is how errors call it (", tier pro")."""
        self.place = place
        self._file = file
        self._node = node
        self._fields: dict[str, yaml.Node] = {}
        self._taken: set[str] = set()
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{file} line {node.start_mark.line + 1}{place}: must be a mapping of fields")
        for key, value in node.value:
            if key.value in self._fields:
                raise ConfigError(f"{file} line {key.start_mark.line + 1}{place}: '{key.value}' is given twice")
            self._fields[key.value] = value

    @property
    def names(self) -> list[str]:
        """The fields that are there, in order."""
        return list(self._fields)

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

    def within(self, name: str, place: str) -> Entry:
        """The mapping that the field `name` holds."""
        return self.take(name, lambda node: Entry(node, self._file, place))  # type: ignore[no-any-return]

    def finish(self) -> None:
        """Raises if a field was not taken."""
        for name in self._fields.keys() - self._taken:
            raise self.error(name, "is not a field here")

    def error(self, name: str, problem: str) -> ConfigError:
        """What is wrong with the field `name`."""
        line = self._fields.get(name, self._node).start_mark.line + 1
        return ConfigError(f"{self._file} line {line}{self.place}: {name} {problem}")


def read_file(text: str, file: str) -> Entry:
    """The outermost mapping of a file's text; `file` is how errors call it."""
    try:
        root = yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{file}{where}: this is not YAML: {getattr(error, 'problem', None) or error}") from None
    if root is None:
        raise ConfigError(f"{file}: the file is empty")
    return Entry(root, file)


def read_text(node: yaml.Node) -> str:
    """Text."""
    if not isinstance(node, yaml.ScalarNode) or not 1 <= len(node.value) <= 200:
        raise ValueError("must be text of 1 to 200 characters")
    return str(node.value)


def read_list(node: yaml.Node) -> list[yaml.Node]:
    """A list."""
    if not isinstance(node, yaml.SequenceNode):
        raise ValueError("must be a list")
    return list(node.value)


def read_whole(least: int, most: int) -> Callable[[yaml.Node], int]:
    """A whole number from `least` to `most`."""

    def read(node: yaml.Node) -> int:
        text = node.value if isinstance(node, yaml.ScalarNode) else ""
        if not re.fullmatch(r"\d{1,19}", text) or not least <= int(text) <= most:
            raise ValueError(f"must be a whole number from {least} to {most}, not '{text}'")
        return int(text)

    return read


def read_day(node: yaml.Node) -> str:
    """A day as YYYY-MM-DD."""
    text = node.value if isinstance(node, yaml.ScalarNode) else ""
    try:
        if re.fullmatch(r"\d{4}-\d\d-\d\d", text):
            return date.fromisoformat(text).isoformat()
    except ValueError:
        pass
    raise ValueError(f"must be a day as YYYY-MM-DD, not '{text}'")
