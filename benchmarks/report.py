"""Tables for people, and the sections of docs/performance.md that benchmarks write themselves."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def write_section(path: Path, name: str, content: str) -> None:
    """Puts `content` between the markers of that name; they must be there."""
    text = path.read_text()
    begin, end = f"<!-- {name}: written by its benchmark -->", f"<!-- end of {name} -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"{path} has no section '{name}': it needs the lines {begin} and {end}")
    path.write_text(pattern.sub(lambda _: f"{begin}\n\n{content}\n{end}", text))
