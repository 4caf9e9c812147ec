"""Mermaid source inside a model's answer: finds it while it streams, and names its kind."""

from __future__ import annotations

import enum
import re

KINDS = {
    "flowchart": r"(?:flowchart|graph)(?:-elk)?(?:[ \t]+(?:TB|TD|BT|RL|LR))?[ \t]*;?",
    "sequence": r"sequenceDiagram",
    "class": r"classDiagram(?:-v2)?",
    "state": r"stateDiagram(?:-v2)?",
    "er": r"erDiagram",
    "gantt": r"gantt",
    "mindmap": r"mindmap",
    "pie": r"pie(?:[ \t]+showData)?(?:[ \t]+title\b.*)?",
    "journey": r"journey",
    "timeline": r"timeline(?:[ \t]+(?:LR|TD))?",
    "quadrant": r"quadrantChart",
    "gitgraph": r"gitGraph(?:[ \t]+(?:LR|TB|BT))?[ \t]*:?",
    "c4": r"C4(?:Context|Container|Component|Dynamic|Deployment)",
    "block": r"block(?:-beta)?",
    "architecture": r"architecture(?:-beta)?",
    "sankey": r"sankey(?:-beta)?",
}
"""The public contract's kinds and the first line of each."""

_HEADS = {kind: re.compile(rf"\s*{head}\s*(?:%%.*)?$") for kind, head in KINDS.items()}
_FENCE = re.compile(r"\s*`{3,}[ \t]*(?:mermaid|mmd)?[ \t]*(?P<rest>.*)$", re.IGNORECASE)
_FRONT_MATTER = re.compile(r"\A\s*---[ \t]*\n.*?\n[ \t]*---[ \t]*(?:\n|\Z)", re.DOTALL)
_DIRECTIVE = re.compile(r"%%\{.*?\}%%[ \t]*\n?", re.DOTALL)


def kind_of(source: str) -> str | None:
    """The kind of a source, by its first line; None if it is none of the contract's."""
    for line in harmless(source).split("\n"):
        if line.strip() and not line.lstrip().startswith("%%"):
            return _kind_of_line(line)
    return None


def harmless(source: str) -> str:
    """The source without configuration: a directive or front matter could loosen the reader's own security level."""
    return _DIRECTIVE.sub("", _FRONT_MATTER.sub("", source)).strip("\n")


def _kind_of_line(line: str) -> str | None:
    return next((kind for kind, head in _HEADS.items() if head.match(line)), None)


def _begins_source(line: str) -> bool:
    return line.lstrip().startswith("%%{") or line.strip() == "---" or _kind_of_line(line) is not None


class _Mode(enum.Enum):
    SEEKING = enum.auto()
    INSIDE = enum.auto()
    DONE = enum.auto()


class Extractor:
    """Takes an answer in pieces and gives the source in pieces: no fence, no chatter, no white space around it."""

    def __init__(self) -> None:
        self._mode = _Mode.SEEKING
        self._given: list[str] = []
        self._line = ""
        """What came of the current line and was not given out."""
        self._line_begun = False
        """Whether a part of the current line was given out."""
        self._blank = ""
        """White space that is given out only if something follows it."""

    @property
    def source(self) -> str:
        """All that was given out so far."""
        return "".join(self._given)

    def feed(self, text: str) -> str:
        """The next piece of the answer; returns what can be given out now (may be empty)."""
        given = []
        for part in re.split(r"(\n)", text.replace("\r", "")):
            if part == "\n":
                given.append(self._end_line())
            elif self._mode is not _Mode.DONE:
                self._line += part
                # A line that may still turn out to be the closing fence waits.
                if self._mode is _Mode.INSIDE and (self._line_begun or not _may_be_fence(self._line)):
                    given.append(self._give())
        return "".join(given)

    def finish(self) -> str:
        """The answer is complete; returns the rest."""
        return self._end_line()

    def _end_line(self) -> str:
        if self._mode is _Mode.SEEKING:
            self._look_for_start()
        elif self._mode is _Mode.INSIDE and not self._line_begun and self._line.lstrip().startswith("```"):
            self._mode = _Mode.DONE
        if self._mode is not _Mode.INSIDE:
            self._line = ""
            return ""
        given = self._give()
        self._blank += "\n"
        self._line_begun = False
        return given

    def _look_for_start(self) -> None:
        fence = _FENCE.match(self._line)
        if fence:
            self._line = fence["rest"] if _begins_source(fence["rest"]) else ""
        if fence or _begins_source(self._line):
            self._mode = _Mode.INSIDE

    def _give(self) -> str:
        text = self._blank + self._line
        if not self._given:
            text = text.lstrip()
        body = text.rstrip()
        self._blank, self._line, self._line_begun = text[len(body) :], "", True
        if body:
            self._given.append(body)
        return body


def _may_be_fence(line: str) -> bool:
    return "```".startswith(line.lstrip()[:3])
