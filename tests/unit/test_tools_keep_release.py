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


def test_the_release_that_is_kept_is_that_of_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (kept,) = RELEASES.glob("scheduler-*.zip")
    assert kept.stat().st_size < 150_000
    with zipfile.ZipFile(kept) as archive:
        commit = archive.comment.decode()
        contents = {name: archive.read(name) for name in archive.namelist()}
    if subprocess.run(["git", "cat-file", "-e", commit], capture_output=True, check=False).returncode:
        pytest.skip(f"{commit} is not in this clone; `git fetch --unshallow` brings it")
    (tmp_path / "scheduler-0.0.9.zip").touch()
    with zipfile.ZipFile(keep(commit, tmp_path)) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == contents
    assert [path.name for path in tmp_path.iterdir()] == [kept.name]
