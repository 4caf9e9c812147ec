"""The words of a prompt, as labels that every kind of diagram can hold."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

LABEL_CHARACTERS = 48
MOST_PHRASES = 10
FEWEST_PHRASES = 3

_LEAD_IN = re.compile(
    r"^\s*(?:(?:please|can you|could you|i (?:want|need)|give|draw|create|make|show|generate|build|design|write|sketch"
    r"|visuali[sz]e|illustrate|model|map(?: out)?|plan|me|us|an?|the|my|our|simple|detailed|mermaid"
    r"|flow ?chart|sequence|class|state|er|entity[- ]relationship|gantt|mind ?map|pie|user journey|journey|timeline"
    r"|quadrant|git ?graph|c4|block|architecture|sankey|diagram|chart|graph"
    r"|of|for|about|showing|that shows?|which shows?|with|describing|to|how)\b[\s:,-]*)+",
    re.IGNORECASE,
)
_BREAK = re.compile(
    # With the sentence marks of Chinese, Japanese and Arabic.
    r"[.!;:,\n\r()\[\]{}|\u3002\u3001\uff0c\uff1b\uff1a\uff01\u061b\u060c]+|\s*(?:->|→|=>|⇒)\s*"
    r"|\s+(?:then|and then|and|or|if|when|followed by|after that)\s+",
    re.IGNORECASE,
)
_NAME = re.compile(r"(?<=[\w,;] )[A-Z][\w-]*(?: [A-Z][\w-]*)*|[A-Z][\w-]*(?: [A-Z][\w-]*)+")
_SMALL = frozenset(
    re.findall(
        r"\w+",
        "a an the it its is are was be to of in on at by for from with as this that these those them they he she we you"
        " i my our your their his her all any some each if so no not yes up out off over then",
    )
)
_FILLER = re.compile(r"^(?:(?:the|an?|then|and|or|first|finally|next|also|it|with)\s+)+", re.IGNORECASE)
# What some kind's grammar, or Mermaid's own comment, entity or directive syntax, would read as more than text.
_SYNTAX = re.compile(r"[\"<>{}\[\]()|;#:,%`\\$@^~=*_]+|-{2,}|\.{2,}")
# A line that begins with one of these is a statement in the kinds whose labels stand bare.
_STATEMENTS = re.compile(
    r"^(?:title|section|click|call|href|acctitle|accdescr|dateformat|axisformat|tickinterval|excludes|includes"
    r"|todaymarker|inclusiveenddates|topaxis|weekday|weekend|end|note|loop|alt|else|opt|par|participant|actor)\b",
    re.IGNORECASE,
)
_YEAR = re.compile(r"\b(1[5-9]\d\d|20\d\d)\b")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Topic:
    """What a prompt is about."""

    title: str
    phrases: tuple[str, ...]
    """At least three, all different."""
    nouns: tuple[str, ...]
    """At least two names of things or people, all different."""


def topic_of(prompt: str) -> Topic:
    """Reads a prompt as a model would: what to call the diagram, its steps, its things."""
    body = _LEAD_IN.sub("", prompt, count=1)
    head, colon, tail = body.partition(":")
    title = label(_BREAK.split(body.strip(), maxsplit=1)[0]) or label(body) or "Overview"
    steps = tail if colon and len(head) < 80 and tail.strip() else body
    phrases = _distinct(label(_FILLER.sub("", part)) for part in _BREAK.split(steps) if part)
    if len(phrases) < FEWEST_PHRASES:
        phrases = _distinct([*phrases, *(label(word) for word in body.split() if len(word) > 2)])
    phrases = _distinct(
        [*phrases[:MOST_PHRASES], *(["Start", "Work", "Done"] if len(phrases) < FEWEST_PHRASES else [])]
    )
    nouns = _distinct([*_names_in(steps), *_last_words(phrases), "User", "System"])
    return Topic(title, tuple(phrases), tuple(nouns[:6]))


def label(text: str) -> str:
    """Text for a label: one line, without what Mermaid would read as syntax; may be empty.

    Letters of every script, emoji and their joiners stay; controls and direction overrides go.
    """
    text = _SYNTAX.sub(" ", text)
    text = "".join(c for c in text if c in "\u200d\ufe0f " or unicodedata.category(c)[0] not in "CZ" or c.isspace())
    words: list[str] = []
    for word in text.split():
        if len(" ".join([*words, word])) > LABEL_CHARACTERS:
            break
        words.append(word)
    cut = " ".join(words) or text.strip()[:LABEL_CHARACTERS]
    cut = cut.strip(" -'&/+.").strip("\u200d\ufe0f")
    return cut[:1].upper() + cut[1:] if cut[:1].upper().isalpha() and len(cut[:1].upper()) == 1 else cut


def bare(text: str) -> str:
    """A label for a line that begins with it."""
    return f"The {text[:1].lower()}{text[1:]}" if _STATEMENTS.match(text) else text


def year_in(text: str) -> str | None:
    """The first year that a phrase names."""
    found = _YEAR.search(text)
    return found[0] if found else None


def number_in(text: str) -> float | None:
    """The first number above zero that a phrase names."""
    return next((float(n) for n in _NUMBER.findall(text)[:1] if 0 < float(n) < 1e9 and n.isascii()), None)


def _names_in(text: str) -> list[str]:
    return [label(_FILLER.sub("", name)) for name in _NAME.findall(text) if name.lower() not in _SMALL]


def _last_words(phrases: list[str]) -> list[str]:
    words = [phrase.split()[-1].rstrip("?!") for phrase in phrases]
    return [word[:1].upper() + word[1:] for word in words if word.lower() not in _SMALL and not word.isdigit()]


def _distinct(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(text for text in texts if text))
