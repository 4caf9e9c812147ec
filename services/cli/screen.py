"""What people see: one live line while they wait, then the diagram."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table

PAUSED = {
    "provider_limit": "the provider asked for a break",
    "provider_down": "the provider does not answer",
    "provider_account": "the provider refuses the site's account",
    "spend_limit": "today's spend limit is reached",
    "operator": "the operator has paused the queue",
    "storage": "a store is being repaired",
}

PIPE_COLUMNS = 500
"""A pipe has no width to fit a table to; rich takes 80 and cuts."""


def duration(milliseconds: int) -> str:
    """In the largest two units: "4 min 10 s"."""
    seconds = -(-milliseconds // 1000)
    minutes, hours = seconds // 60, seconds // 3600
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min {seconds % 60} s" if minutes else f"{seconds} s"


def place(told: Mapping[str, Any]) -> str:
    """Place and wait, or why it stands still."""
    position = f"number {told.get('position', '?')} in line"
    if told.get("paused"):
        return f"Waiting: {PAUSED.get(told['paused'], told['paused'])}. Your place is kept ({position})."
    return f"Queued: {position}, about {duration(told.get('estimatedWait', 0))}"


class Progress:
    """The live line's words, event by event."""

    def __init__(self) -> None:
        self._written = 0

    def words(self, event: Mapping[str, Any]) -> str:
        """What the line says after `event`."""
        kind = event.get("type")
        if kind == "status":
            return place(event)
        if kind == "retrying":
            return f"Waiting: {event.get('reason')} Trying again in {duration(event.get('delay', 0))}."
        if kind == "delta":
            if event.get("offset") == 0:
                self._written = 0
            self._written += len(event.get("text", ""))
            return f"Drawing: {self._written} characters so far"
        self._written = 0
        attempt = event.get("attempt", 1)
        return "Drawing" if attempt == 1 else f"Drawing (attempt {attempt})"


class Screen:
    """Progress on stderr, results on stdout, so that results can be piped."""

    def __init__(self) -> None:
        self._results = Console(highlight=False, soft_wrap=True)
        if not self._results.is_terminal:
            self._results.width = PIPE_COLUMNS
        self._progress = Console(stderr=True, highlight=False)

    @contextmanager
    def line(self, words: str) -> Iterator[Status | None]:
        """A line that is replaced as things change; nothing where stderr is no terminal."""
        if not self._progress.is_terminal:
            yield None
            return
        with self._progress.status(escape(words)) as status:
            yield status

    def say(self, text: str) -> None:
        """A result for people."""
        self._results.print(visible(text), markup=False)

    def note(self, text: str) -> None:
        """Something beside the result."""
        self._progress.print(visible(text), markup=False)

    def table(self, table: Table) -> None:
        """Rows for people."""
        self._results.print(table, soft_wrap=False)

    def diagram(self, source: str) -> None:
        """Drawn where there is a terminal and the kind can be drawn with characters, else its source."""
        drawing = ascii_drawing(source) if self._results.is_terminal else None
        self.say(drawing if drawing is not None else source)


def visible(text: str) -> str:
    """Without control characters: what a model wrote must not steer a terminal."""
    return "".join(c for c in text if c in "\n\t" or c.isprintable())


def ascii_drawing(source: str) -> str | None:
    """The diagram in characters; None where merman is not installed or cannot draw this kind."""
    try:
        import merman
    except ImportError:
        return None
    try:
        drawing: str = merman.Merman().render_ascii(source, None)
    except merman.MermanError:
        return None
    return drawing.rstrip("\n")


def complain(sentence: str) -> None:
    """An error, in one sentence."""
    print(f"headgate: {visible(sentence)}", file=sys.stderr)


def print_json(value: Any) -> None:
    """A result for programs: one line, told at once."""
    print(json.dumps(value, ensure_ascii=False), flush=True)
