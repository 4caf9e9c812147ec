"""What docs/planning.md shows can be run as it is shown, and gives what it says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from services.scheduler.planner import __main__ as command
from services.scheduler.planner.traffic import HEADER

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "planning.md").read_text()
SHOWN = [
    (line, said)
    for block, said in re.findall(r"```sh\n(.*?)```(?:\n\n```text\n(.*?)```)?", PAGE, re.DOTALL)
    for line in block.splitlines()
]
QUICK = 120
"""Requests up to which an example is run as it stands; larger ones are run with fewer."""


def arguments_of(line: str) -> list[str]:
    program, *arguments = shlex.split(line.partition(" > ")[0])
    assert program == "headgate-plan"
    return arguments


def shrunk(argument: str) -> str:
    """Ten requests a day instead of hundreds."""
    return re.sub(r"=\d{3,}$", "=10", argument) if argument.partition("=")[2].isdigit() else argument


@pytest.mark.parametrize(("line", "said"), [one for one in SHOWN if " record " not in one[0]])
def test_an_example_runs(
    line: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = arguments_of(line)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "traffic.csv").write_text(f"{','.join(HEADER)}\n2026-11-24T09:00:00Z,u1,pro,mermaid,500,1500,20000\n")
    whole = f"sent                          │ {QUICK} " in said
    assert command.main(arguments if whole else [shrunk(argument) for argument in arguments]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told
    if whole:
        assert set(said.splitlines()) <= set(told), "the page shows what is printed"
    for row in re.findall(r"^│ ([^│]+?) +│", said, re.MULTILINE):
        assert any(row in one for one in told), row
    if "--out" in arguments:
        assert (tmp_path / arguments[arguments.index("--out") + 1] / "waits.svg").exists()


def test_recording_is_written_as_it_is_read() -> None:
    (line,) = (line for line, _ in SHOWN if " record " in line)
    assert command._record_parser().parse_args(arguments_of(line)[1:]).days == 7


def test_the_first_example_is_run_whole_and_the_pictures_are_there() -> None:
    assert f"sent                          │ {QUICK} " in SHOWN[0][1]
    for file in re.findall(r"\]\((planning/[a-z]+\.svg)\)", PAGE):
        assert (DOCS / file).stat().st_size < 60_000, file
    for option in re.findall(r"(?<!-)(--[a-z][a-z-]*)", PAGE):
        assert option in command._parser().format_help() or option == "--help"
