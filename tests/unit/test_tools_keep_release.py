from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import pytest

from tools.keep_release import RELEASES, keep, keeps

ROOT = Path(__file__).parents[2]


def test_what_a_scheduler_needs_is_kept_and_nothing_else() -> None:
    wanted = (
        "services/scheduler/lua/place.lua", "services/scheduler/migrations/versions/0001_requests.py",
        "services/rpc/server.py", "services/sql.py", "config/prices.yaml", "protos/headgate/quota/v1/quota_pb2.py",
    )  # fmt: skip
    other = (
        "services/gateway/app.py", "services/scheduler_notes.py/x.md", "protos/headgate/quota/v1/quota_pb2.pyi",
        "protos/released.binpb", "tests/unit/test_readme.py", "deploy/k8s/base/quota.yaml", "services/quota/store.py",
    )  # fmt: skip
    assert [name for name in (*wanted, *other) if keeps(name)] == list(wanted)


def test_it_takes_the_place_of_the_one_before_and_is_the_same_every_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    (tmp_path / "scheduler-0.0.9.zip").touch()
    first = keep("HEAD", tmp_path).read_bytes()
    kept = keep("HEAD", tmp_path)
    assert list(tmp_path.iterdir()) == [kept]
    assert kept.read_bytes() == first
    with zipfile.ZipFile(kept) as archive:
        lua = archive.read("services/scheduler/lua/place.lua")
        assert lua == subprocess.check_output(["git", "show", "HEAD:services/scheduler/lua/place.lua"])
        assert "headgate/scheduler/v1/scheduler_pb2.py" in archive.namelist()


def test_one_release_is_kept_and_is_small() -> None:
    (kept,) = (ROOT / RELEASES).glob("scheduler-*.zip")
    assert kept.stat().st_size < 150_000
