"""Draws what a prompt is about as Mermaid source of one kind."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from services.emulator.phrases import Topic, bare, number_in, year_in


def draw(kind: str, topic: Topic, rng: random.Random) -> str:
    """Mermaid source of the kind, without fences. KeyError if the kind is unknown."""
    return "\n".join(DRAW[kind](topic, rng)) + "\n"


def best_kind(prompt: str) -> str:
    """The kind that fits a prompt which names none."""
    text = prompt.lower()
    return next((kind for kind, words in _SIGNS if re.search(words, text)), "flowchart")


_SIGNS = (
    ("sequence", r"sequence|handshake|request and response|protocol|login flow|calls? between|api call|oauth"),
    ("class", r"\bclass(es)?\b|inherit|object model|uml"),
    ("state", r"\bstates?\b|state machine|lifecycle|life cycle|transition"),
    ("er", r"entit|relationship|database schema|\btables?\b|\ber\b"),
    ("gantt", r"gantt|schedule|project plan|milestone|roadmap|sprint"),
    ("mindmap", r"mind ?map|brainstorm|ideas"),
    ("pie", r"\bpie\b|percent|share of|breakdown|distribution|%"),
    ("journey", r"journey|experience of"),
    ("timeline", r"timeline|history of|chronolog|over the years"),
    ("quadrant", r"quadrant|priorit|effort (and|vs)|impact"),
    ("gitgraph", r"\bgit\b|branch|merge|commit"),
    ("c4", r"\bc4\b|system context"),
    ("sankey", r"sankey|flows? of (money|energy)|energy|budget"),
    ("architecture", r"architecture|cloud|microservice|deployment|infrastructure"),
    ("block", r"block"),
)


def _flowchart(topic: Topic, rng: random.Random) -> list[str]:
    lines = [f"flowchart {rng.choice(('TD', 'TD', 'LR'))}"]
    steps = topic.phrases
    for i, step in enumerate(steps):
        shape = '{"%s"}' if "?" in step else '(["%s"])' if i in (0, len(steps) - 1) else '["%s"]'
        lines.append(f"    n{i}{shape % step}")
    for i, step in enumerate(steps[:-1]):
        lines.append(f"    n{i} -->{'|yes|' if '?' in step else ''} n{i + 1}")
        if "?" in step:
            lines.append(f"    n{i} -->|no| n{i + 2 if i + 2 < len(steps) else max(0, i - 1)}")
    return lines


def _sequence(topic: Topic, rng: random.Random) -> list[str]:
    people = topic.nouns[:4]
    lines = ["sequenceDiagram", *(f"    participant p{i} as {name}" for i, name in enumerate(people))]
    here = 0
    for i, step in enumerate(topic.phrases):
        there = (here + 1) % len(people) if i % 3 < 2 else max(0, here - 1)
        lines.append(f"    p{here}{'->>' if there > here else '-->>'}p{there}: {step}")
        here = there
    return lines


def _class(topic: Topic, rng: random.Random) -> list[str]:
    names = topic.nouns
    lines = ["classDiagram"]
    for i, name in enumerate(names):
        field = rng.choice(("String name", "Date createdAt", "String status"))
        lines += [
            f'    class C{i}["{name}"] {{',
            "        +int id",
            f"        +{field}",
            "        +save() bool",
            "    }",
        ]
    for i, phrase in enumerate(topic.phrases[: len(names) - 1]):
        lines.append(f"    C{i} {rng.choice(('-->', 'o--', '*--'))} C{i + 1} : {phrase}")
    return lines


def _state(topic: Topic, rng: random.Random) -> list[str]:
    states = topic.phrases
    lines = ["stateDiagram-v2", *(f"    s{i} : {state}" for i, state in enumerate(states)), "    [*] --> s0"]
    lines += [f"    s{i} --> s{i + 1}" for i in range(len(states) - 1)]
    back = rng.randrange(1, len(states))
    return [*lines, f"    s{back} --> s{back - 1} : retry", f"    s{len(states) - 1} --> [*]"]


def _er(topic: Topic, rng: random.Random) -> list[str]:
    names = topic.nouns
    lines = ["erDiagram"]
    for i, name in enumerate(names):
        extra = rng.choice(("date created_at", "string status", "int amount"))
        lines += [f'    E{i}["{name}"] {{', "        int id PK", "        string name", f"        {extra}", "    }"]
    for i in range(len(names) - 1):
        lines.append(f'    E{i} {rng.choice(("||--o{", "||--|{", "||--||"))} E{i + 1} : "has"')
    return lines


def _gantt(topic: Topic, rng: random.Random) -> list[str]:
    lines = ["gantt", f"    title {topic.title}", "    dateFormat YYYY-MM-DD"]
    start = f"2027-01-{rng.randrange(4, 9):02}"
    for i, task in enumerate(topic.phrases):
        if i % 4 == 0:
            lines.append(f"    section {topic.nouns[(i // 4) % len(topic.nouns)]}")
        when = start if i == 0 else f"after t{i - 1}"
        lines.append(f"    {bare(task)} :t{i}, {when}, {rng.randrange(2, 10)}d")
    return lines


def _mindmap(topic: Topic, rng: random.Random) -> list[str]:
    lines = ["mindmap", f'  root(("{topic.title}"))']
    for i, phrase in enumerate(topic.phrases):
        lines.append(f'    n{i}["{phrase}"]')
        words = phrase.split()
        if len(words) > 1 and rng.random() < 0.7:
            lines += [f'      n{i}x{j}["{word}"]' for j, word in enumerate(words[:3]) if len(word) > 3]
    return lines


def _pie(topic: Topic, rng: random.Random) -> list[str]:
    parts = [(phrase, number_in(phrase) or rng.randrange(5, 45)) for phrase in topic.phrases]
    return ["pie showData", f"    title {topic.title}", *(f'    "{name}" : {value:g}' for name, value in parts)]


def _journey(topic: Topic, rng: random.Random) -> list[str]:
    lines = ["journey", f"    title {topic.title}"]
    for i, step in enumerate(topic.phrases):
        if i % 3 == 0:
            lines.append(f"    section {topic.nouns[(i // 3) % len(topic.nouns)]}")
        lines.append(f"      {bare(step)}: {rng.randrange(1, 6)}: {topic.nouns[0]}")
    return lines


def _timeline(topic: Topic, rng: random.Random) -> list[str]:
    lines = ["timeline", f"    title {topic.title}"]
    for i, phrase in enumerate(topic.phrases):
        lines.append(f"    {year_in(phrase) or f'Phase {i + 1}'} : {phrase}")
    return lines


def _quadrant(topic: Topic, rng: random.Random) -> list[str]:
    points = [f'    "{name}": [{rng.uniform(0.1, 0.9):.2f}, {rng.uniform(0.1, 0.9):.2f}]' for name in topic.phrases]
    axes = ["    x-axis Low Effort --> High Effort", "    y-axis Low Impact --> High Impact"]
    names = ("Plan well", "Do first", "Drop", "Do later")
    corners = [f"    quadrant-{i + 1} {name}" for i, name in enumerate(names)]
    return ["quadrantChart", f'    title "{topic.title}"', *axes, *corners, *points]


def _gitgraph(topic: Topic, rng: random.Random) -> list[str]:
    steps = topic.phrases
    middle = rng.randrange(1, len(steps))
    lines = ["gitGraph", *(f'    commit id: "{step}"' for step in steps[:middle])]
    lines += ["    branch feature", "    checkout feature", *(f'    commit id: "{step}"' for step in steps[middle:])]
    return [*lines, "    checkout main", "    merge feature"]


def _c4(topic: Topic, rng: random.Random) -> list[str]:
    person, *systems = topic.nouns
    lines = ["C4Context", f"    title {topic.title}", f'    Person(p, "{person}", "{topic.phrases[0]}")']
    for i, name in enumerate(systems):
        about = topic.phrases[(i + 1) % len(topic.phrases)]
        lines.append(f'    {"System" if i == 0 or rng.random() < 0.6 else "System_Ext"}(s{i}, "{name}", "{about}")')
    lines.append('    Rel(p, s0, "Uses")')
    return [
        *lines,
        *(f'    Rel(s{i}, s{i + 1}, "{rng.choice(("Calls", "Reads", "Notifies"))}")' for i in range(len(systems) - 1)),
    ]


def _block(topic: Topic, rng: random.Random) -> list[str]:
    steps = topic.phrases
    width = 3 if len(steps) > 4 else 2
    rows = [range(i, min(i + width, len(steps))) for i in range(0, len(steps), width)]
    lines = ["block-beta", f"    columns {width}"]
    lines += ["    " + " ".join(f'b{i}["{steps[i]}"]' for i in row) for row in rows]
    return [*lines, *(f"    b{i} --> b{i + 1}" for i in range(len(steps) - 1))]


def _architecture(topic: Topic, rng: random.Random) -> list[str]:
    icons = ("server", "database", "disk", "internet", "cloud")
    names = topic.nouns
    lines = ["architecture-beta", f"    group g(cloud)[{_words(topic.title)}]"]
    lines += [f"    service s{i}({icons[i % 5]})[{_words(name)}] in g" for i, name in enumerate(names)]
    return [*lines, *(f"    s{i}:R --> L:s{i + 1}" for i in range(len(names) - 1))]


def _words(text: str) -> str:
    """An architecture label stands bare in brackets: letters and digits of any script, nothing else, are safe."""
    kept = " ".join(re.sub(r"[^\w\s]", " ", text).split())
    return kept if re.search(r"\w", kept) else "Service"


def _sankey(topic: Topic, rng: random.Random) -> list[str]:
    source = topic.title
    lines = ["sankey-beta", ""]
    parts = [phrase for phrase in topic.phrases if phrase != source]
    for i, part in enumerate(parts):
        value = number_in(part) or rng.randrange(10, 90)
        lines.append(f"{source},{part},{value:g}")
        if i % 2 and rng.random() < 0.5:
            lines.append(f"{part},{'Savings' if part != 'Savings' else 'Rest'},{value / 2:g}")
    return lines


DRAW: dict[str, Callable[[Topic, random.Random], list[str]]] = {
    "flowchart": _flowchart, "sequence": _sequence, "class": _class, "state": _state, "er": _er, "gantt": _gantt,
    "mindmap": _mindmap, "pie": _pie, "journey": _journey, "timeline": _timeline, "quadrant": _quadrant,
    "gitgraph": _gitgraph, "c4": _c4, "block": _block, "architecture": _architecture, "sankey": _sankey,
}  # fmt: skip
