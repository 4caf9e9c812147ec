"""What the emulator answers: diagrams that parse, of the kind asked for, about what was asked."""

from __future__ import annotations

import random

import merman
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.emulator.answers import answer_to, conversation_of, pieces_of
from services.emulator.diagrams import DRAW, best_kind, draw
from services.emulator.phrases import topic_of
from services.generator.prompts import Prompts
from services.generator.source import KINDS, Extractor, kind_of

ENGINE = merman.Merman()
PROMPTS = Prompts.load()
ODD = [
    "", " ", "end", "\n\n\t", "title", "section: click, call; href", "subgraph", '"quoted" <b>html</b> & "more"',
    "مخطط تسجيل الدخول، التحقق، النهاية", "👨‍👩‍👧‍👦 family: 🐶 then 🐱 and 🦊", "日本語のフロー。入力、確認、完了。",
    "a->b->c", "%%{init: {}}%%", "---\ntitle: x\n---", "```mermaid\nflowchart TD\n```", "x" * 5000, "1, 2, 3",
    "50%, 30%, 20%",
    "note over a: hi; loop forever; alt x; else y", "C++ / C# $$x^2$$ #quot; \\n \\u0000",
    "\u202eevil\u202c \u0000 \u200b",
    "In 1969 a landing, in 1989 the web, in 2007 the phone", "[a](b) {c} |d| (e)", "__proto__, constructor, toString",
    "class, style, graph, default", "Ω≈ç√∫ ˜µ≤ ÷, ñandú", "O'Brien's order; the bank's \"answer\"", "-", "--", "...",
    "?!",
]  # fmt: skip


def conversation(prompt: str, kind: str) -> dict[str, object]:
    return {"system": PROMPTS.system(kind), "messages": [{"role": "user", "content": PROMPTS.ask(prompt)}]}


def assert_draws(source: str, kind: str) -> None:
    assert kind_of(source) == kind, source
    checked = ENGINE.validate(source, None)
    assert checked.valid, f"{checked.error}\n{source}"
    assert ENGINE.render_svg(source, None).startswith("<svg")


@pytest.mark.parametrize("kind", DRAW)
@pytest.mark.parametrize("prompt", ODD)
def test_odd_prompts_draw(kind: str, prompt: str) -> None:
    assert_draws(draw(kind, topic_of(prompt), random.Random(prompt)), kind)


@settings(max_examples=150, deadline=None)
@given(kind=st.sampled_from(sorted(DRAW)), prompt=st.text(max_size=200), seed=st.integers())
@example(kind="journey", prompt="x:y", seed=1)
def test_any_prompt_draws(kind: str, prompt: str, seed: int) -> None:
    assert_draws(draw(kind, topic_of(prompt), random.Random(seed)), kind)


@settings(max_examples=100, deadline=None)
@given(kind=st.sampled_from(sorted(DRAW)), words=st.lists(st.sampled_from(" ".join(ODD).split() or ["a"]), max_size=30))
def test_mixed_oddities_draw(kind: str, words: list[str]) -> None:
    assert_draws(draw(kind, topic_of(" ".join(words)), random.Random(1)), kind)


def test_every_kind_of_the_contract_is_known() -> None:
    assert set(DRAW) == set(KINDS)


@pytest.mark.parametrize("kind", ["flowchart", "sequence", "state", "gantt", "mindmap", "timeline", "block", "pie"])
def test_the_words_of_the_prompt_are_drawn(kind: str) -> None:
    prompt = "Draw a diagram of checkout: basket, payment with تحقق, parcel 📦"
    source = draw(kind, topic_of(prompt), random.Random(1))
    for word in ("Basket", "Payment with تحقق", "Parcel 📦"):
        assert word in source


@pytest.mark.parametrize(
    ("prompt", "kind"),
    [
        ("the OAuth login flow between browser and server", "sequence"),
        ("my database schema with tables for orders", "er"),
        ("the history of computing", "timeline"),
        ("how to make tea", "flowchart"),
    ],
)
def test_without_a_kind_the_best_one_is_chosen(prompt: str, kind: str) -> None:
    assert best_kind(prompt) == kind
    answer = answer_to(conversation_of(conversation(prompt, "mermaid")), "seed", "")
    assert kind_of(extracted(answer)) == kind


def extracted(answer: str) -> str:
    extractor = Extractor()
    extractor.feed(answer)
    extractor.finish()
    return extractor.source


def test_the_same_seed_and_prompt_give_the_same_answer_and_some_are_dressed_up() -> None:
    talks = [conversation_of(conversation(f"step {i}, check, done", "flowchart")) for i in range(30)]
    answers = [answer_to(talk, "seed", "") for talk in talks]
    assert answers == [answer_to(talk, "seed", "") for talk in talks]
    assert answers != [answer_to(talk, "other", "") for talk in talks]
    assert any(answer.startswith("flowchart") for answer in answers)
    assert any(answer.startswith("```mermaid") for answer in answers)
    assert any(answer[0].isupper() and "```mermaid" in answer for answer in answers)


@pytest.mark.parametrize("kind", DRAW)
def test_a_bad_diagram_does_not_parse_and_is_repaired_unless_hopeless(kind: str) -> None:
    first = conversation("login, check, done", kind)
    for fault, mended in (("bad_diagram", True), ("bad_diagram_always", False)):
        bad = answer_to(conversation_of(first), "seed", fault)
        assert not ENGINE.validate(extracted(bad), None).valid
        repair = {"role": "user", "content": PROMPTS.repair(kind, "wrong", cut=False)}
        messages = [*first["messages"], {"role": "assistant", "content": bad}, repair]  # type: ignore[misc]
        again = answer_to(conversation_of({**first, "messages": messages}), "seed", "")
        assert ENGINE.validate(extracted(again), None).valid is mended


def test_other_questions_get_prose() -> None:
    body = {"messages": [{"role": "user", "content": [{"type": "text", "text": "What is a queue?"}]}]}
    answer = answer_to(conversation_of(body), "seed", "")
    assert "queue" in answer.lower()
    assert "```" not in answer


@pytest.mark.parametrize("kind", DRAW)
def test_an_answer_is_as_long_as_asked_and_still_a_diagram(kind: str) -> None:
    talk = conversation_of(conversation("[emulate 1200 tokens] How a parcel travels from the shop to its reader", kind))
    answer = answer_to(talk, "seed", "")
    extractor = Extractor()
    source = extractor.feed(answer) + extractor.finish()
    assert_draws(source, kind)
    assert 1200 <= len(pieces_of(answer)) <= 1240
    assert "1200" not in source
