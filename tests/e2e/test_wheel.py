"""The wheel, installed outside the checkout: it holds all it needs, and `headgate up` starts from it."""

from __future__ import annotations

import email
import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import psutil
import pytest
from packaging.requirements import Requirement

from tests.e2e.stack import ROOT, Stacks, environment

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, timeout=100)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment that has the wheel; what it depends on is borrowed from ours."""
    place = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(place, with_pip=False)
    python = place / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-index", "--no-deps", "--quiet"]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True, timeout=100)
    (packages,) = place.glob("lib/python*/site-packages")
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return place / "bin"


def test_it_depends_on_what_the_project_depends_on(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        told = email.message_from_bytes(archive.read(metadata)).get_all("Requires-Dist", [])
    wanted = {str(Requirement(text)) for text in PROJECT["dependencies"]}
    assert {
        str(requirement) for requirement in map(Requirement, told) if "extra" not in str(requirement.marker)
    } == wanted


def test_it_holds_every_tracked_file_of_the_product(wheel: Path) -> None:
    listed = subprocess.run(["git", "ls-files", "services", "protos/headgate", "config"], cwd=ROOT, capture_output=True)
    tracked = listed.stdout.decode().split()
    places = {"protos/headgate/": "headgate/", "config/": "services/config/"}

    def inside(name: str) -> str:
        before = next((before for before in places if name.startswith(before)), "")
        return places.get(before, "") + name.removeprefix(before)

    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    assert {inside(name) for name in tracked if (ROOT / name).exists()} - packed == set()
    for kind in (".lua", ".yaml", ".proto", ".html", ".css", ".js", ".md"):
        assert any(name.endswith(kind) for name in packed), kind


@pytest.mark.parametrize("command", sorted(set(PROJECT["scripts"]) - {"headgate", "headgate-plan"}))
def test_every_process_starts_from_it(installed: Path, tmp_path: Path, command: str) -> None:
    """As far as a wrong variable, which each of them has to name."""
    wrong = environment(PYTHONPATH="", HEADGATE_TLS_CERT="/nowhere", HEADGATE_EMULATOR_PORT="none")
    done = subprocess.run([installed / command], cwd=tmp_path, env=wrong, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done
    assert done.stderr.startswith(f"{command}: ")
    assert "HEADGATE_" in done.stderr or "ANTHROPIC_" in done.stderr


def test_headgate_up_draws_and_stops(installed: Path, stacks: Stacks, tmp_path: Path) -> None:
    stack = stacks.launch(command=(str(installed / "headgate"), "up"), cwd=tmp_path, PYTHONPATH="").ready()
    children = list(stack.children().values())
    ours = [child for child in children if "services." in " ".join(child.cmdline())]
    assert len(ours) == 5
    for child in ours:
        assert child.cmdline()[0].startswith(str(installed))
        assert str(ROOT) not in child.environ()["PYTHONPATH"]
    assert stack.draw(stack.demo_keys["basic"])["status"] == "completed"
    with_pages = stack.request("GET", "/")
    assert with_pages[0] == 200
    assert stack.stop() == 0
    assert psutil.wait_procs(children, timeout=0.1)[1] == []
    assert os.listdir(tmp_path) == []
