"""What the model would say: reads a conversation, as a model does, and answers it."""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.emulator.diagrams import DRAW, best_kind, draw
from services.emulator.faults import ASKED_FAULT
from services.emulator.phrases import topic_of

MOST_TOKENS = 100_000
"""Of an answer whose length was asked for."""
_PIECE = re.compile(r"\s*[^\s]{1,4}|\s+")
_KIND = re.compile(r"^Kind of diagram: (\w+)", re.MULTILINE)
_REQUEST = re.compile(r"<request>\n?(.*?)\n?</request>", re.DOTALL)
_ASKED_LENGTH = re.compile(r"\[emulate (\d+) tokens\]")
"""How a prompt asks for a longer answer than its words would get."""
_COMMENT_TOKENS = 31
"""Of a line of filler, its mark included; they have 3.5 characters each, about what real ones have."""
_HOPELESS = "%% this cannot be mended"
_BROKEN = "\n  ]]--(( [\n  :x ]]--(( [\n"
"""No kind's grammar takes both lines."""
_OPENINGS = ("Here is the diagram you asked for:", "Sure! Here's a Mermaid diagram:", "I've drawn it like this:")
_CLOSINGS = ("Let me know if you would like to change anything.", "It shows the main steps; more can be added.")


@dataclass(frozen=True)
class Conversation:
    """The texts of a Messages API body."""

    system: str
    first: str
    """The first user text."""
    last: str
    """The last user text."""
    replies: str
    """All earlier answers of the model; empty in the first turn."""
    characters: int
    """Of everything."""

    @property
    def input_tokens(self) -> int:
        """As the emulator bills them: about 3.6 characters each and a few for the frame."""
        return math.ceil(self.characters / 3.6) + 8

    @property
    def digest(self) -> bytes:
        """SHA-256 of the last user text."""
        return _digest(self.last)

    @property
    def first_digest(self) -> bytes:
        """SHA-256 of the first user text."""
        return _digest(self.first)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def conversation_of(body: Mapping[str, Any]) -> Conversation:
    """Reads a body that has been checked."""
    system = text_of(body.get("system") or "")
    turns = [(message["role"], text_of(message["content"])) for message in body["messages"]]
    asked = [text for role, text in turns if role == "user"]
    replies = "\n".join(text for role, text in turns if role == "assistant")
    size = len(system) + sum(len(text) for _, text in turns)
    return Conversation(system, asked[0], asked[-1], replies, size)


def text_of(content: str | Sequence[Mapping[str, Any]]) -> str:
    """The text of a string or of content blocks."""
    if isinstance(content, str):
        return content
    return "\n".join(str(block.get("text", "")) for block in content if block.get("type") == "text")


def answer_to(talk: Conversation, seed: str, fault: str) -> str:
    """The model's text; the same for the same seed and conversation."""
    rng = random.Random(f"{seed}\n{talk.first}\n{talk.last}")  # noqa: S311 - not for secrets
    if "mermaid" not in f"{talk.system}\n{talk.last}".lower():
        return _prose(talk.last, rng)
    request = _REQUEST.search(talk.first)
    prompt = request[1] if request else talk.first
    named = _KIND.search(talk.system)
    kind = named[1] if named and named[1] in DRAW else best_kind(prompt)
    source = draw(kind, topic_of(_ASKED_LENGTH.sub("", ASKED_FAULT.sub("", prompt))), rng)
    if length := _ASKED_LENGTH.search(prompt):
        source = _lengthened(source, min(int(length[1]), MOST_TOKENS))
    if fault == "bad_diagram" and not talk.replies:
        source += _BROKEN
    elif fault == "bad_diagram_always" or _HOPELESS in talk.replies:
        source += f"{_HOPELESS}{_BROKEN}"
    return _dressed(source, rng)


def pieces_of(text: str) -> list[str]:
    """The text in tokens."""
    return _PIECE.findall(text)


def _lengthened(source: str, tokens: int) -> str:
    """The diagram with comments after it, until it has about that many tokens."""
    missing = max(0, tokens - len(pieces_of(source)))
    line = "\n%%" + " and on" * (_COMMENT_TOKENS // 2)
    rest = "\n%%" + " and" * (missing % _COMMENT_TOKENS - 1) if missing % _COMMENT_TOKENS else ""
    return source.rstrip("\n") + line * (missing // _COMMENT_TOKENS) + rest + "\n"


def _dressed(source: str, rng: random.Random) -> str:
    style = rng.randrange(3)
    if style == 0:
        return source
    fenced = f"```mermaid\n{source}```"
    if style == 1:
        return fenced
    closing = f"\n\n{rng.choice(_CLOSINGS)}" if rng.random() < 0.5 else ""
    return f"{rng.choice(_OPENINGS)}\n\n{fenced}{closing}"


def _prose(prompt: str, rng: random.Random) -> str:
    topic = topic_of(prompt)
    points = " ".join(f"Consider {phrase}." for phrase in topic.phrases[: rng.randrange(2, 6)])
    return f"You asked about {topic.title}. {points} This answer comes from an emulator, not from Claude."
