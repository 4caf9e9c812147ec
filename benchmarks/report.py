"""Tables for people, and the sections of docs/performance.md that benchmarks write themselves."""

from __future__ import annotations

import argparse
import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark in real time has."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--write", type=Path, help="put the table into its section of this file")
    made.add_argument("--timeline", type=Path, metavar="FOLDER", help="write there what happened in each second")
    return made


def publish(write: Path | None, name: str, title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table, and writes it into its section of a file if one is given."""
    table = Table(*heads, title=title)
    for row in rows:
        table.add_row(*row)
    Console(width=150).print(table)
    if write:
        where = f"{os.cpu_count()} cores, Python {platform.python_version()}, everything on the same machine."
        write_section(write, name, f"{title}. {where}\n\n{markdown(heads, rows)}")


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
