"""Schedulers that are processes of their own, of this release or of the one before: they can be killed."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib.util
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headgate.scheduler.v1 import scheduler_pb2 as pb
from headgate.scheduler.v1 import scheduler_pb2_grpc

from services import tether as tether_module
from services.rpc.channel import open_channel
from services.scheduler.line import ValkeyLine
from services.scheduler.settings import Settings
from tests.servers.scheduler import Scheduler, within

ROOT = Path(__file__).parents[2]
TODAY = (ROOT, ROOT / "protos")


def released(folder: Path) -> tuple[Path, ...]:
    """The code of the release before this one, unpacked; made by tools/keep_release.py."""
    (archive,) = (ROOT / "tests" / "releases").glob("scheduler-*.zip")
    with zipfile.ZipFile(archive) as code:
        code.extractall(folder)
    return (folder,)


def released_line(folder: Path, today: ValkeyLine) -> Any:
    """Today's line as the release before would run it: its calls and its scripts, unpacked in that folder."""
    spec = importlib.util.spec_from_file_location("released_line", folder / "services" / "scheduler" / "line.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    # Its dataclasses look for their module there.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.ValkeyLine(today._client, today.identity, virtual_now_ms=today.virtual_now_ms)


@dataclass
class Replica(Scheduler):
    """A scheduler in a process of its own."""

    code: tuple[Path, ...] = TODAY
    log: Path = Path(os.devnull)
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    async def start(self) -> None:
        """Starts it (again) on the same stores."""
        path = os.pathsep.join(map(str, self.code))
        tether = [sys.executable, "-I", "-S", tether_module.__file__, str(os.getpid())]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*tether, sys.executable, "-m", "services.scheduler"], cwd=self.code[0], stdout=log, stderr=log,
                env={"PATH": os.defpath, "PYTHONPATH": path, **_variables(self.environment)},
            )  # fmt: skip
        await within(self.stub.GetCapacity(pb.GetCapacityRequest(), wait_for_ready=True), "a start")

    async def stop(self) -> None:
        """Lets it drain, as an orchestrator does."""
        await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        """Kills it as a power cut would."""
        await self._end(signal.SIGKILL)

    async def _end(self, number: int) -> None:
        if self.process:
            self.process.send_signal(number)
            await within(asyncio.to_thread(self.process.wait), "an end")
            self.process = None


def _variables(environment: dict[str, Any]) -> dict[str, str]:
    """Settings as they are written in an environment."""
    texts = {}
    for setting in dataclasses.fields(Settings):
        value = environment.get(setting.name)
        if value is not None:
            texts[setting.metadata["variable"]] = ",".join(value) if isinstance(value, tuple) else str(value)
    return texts


@contextlib.asynccontextmanager
async def replica(
    first: Scheduler, folder: Path, name: str, code: tuple[Path, ...] = TODAY, **settings: Any
) -> AsyncIterator[Replica]:
    """Another scheduler on the stores of the first and with its neighbours, until the block ends."""
    address = f"unix:{folder}/{name}.sock"
    channel = open_channel(address)
    environment = {**first.environment, "listen": address, "migrate_at_start": False, **settings}
    stub = scheduler_pb2_grpc.SchedulerServiceStub(channel)
    started = Replica(stub, first.generator, first.quota, environment, code=code, log=folder / f"{name}.log")
    try:
        await started.start()
        yield started
    finally:
        await started.kill()
        await channel.close()
