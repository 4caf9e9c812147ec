from __future__ import annotations

import pytest

from tools.tracked_files import strays, unlocked

LOCK = "anyio==4.1 \\\n    --hash=sha256:00\nuvloop==0.23.0 ; sys_platform != 'win32' \\\n    --hash=sha256:11\n"


@pytest.mark.parametrize(
    "line",
    [
        "--index-url https://py" + "pi.org/simple",
        "https://files.python" + "hosted.org/x",
        "see /ho" + "me/me/x",
        "cd /ro" + "ot/x",
    ],
)
def test_a_registry_and_a_place_of_one_machine_are_found(line: str) -> None:
    assert [row.split()[0] for row in strays("a.txt", f"fine\n{line}\n")] == ["a.txt:2"]


@pytest.mark.parametrize(
    "line", ["https://example.com/home/page", "protos/work/x", "/usr/bin/env", "$HOME/root/x", "/rooted/x"]
)
def test_other_lines_are_not(line: str) -> None:
    assert strays("a.txt", line) == []


def test_what_is_wanted_must_be_locked_at_a_version_that_is_wanted() -> None:
    assert unlocked(["AnyIO>=4", "uvloop>=0.2; sys_platform != 'win32'"], LOCK) == []
    assert unlocked(["anyio>=5"], LOCK) == ["anyio is locked at 4.1, which is not >=5"]
    assert unlocked(["trio"], LOCK) == ["trio is not locked"]
