from __future__ import annotations

import stat
from pathlib import Path

import pytest

from services.embedded.folder import open_folder
from services.embedded.processes import Record, Running
from services.process import StartError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_makes_a_private_folder_and_keeps_secrets_to_itself(tmp_path: Path) -> None:
    folder = open_folder(tmp_path / "a" / "b")
    secret = folder.kept_secret("secret")
    assert mode(folder.path) == 0o700
    assert mode(folder.path / "secret") == 0o600
    assert len(secret) == 64
    folder.close()
    assert open_folder(tmp_path / "a" / "b").kept_secret("secret") == secret


def test_demo_keys_come_back_and_a_damaged_file_is_no_key(tmp_path: Path) -> None:
    folder = open_folder(tmp_path)
    assert folder.demo_keys() == {}
    folder.keep_demo_keys({"free": "hg_1"})
    assert folder.demo_keys() == {"free": "hg_1"}
    assert mode(tmp_path / "demo-keys.json") == 0o600
    (tmp_path / "demo-keys.json").write_text("{")
    assert folder.demo_keys() == {}


def test_a_place_that_cannot_be_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match=r"HEADGATE_DATA_DIR: .*/file/data cannot be used: Not a directory\."):
        open_folder(tmp_path / "file" / "data")


def test_a_living_owner_keeps_others_out_and_a_close_lets_them_in(tmp_path: Path) -> None:
    folder = open_folder(tmp_path)
    folder.take_over(_myself(), None)
    with pytest.raises(StartError, match=r"is in use by another Headgate \(process \d+\)"):
        open_folder(tmp_path)
    folder.close()
    open_folder(tmp_path).close()


def test_sockets_lie_in_the_folder_if_their_paths_are_short_enough(tmp_path: Path) -> None:
    short = Path("/tmp") / tmp_path.name if len(str(tmp_path)) > 60 else tmp_path
    folder = open_folder(short)
    sockets = folder.sockets()
    assert sockets == short / "run"
    assert mode(sockets) == 0o700
    folder.close()
    assert not sockets.exists()


def test_sockets_of_a_deep_folder_lie_elsewhere_and_the_next_run_removes_what_was_left(tmp_path: Path) -> None:
    folder = open_folder(tmp_path / ("d" * 100))
    left = folder.sockets()
    assert len(str(left / "generator-64.sock")) <= 100
    assert mode(left) == 0o700
    again = folder.sockets()
    assert again != left
    assert not left.exists()
    folder.close()
    assert not again.exists()


def test_a_note_that_names_someone_elses_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "sockets").write_text(f"{tmp_path / 'other'}\n")
    open_folder(tmp_path / "data").sockets()
    assert (tmp_path / "other").exists()


def test_a_record_survives_its_file_and_a_damaged_one_is_empty(tmp_path: Path) -> None:
    record = Record(owner=_myself(), stopping=True, children={"quota": Running(1, 2.0, ["a"])})
    record.write(tmp_path / "record")
    assert Record.read(tmp_path / "record") == record
    (tmp_path / "record").write_text('{"owner": 3}')
    assert Record.read(tmp_path / "record") == Record()


def test_an_owner_whose_parent_is_gone_is_leaving() -> None:
    me = _myself()
    assert not Record(owner=me).owner_leaves
    assert not Record(owner=me, stop_with=me).owner_leaves
    assert Record(owner=me, stopping=True).owner_leaves
    assert Record(owner=me, stop_with=Running(me.pid, me.started - 100, me.command)).owner_leaves
    assert Record().owner_leaves


def _myself() -> Running:
    import os

    import psutil

    found = Running.of(os.getpid(), psutil.Process().cmdline())
    assert found
    return found
