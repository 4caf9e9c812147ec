"""Several replicas of each service on shared stores, as a cluster runs them: for what one `make run` cannot show.

Every process dies with the one that started it. Addresses are TCP ports, for gRPC spreads calls over those only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from services import tether, valkey
from tests.e2e.stack import environment, eventually, free_port

ADMIN_KEY = "admin-of-the-benchmark"
START_S = 60.0
STOP_S = 15.0


class Replicas:
    """Running processes by name: valkey, emulator, and quota-1, quota-2, scheduler-1…; stopped by `stop`."""

    def __init__(self, folder: Path, database_url: str, *, many: int = 2, **variables: str) -> None:
        """An empty `database_url` means an SQLite file for each service; `variables` go to every process."""
        folder.mkdir(parents=True)
        self.processes: dict[str, psutil.Popen] = {}
        self._folder = folder
        self._variables = {"HEADGATE_SECRET": "s" * 32, "HEADGATE_ADMIN_KEY": ADMIN_KEY, **variables}
        self._ports = {
            service: [free_port() for _ in range(many)] for service in ("quota", "scheduler", "generator", "gateway")
        }
        self._databases = {
            service: database_url or f"sqlite:///{folder / service}.db" for service in ("quota", "scheduler")
        }
        self.gateways = self._ports["gateway"]
        self._start()

    def _start(self) -> None:
        emulator, socket = free_port(), self._folder / "valkey.sock"
        self._run("valkey", *valkey.command(valkey.find_server(), socket, self._folder))
        self._serve("emulator", "emulator", HEADGATE_EMULATOR_PORT=str(emulator))
        for service, url in self._databases.items():
            migrate = [sys.executable, "-m", f"services.{service}", "migrate"]
            subprocess.run(migrate, env=environment(HEADGATE_DATABASE_URL=url), check=True)
        to_quota, to_scheduler, to_generators = (self._target(s) for s in ("quota", "scheduler", "generator"))
        claude = {"ANTHROPIC_API_KEY": "emulated", "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{emulator}"}
        beside: Mapping[str, Mapping[str, str]] = {
            "quota": {"HEADGATE_SCHEDULER_ADDRESS": to_scheduler},
            "scheduler": {
                "HEADGATE_QUOTA_ADDRESS": to_quota, "HEADGATE_GENERATOR_ADDRESSES": to_generators.removeprefix("ipv4:"),
                "HEADGATE_REDIS_URL": f"unix://{socket}", "HEADGATE_PROVIDER_PLAN": "20x",
            },
            "generator": claude,
            "gateway": {"HEADGATE_QUOTA_ADDRESS": to_quota, "HEADGATE_SCHEDULER_ADDRESS": to_scheduler},
        }  # fmt: skip
        for service, variables in beside.items():
            for number, port in enumerate(self._ports[service], 1):
                own = {"HEADGATE_LISTEN": f"127.0.0.1:{port}", "HEADGATE_HTTP_PORT": str(port)}
                if service in self._databases:
                    own["HEADGATE_DATABASE_URL"] = self._databases[service]
                self._serve(f"{service}-{number}", service, **own, **variables)
        for port in self.gateways:
            eventually(lambda port=port: self._ready(port), within_s=START_S, what=f"gateway {port}")

    def _target(self, service: str) -> str:
        return "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in self._ports[service])

    def _serve(self, name: str, service: str, **variables: str) -> None:
        self._run(name, sys.executable, "-m", f"services.{service}", **variables)

    def _run(self, name: str, *command: str, **variables: str) -> None:
        tied = [sys.executable, "-I", "-S", tether.__file__, str(os.getpid()), *command]
        env = environment(**{**self._variables, **variables, "NO_PROXY": "127.0.0.1"})
        with open(self._folder / f"{name}.log", "wb") as log:
            self.processes[name] = psutil.Popen(tied, env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def _ready(self, port: int) -> bool:
        for name, process in self.processes.items():
            if process.poll() is not None:
                raise SystemExit(f"{name} ended: {(self._folder / f'{name}.log').read_text()[-2000:]}")
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
        return False

    def new_user(self, tier: str) -> dict[str, Any]:
        """A user of that tier, with `userId` and `apiKey`."""
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        url = f"http://127.0.0.1:{self.gateways[0]}/api/admin/users"
        call = urllib.request.Request(url, json.dumps({"tier": tier}).encode(), headers, method="POST")
        with urllib.request.urlopen(call, timeout=20) as answer:
            return dict(json.loads(answer.read()))

    def complaints(self) -> dict[str, list[str]]:
        """The last lines that each process logged, where they tell of trouble."""
        found = {}
        for name in self.processes:
            lines = (self._folder / f"{name}.log").read_text(errors="replace").splitlines()
            if bad := [line for line in lines if "Traceback" in line or "Error" in line or "cannot" in line]:
                found[name] = bad[-5:]
        return found

    def stop(self) -> None:
        """Stops all of them, the gateways first."""
        for process in reversed(self.processes.values()):
            with suppress(psutil.NoSuchProcess):
                process.terminate()
        _, stubborn = psutil.wait_procs(list(self.processes.values()), timeout=STOP_S)
        for process in stubborn:
            process.kill()
            process.wait()
