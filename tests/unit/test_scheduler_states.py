"""The diagrams of a request's states against the table that the code goes by."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from services.scheduler import life
from services.scheduler.life import BORN, TRANSITIONS, State

ROOT = Path(__file__).parents[2]
EDGE = re.compile(r"^\s*(\S+)\s*-->\s*([^\s:]+)", re.MULTILINE)
BEGUN = {("[*]", state.value) for state in BORN}
MOVED = {(state.value, after.value) for state, afters in TRANSITIONS.items() for after in afters}
OVER = {(state.value, "[*]") for state in State if state.ended}


def edges(text: str) -> list[tuple[str, str]]:
    return [(match[1], match[2]) for match in EDGE.finditer(text)]


def test_the_page_draws_what_the_table_says() -> None:
    diagram = re.search(
        r"```mermaid\nstateDiagram-v2\n(.*?)```", (ROOT / "ARCHITECTURE.md").read_text("utf-8"), re.DOTALL
    )
    assert diagram
    drawn = edges(diagram[1])
    assert len(drawn) == len(set(drawn))
    assert set(drawn) == BEGUN | MOVED | OVER


def test_the_module_says_what_its_table_says() -> None:
    said = edges(life.__doc__ or "")
    assert len(said) == len(set(said))
    assert set(said) == BEGUN | MOVED


@pytest.mark.parametrize("state", State)
def test_an_end_leads_nowhere_and_every_state_is_reached(state: State) -> None:
    assert state.ended == (not TRANSITIONS[state])
    assert state in BORN or any(state in afters for afters in TRANSITIONS.values())
