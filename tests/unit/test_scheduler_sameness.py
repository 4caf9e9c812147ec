"""Which requests are the same. Left out of the key, each part was missed by one of these."""

from __future__ import annotations

import pytest

from services import templates
from services.scheduler import sameness
from services.scheduler.life import Code, End, State
from services.scheduler.sameness import Sameness, shared

SAME = {"user_id": "ada", "prompt": "Caf\u00e9 to door", "diagram_type": "er", "model": "m", "max_tokens": 9}


def key(scope: str = "global", **changes: object) -> str | None:
    return Sameness(scope).key(**{**SAME, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("prompt", [" Cafe\u0301\n\tto   door\u00a0", "Caf\u00e9 to door"])
def test_accents_and_spaces_make_no_difference(prompt: str) -> None:
    assert key(prompt=prompt) == key()


@pytest.mark.parametrize(
    "changes", [{"prompt": "caf\u00e9 to door"}, {"diagram_type": "pie"}, {"model": "n"}, {"max_tokens": 8}]
)
def test_what_could_change_the_answer_makes_one(changes: dict[str, object]) -> None:
    assert key(**changes) != key()


def test_other_templates_make_one(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key()
    assert sameness.VERSION == templates.VERSION
    monkeypatch.setattr(sameness, "VERSION", templates.VERSION + 1)
    assert key() != before


def test_the_scope_says_whose_requests_are_compared() -> None:
    assert key(user_id="eve") == key()
    assert key("user", user_id="eve") != key("user")
    assert key("user") == key("user")
    assert key("user") != key()
    assert key("off") is None


def test_parts_cannot_run_into_each_other() -> None:
    assert key(diagram_type='er", "m') != key(diagram_type="er", model='m", "m')


@pytest.mark.parametrize("code", Code)
def test_only_what_an_equal_would_be_told_too_is_shared(code: Code) -> None:
    alike = {Code.PROVIDER_REJECTED, Code.REFUSED, Code.INVALID_DIAGRAM}
    assert shared(End(State.FAILED, code)) == (code in alike)
    assert shared(End(State.COMPLETED))
