"""The supervisor with real processes: small programs that stand in for the services."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from services import valkey
from services.clock import SystemClock
from services.embedded.child import LOG_BYTES, TETHER, ChildSpec, bound
from services.embedded.folder import DataFolder, open_folder
from services.embedded.probes import until_up
from services.embedded.supervisor import ChildGaveUp, Supervisor
from services.process import StartError

LISTEN = """
import os, signal, socket, sys
socket_path, goes = sys.argv[1], sys.argv[2] == "willing"
signal.signal(signal.SIGTERM, signal.SIG_DFL if goes else signal.SIG_IGN)
if os.path.exists(socket_path):
    os.unlink(socket_path)
server = socket.socket(socket.AF_UNIX)
server.bind(socket_path)
server.listen()
while True:
    connection, _ = server.accept()
    connection.recv(100)
    connection.sendall(b"+PONG\\r\\n")
    connection.close()
"""


class PatientClock(SystemClock):
    """Backoff takes no time."""

    async def sleep(self, delay_ms: float) -> None:
        await asyncio.sleep(0)


class Stage:
    def __init__(self, folder: DataFolder) -> None:
        self.folder = folder
        self.warnings: list[str] = []
        self.supervisor = Supervisor(folder, PatientClock(), self.warnings.append)

    def listener(self, name: str, *, rank: int = 0, willing: bool = True) -> ChildSpec:
        path = self.folder.path / f"{name}.sock"
        how = "willing" if willing else "stubborn"
        return self.spec(name, "-c", LISTEN, str(path), how, probe=f"valkey:{path}", rank=rank)

    def spec(self, name: str, *arguments: str, probe: str = "", rank: int = 0, folder: Path | None = None) -> ChildSpec:
        return ChildSpec(name, (sys.executable, *arguments), dict(os.environ), probe, rank, 0.5 * (rank + 1), folder)

    async def up(self, *specs: ChildSpec) -> None:
        for spec in specs:
            await self.supervisor.add(spec)
        async with asyncio.timeout(20):
            await asyncio.gather(*(until_up(spec.probe) for spec in specs))

    def pid(self, name: str) -> int:
        return self.folder.record.children[name].pid


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    stage = Stage(open_folder(tmp_path))
    yield stage
    await stage.supervisor.stop(at_once=asyncio.Event())
    stage.folder.close()


async def test_a_killed_child_is_started_again_and_its_end_is_told(stage: Stage) -> None:
    spec = stage.listener("one")
    await stage.up(spec)
    first = stage.pid("one")
    os.kill(first, signal.SIGKILL)
    async with asyncio.timeout(20):
        while stage.pid("one") == first:
            await asyncio.sleep(0)
        await until_up(spec.probe)
    assert stage.warnings == ["one ended (signal 9); starting it again."]


async def test_stops_rank_by_rank_and_kills_only_who_does_not_go(stage: Stage) -> None:
    await stage.up(
        stage.listener("store", rank=2), stage.listener("door", rank=0), stage.listener("worker", rank=1, willing=False)
    )
    pids = [stage.pid(name) for name in ("store", "door", "worker")]
    await stage.supervisor.stop(at_once=asyncio.Event())
    (warning,) = stage.warnings
    assert re.fullmatch(r"worker did not stop in \d\.\d s and was killed\.", warning)
    assert not any(psutil.pid_exists(pid) for pid in pids)


async def test_a_second_signal_kills_at_once(stage: Stage) -> None:
    await stage.up(stage.listener("worker", willing=False))
    pid, at_once = stage.pid("worker"), asyncio.Event()
    at_once.set()
    async with asyncio.timeout(0.45):
        await stage.supervisor.stop(at_once=at_once)
    assert not psutil.pid_exists(pid)


async def test_a_mistake_at_start_is_told_in_the_childs_own_words(stage: Stage) -> None:
    program = "import sys; print('noise'); print('headgate-x: NAME is wrong.'); sys.exit(2)"
    await stage.supervisor.add(stage.spec("x", "-c", program))
    with pytest.raises(StartError, match=r"^headgate-x: NAME is wrong\.$"):
        await asyncio.wait_for(stage.supervisor.failure, 20)


async def test_gives_up_on_one_that_cannot_live(stage: Stage) -> None:
    await stage.supervisor.add(stage.spec("x", "-c", "raise SystemExit('I cannot')"))
    with pytest.raises(ChildGaveUp, match=r"^x died 11 times in a row \(I cannot\): see .*x\.log\.$"):
        await asyncio.wait_for(stage.supervisor.failure, 60)


async def test_once_settled_a_mistake_is_a_death_like_any_other(stage: Stage) -> None:
    stage.supervisor.settle()
    await stage.supervisor.add(stage.spec("x", "-c", "raise SystemExit(2)"))
    with pytest.raises(ChildGaveUp):
        await asyncio.wait_for(stage.supervisor.failure, 60)


async def test_data_a_child_cannot_start_from_is_set_aside(stage: Stage) -> None:
    data = stage.folder.path / "valkey"
    data.mkdir()
    (data / "rubbish").write_text("")
    path = stage.folder.path / "x.sock"
    program = f"import os, sys\nif os.listdir({str(data)!r}): sys.exit(1)\n{LISTEN}"
    spec = stage.spec("x", "-c", program, str(path), "willing", probe=f"valkey:{path}", folder=data)
    await stage.up(spec)
    assert (stage.folder.path / "valkey.damaged" / "rubbish").exists()
    assert list(data.iterdir()) == []


async def test_a_real_valkey_survives_a_kill_with_its_data_deleted(stage: Stage) -> None:
    data, socket = stage.folder.path / "valkey", stage.folder.path / "v.sock"
    command = valkey.command(valkey.find_server(), socket, data)
    spec = ChildSpec("valkey", command, {"LC_ALL": "C"}, f"valkey:{socket}", 0, 2.0, data)
    await stage.up(spec)
    first = stage.pid("valkey")
    assert psutil.Process(first).cmdline() == list(command)
    shutil.rmtree(data)
    os.kill(first, signal.SIGKILL)
    async with asyncio.timeout(20):
        while stage.pid("valkey") == first:
            await asyncio.sleep(0)
        await until_up(spec.probe)
    assert data.is_dir()


def test_a_tethered_process_dies_with_its_parent(tmp_path: Path) -> None:
    program = (
        "import os, subprocess, sys\n"
        f"tether = [sys.executable, '-I', '-S', {str(TETHER)!r}, str(os.getpid())]\n"
        "waits = [sys.executable, '-c', 'import sys; sys.stdin.read()']\n"
        "child = subprocess.Popen([*tether, *waits], stdin=subprocess.PIPE)\n"
        "print(child.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.communicate()
    _, alive = psutil.wait_procs([child], timeout=10)
    assert alive == []


def test_a_tether_to_a_parent_that_is_gone_starts_nothing(tmp_path: Path) -> None:
    made = tmp_path / "made"
    command = [sys.executable, "-I", "-S", str(TETHER), "1", sys.executable, "-c", f"open({str(made)!r}, 'w')"]
    assert subprocess.run(command, timeout=20).returncode == 1
    assert not made.exists()


def test_a_log_is_set_aside_before_it_grows_without_end(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    with log.open("ab") as writer:
        writer.write(b"x" * (LOG_BYTES + 1))
        writer.flush()
        bound(log)
        writer.write(b"more")
    assert log.read_bytes() == b"more"
    assert (tmp_path / "x.log.1").stat().st_size == LOG_BYTES + 1
