"""Whom people use instead, on the same burst: the bare SDK, and LiteLLM's proxy, installed in a folder of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.book import Call
from benchmarks.rig import INSTANT, Upstream, cpu_s, stand_in
from benchmarks.sdk_client import MODEL
from tests.e2e.stack import environment, eventually, free_port

KEY = "sk-bench"
START_S = 180.0
"""LiteLLM's proxy was seen to take half a minute on a busy machine."""
GIVE_UP_S = 400
"""Its slowest row took 216 s where it was first measured."""


@dataclass(frozen=True)
class Peer:
    """One client, perhaps with a proxy before the upstream."""

    name: str
    sdk_retries: int
    router_retries: int | None = None
    """Of LiteLLM's proxy; None for no proxy."""
    enforce: bool = False
    """Whether the proxy is told the limit and holds to it."""


PEERS = (
    Peer("Anthropic SDK, default retries", 2),
    Peer("Anthropic SDK, 20 retries", 20),
    Peer("LiteLLM proxy, 20 router retries", 0, 20),
    Peer("LiteLLM proxy, no router retries, SDK 20 retries", 20, 0),
    Peer("LiteLLM proxy, 20 router retries, its rpm limit enforced", 0, 20, enforce=True),
)


@dataclass(frozen=True)
class Outcome:
    """What a peer made of the burst."""

    answered_s: list[float]
    """When each answer was there."""
    calls: list[Call]
    clients_cpu_s: float
    between_cpu_s: float


def run(peer: Peer, requests: int, per_minute: int, venv: Path) -> Outcome:
    """The burst by one peer. CalledProcessError if LiteLLM cannot be installed, AssertionError if it does not start."""
    limits = {"HEADGATE_EMULATOR_RPM": str(per_minute), "HEADGATE_EMULATOR_TPM": "100000000"}
    with stand_in(**limits, **INSTANT) as upstream, _proxy(peer, upstream, per_minute, venv) as (url, process):
        _client(url, 1, 20)
        upstream.forget()
        # Full again a second after the call that warmed it, which is less than a client takes to start.
        before_s = cpu_s(process) if process else 0.0
        told = _client(url, requests, peer.sdk_retries)
        between_s = cpu_s(process) - before_s if process else 0.0
        return Outcome(told["answered_s"], upstream.calls(), told["cpu_s"], between_s)


def _client(url: str, calls: int, retries: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.sdk_client", url, str(calls), str(retries)]
    environ = environment(NO_PROXY="127.0.0.1")
    done = subprocess.run(command, env=environ, stdout=subprocess.PIPE, check=True, timeout=GIVE_UP_S)
    return dict(json.loads(done.stdout))


@contextmanager
def _proxy(peer: Peer, upstream: Upstream, per_minute: int, venv: Path) -> Iterator[tuple[str, psutil.Process | None]]:
    if peer.router_retries is None:
        yield upstream.url, None
        return
    port, litellm = free_port(), _installed(venv)
    with tempfile.TemporaryDirectory(prefix="hg-bench-") as folder:
        config = Path(folder, "config.yaml")
        # JSON is YAML.
        config.write_text(json.dumps(_config(peer, upstream.url, per_minute)))
        command = [str(litellm), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
        environ = environment(NO_PROXY="127.0.0.1", LITELLM_MASTER_KEY="bench", LITELLM_LOCAL_MODEL_COST_MAP="True")
        del environ["PYTHONPATH"]
        with Path(folder, "log").open("wb") as log:
            process = subprocess.Popen(command, env=environ, stdout=log, stderr=log, cwd=folder)
            try:
                url = f"http://127.0.0.1:{port}"
                eventually(lambda: _alive(url), within_s=START_S, what="LiteLLM's proxy")
                yield url, psutil.Process(process.pid)
            finally:
                process.terminate()
                process.wait(20)


def _config(peer: Peer, url: str, per_minute: int) -> dict[str, Any]:
    parameters = {"model": f"anthropic/{MODEL}", "api_base": url, "api_key": KEY}
    router: dict[str, Any] = {"num_retries": peer.router_retries}
    if peer.enforce:
        parameters["rpm"] = per_minute  # type: ignore[assignment]
        router["optional_pre_call_checks"] = ["enforce_model_rate_limits"]
    return {"model_list": [{"model_name": MODEL, "litellm_params": parameters}], "router_settings": router}


def _installed(venv: Path) -> Path:
    program = venv / "bin" / "litellm"
    if not program.exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        subprocess.run([str(venv / "bin" / "pip"), "install", "--quiet", "litellm[proxy]"], check=True)
    return program


def version(venv: Path) -> str:
    """LiteLLM's."""
    code = "from importlib.metadata import version; print(version('litellm'))"
    return subprocess.run([str(venv / "bin" / "python"), "-c", code], stdout=subprocess.PIPE, text=True).stdout.strip()


def _alive(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health/liveliness", timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False
