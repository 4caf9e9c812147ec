"""Pictures of all kinds, as text and without anything that acts or reaches outside."""

from __future__ import annotations

import builtins
import random
import re
from typing import Any
from xml.etree import ElementTree

import pytest

from services.emulator.diagrams import DRAW, draw
from services.emulator.phrases import topic_of
from services.generator.diagrams import Board, safe_svg

OUTSIDE = re.compile(
    r"<script|<(?:\w+:)?foreignObject|\son\w+\s*=|javascript:|(?:href|src)=[\"'](?!#)|url\((?!['\"]?#)|@import",
    re.IGNORECASE,
)
HOSTILE = {
    "init": '%%{init: {"securityLevel": "loose", "flowchart": {"htmlLabels": true}, '
    '"themeCSS": "@import url(http://evil/x.css); .node{background:url(http://evil/y)}"}}%%\n'
    'flowchart TD\n  a["<img src=x onerror=alert(1)>"] --> b\n  click a "javascript:alert(1)"\n'
    '  click b href "https://evil.example" "tip" _blank',
    "callback": 'flowchart TD\n  a --> b\n  click a callback "tip"\n  click b call run()',
    "style": "flowchart TD\n  a --> b\n  style a fill:url(http://evil/x),stroke:#333\n"
    "  classDef x background:url(http://evil/z)\n  class b x",
    "front matter": "---\nconfig:\n  securityLevel: loose\n  htmlLabels: true\n"
    '  themeCSS: "* {background:url(http://evil/q)}"\n---\nflowchart TD\n  a["<script>alert(1)</script>"] --> b',
    "sequence links": "sequenceDiagram\n  participant A\n  link A: Dash @ https://evil.example\n"
    '  links A: {"x": "javascript:alert(1)"}\n  A->>A: <script>alert(1)</script>',
    "class links": 'classDiagram\n  class A\n  click A href "javascript:alert(1)"\n  link A "https://evil.example"',
    "image": 'flowchart TD\n  a@{ img: "https://evil.example/x.png", label: "x" } --> b',
    "gantt": 'gantt\n  dateFormat YYYY-MM-DD\n  section A\n  T :a1, 2026-01-01, 5d\n  click a1 href "javascript:x()"',
    "c4": 'C4Context\n  Person(a, "U", $sprite="https://evil/x", $link="javascript:alert(1)")',
    "font": '%%{init: {"fontFamily": "x;}</style><script>alert(1)</script>"}}%%\nflowchart TD\n  a --> b',
    "theme": '%%{init: {"theme": "base", "themeVariables": {"primaryColor": "url(http://evil/x)", '
    '"lineColor": "red;}</style><script>1</script>"}}}%%\nflowchart TD\n  a --> b',
    "mindmap": 'mindmap\n  root(("<svg onload=alert(1)>"))\n    a["<a href=https://evil.example>x</a>"]',
}


@pytest.fixture(scope="module")
def board() -> Any:
    board = Board()
    yield board
    board.close()


@pytest.mark.parametrize("kind", DRAW)
async def test_every_kind_is_drawn_as_text(board: Board, kind: str) -> None:
    source = draw(kind, topic_of("Checkout: basket, payment, تحقق, parcel 📦"), random.Random(1))
    drawing = await board.draw(source)
    assert drawing.problem == ""
    assert not OUTSIDE.search(drawing.svg)
    texts = " ".join(ElementTree.fromstring(drawing.svg).itertext())
    assert "checkout" in texts.lower() or "basket" in texts.lower()


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_sources_draw_harmless_pictures(board: Board, name: str) -> None:
    svg = (await board.draw(HOSTILE[name])).svg
    assert svg
    ElementTree.fromstring(svg)
    active = [tag for tag in re.findall(r"<[^>]*>", svg) if OUTSIDE.search(tag)]
    assert active == []
    styles = " ".join(re.findall(r"<style.*?</style>", svg, re.DOTALL))
    assert "evil" not in styles
    assert not OUTSIDE.search(styles)


def test_the_second_lock_works_without_the_first() -> None:
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" onload="x()"><style>@import "x"; .a{fill:url(http://evil/a)}</style>'
        '<a xlink:href="https://evil" class="k"><rect ONCLICK=\'x()\' fill="url(#ok)"/></a><use href="#ok"/>'
        '<image src="//evil/x"/><text>onclick="x"</text></svg>'
    )
    assert safe_svg(svg) == (
        '<svg xmlns="http://www.w3.org/2000/svg"><style> .a{fill:none}</style>'
        '<a class="k"><rect fill="url(#ok)"/></a><use href="#ok"/><image/><text>onclick="x"</text></svg>'
    )
    for active in ("<script>x</script>", "<foreignObject/>", "<svg:script/>", "<iframe/>"):
        assert safe_svg(f"<svg>{active}</svg>") == ""


async def test_a_source_that_does_not_parse_is_a_problem_and_not_a_crash(board: Board) -> None:
    broken = await board.draw("flowchart TD\n  a[")
    assert "label" in broken.problem
    assert not broken.parses
    formula = await board.draw('flowchart TD\n  a["$$x^2$$"] --> b')
    assert formula.parses
    assert "math" in formula.problem
    for nonsense in ("", "\x00", "a" * 300_000, "🐶" * 1000):
        assert (await board.draw(nonsense)).problem


async def test_a_giant_is_refused_in_time(board: Board) -> None:
    lines = "\n".join(f"  n{i} --> n{(i * 7 + 3) % 3000}" for i in range(3000))
    drawing = await board.draw(f"flowchart TD\n{lines}")
    assert drawing.parses
    assert "limit" in drawing.problem


async def test_pictures_in_one_page_do_not_share_ids(board: Board) -> None:
    one, two = await board.draw("flowchart TD\n  a --> b"), await board.draw("flowchart TD\n  a --> c")
    ids = [set(re.findall(r'\sid="([^"]+)"', drawing.svg)) for drawing in (one, two)]
    assert not ids[0] & ids[1]


async def test_without_merman_everything_passes_and_nothing_is_drawn(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "merman":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    board = Board()
    assert "merman" in caplog.text
    drawing = await board.draw("flowchart TD\n  a[")
    assert (drawing.svg, drawing.problem) == ("", "")
    board.close()
