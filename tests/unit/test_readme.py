"""What the README says can be done as it says."""

from __future__ import annotations

import importlib
import pkgutil
import re
import shlex
import subprocess
from pathlib import Path

import pytest

import services
from services.cli import __main__ as cli
from services.settings import names

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
FRONT_END = re.compile(r"^async function generateDiagram\(userPrompt\) \{.*?^\}", re.DOTALL | re.MULTILINE)
PAGES = README + (ROOT / "docs" / "money.md").read_text() + (ROOT / "docs" / "limits.md").read_text()
COMMANDS = [line.partition("#")[0].strip() for line in re.findall(r"^headgate .*", PAGES, re.MULTILINE)]


def test_the_front_end_code_is_the_one_that_is_tested() -> None:
    promised = FRONT_END.search((ROOT / "tests" / "e2e" / "solution-overview.md").read_text())
    shown = FRONT_END.search(README)
    assert promised
    assert shown
    assert [line.rstrip() for line in shown.group().splitlines()] == [
        line.rstrip() for line in promised.group().splitlines()
    ]


def test_the_commands_are_all_there() -> None:
    assert {command.split()[1] for command in COMMANDS} == {
        "up", "generate", "status", "cancel", "users", "keys",
        "capacity", "usage", "economics", "tiers", "audit", "plan",
    }  # fmt: skip


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.split()[1] not in ("up", "plan")])
def test_a_command_is_understood(command: str) -> None:
    assert cli._parser().parse_args(shlex.split(command)[1:]).run


def test_make_help_lists_every_target_that_is_named() -> None:
    help_text = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    listed = re.findall(r"^  make ([a-z0-9]+) +\S", help_text, re.MULTILINE)
    assert {"help", "run", "test", "dev", "protos", "lint", "verify", "fmt", "bench", "clean"} <= set(listed)
    texts = README + (ROOT / "CONTRIBUTING.md").read_text()
    assert set(re.findall(r"`make ([a-z]+)", texts)) <= set(listed)


def test_every_variable_is_read_by_some_process() -> None:
    read = {"HEADGATE_API_KEY"}
    for module in pkgutil.iter_modules(services.__path__):
        try:
            settings = importlib.import_module(f"services.{module.name}.settings")
        except ModuleNotFoundError:
            continue
        for found in vars(settings).values():
            if (
                isinstance(found, type)
                and found.__module__ == settings.__name__
                and hasattr(found, "__dataclass_fields__")
            ):
                read |= set(names(found))
    assert set(re.findall(r"\b(?:HEADGATE|ANTHROPIC)_[A-Z_]+[A-Z]\b", README)) <= read
