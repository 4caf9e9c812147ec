"""Finding Mermaid source inside an answer, whole or in pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.generator.source import KINDS, Extractor, harmless, kind_of

FLOW = 'flowchart TD\n    a["One"] --> b\n\n    b --> c'
ANSWERS = {
    FLOW: FLOW,
    FLOW + "\n": FLOW,
    f"\n\n  {FLOW}\n\n \n": FLOW,
    f"```mermaid\n{FLOW}\n```": FLOW,
    f"```\n{FLOW}\n```\n": FLOW,
    f"````mermaid\n{FLOW}\n````": FLOW,
    f"Here is your diagram:\n\n```mermaid\n{FLOW}\n```\n\nTell me more.\n```mermaid\npie\n```": FLOW,
    f"Sure!\n\n{FLOW}": FLOW,
    f"```mermaid\r\n{FLOW}\r\n```".replace("\n", "\r\n"): FLOW,
    f"```mermaid\n{FLOW}": FLOW,
    f"  ```mermaid\n{FLOW}\n  ```": FLOW,
    "Timeline of events:\n\n```mermaid\ntimeline\n  1969 : Moon\n```": "timeline\n  1969 : Moon",
    'mindmap\n  root(("`x`"))': 'mindmap\n  root(("`x`"))',
    "I cannot draw that.": "",
    "": "",
    "```": "",
}


def extracted(pieces: list[str]) -> tuple[str, list[str]]:
    extractor = Extractor()
    given_out = [extractor.feed(piece) for piece in pieces] + [extractor.finish()]
    return extractor.source, given_out


@pytest.mark.parametrize("answer", ANSWERS)
def test_fences_and_chatter_are_removed(answer: str) -> None:
    assert extracted([answer])[0] == ANSWERS[answer]


@given(answer=st.sampled_from(sorted(ANSWERS)), cuts=st.lists(st.integers(0, 120), max_size=40))
def test_pieces_make_no_difference(answer: str, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(answer)) for cut in cuts), len(answer)]
    pieces = [answer[a:b] for a, b in zip(edges, edges[1:], strict=False)]
    source, given_out = extracted(pieces)
    assert source == ANSWERS[answer]
    assert "".join(given_out) == source


@given(
    answer=st.text(alphabet="`\n ab%{}-", max_size=60).map(lambda text: f"flowchart TD\n{text}"), cut=st.integers(0, 70)
)
def test_whatever_comes_two_pieces_are_as_one(answer: str, cut: int) -> None:
    assert extracted([answer[:cut], answer[cut:]])[0] == extracted([answer])[0]


def test_text_is_given_out_while_its_line_is_still_being_written() -> None:
    extractor = Extractor()
    assert extractor.feed("```mermaid\nflowchart TD\n  a[") == "flowchart TD\n  a["
    assert extractor.feed("One") == "One"
    assert extractor.feed("]\n``") == "]"
    assert extractor.feed("`") == ""
    assert extractor.finish() == ""


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("flowchart TD", "flowchart"), ("graph LR;", "flowchart"), ("sequenceDiagram", "sequence"),
        ("classDiagram-v2", "class"), ("stateDiagram", "state"), ("erDiagram", "er"), ("gantt", "gantt"),
        ("mindmap", "mindmap"), ("pie title Pets", "pie"), ("pie showData", "pie"), ("journey", "journey"),
        ("timeline", "timeline"), ("quadrantChart", "quadrant"), ("gitGraph LR:", "gitgraph"), ("C4Container", "c4"),
        ("block-beta", "block"), ("architecture-beta", "architecture"), ("sankey-beta", "sankey"),
        ("%% a comment\n\nflowchart TD %% so", "flowchart"), ("---\ntitle: x\n---\npie", "pie"),
        ("%%{init: {}}%%\ngantt", "gantt"), ("kanban", None), ("Pie charts are round", None), ("", None),
        ("flowcharts are fun", None), ("timeline of events", None),
    ],
)  # fmt: skip
def test_the_kind_is_read_from_the_first_line(line: str, kind: str | None) -> None:
    assert kind_of(line) == kind


def test_sixteen_kinds() -> None:
    assert len(KINDS) == 16


def test_configuration_is_taken_out() -> None:
    hostile = (
        "---\nconfig:\n  securityLevel: loose\n---\n"
        '%%{init: {"securityLevel": "loose",\n "flowchart": {"htmlLabels": true}}}%%\n'
        "flowchart TD\n  a --> b\n  %%{wrap}%%\n  b --> c\n"
    )
    assert harmless(hostile) == "flowchart TD\n  a --> b\n    b --> c"
    assert kind_of(hostile) == "flowchart"
