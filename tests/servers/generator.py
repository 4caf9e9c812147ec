"""A real generator process of its own for a test.

async with running_generator(emulator.base_url, slots=2) as generator:
    async for message in generator.stub.Generate(request(prompt="login")): ...
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from headgate.generator.v1 import generator_pb2 as pb
from headgate.generator.v1.generator_pb2_grpc import GeneratorServiceStub

from services.rpc.status import Refusal, refusal_of

ROOT = Path(__file__).parents[2]
START_S = 30.0
VARIABLES = {
    "slots": "HEADGATE_GENERATOR_SLOTS",
    "silence_ms": "HEADGATE_UPSTREAM_SILENCE_MS",
    "heartbeat_ms": "HEADGATE_HEARTBEAT_MS",
    "drain_ms": "HEADGATE_DRAIN_MS",
}


@dataclass
class Generator:
    """One that runs."""

    address: str
    channel: grpc.aio.Channel
    stub: Any
    process: asyncio.subprocess.Process

    async def run(self, request: pb.GenerateRequest) -> tuple[list[pb.GenerateResponse], Refusal | None]:
        """All messages of an attempt without heartbeats, and how it was refused or failed."""
        messages: list[pb.GenerateResponse] = []
        try:
            async for message in self.stub.Generate(request):
                if message.WhichOneof("step") != "heartbeat":
                    messages.append(message)
        except grpc.aio.AioRpcError as error:
            return messages, refusal_of(error, [pb.UpstreamFailure])
        return messages, None

    async def probe(
        self, model: str = "claude-sonnet-5-5", timeout_s: float = 10.0
    ) -> tuple[pb.ProbeResponse, Refusal | None]:
        """A probe's answer, and how it was refused or failed."""
        try:
            return await self.stub.Probe(pb.ProbeRequest(model=model), timeout=timeout_s), None
        except grpc.aio.AioRpcError as error:
            return pb.ProbeResponse(), refusal_of(error, [pb.UpstreamFailure])


def request(prompt: str = "Login: enter password, check it, show dashboard", **fields: Any) -> pb.GenerateRequest:
    """A request with everything filled in."""
    known = {"request_id": "req_test", "attempt": 1, "diagram_type": "flowchart", "model": "claude-sonnet-5-5"}
    return pb.GenerateRequest(prompt=prompt, **{**known, "max_tokens": 2048, **fields})


def environment() -> dict[str, str]:
    """This process's own, without any of our settings."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HEADGATE_", "ANTHROPIC_", "OTEL_"))}
    return {**inherited, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protos'}"}


@contextlib.asynccontextmanager
async def running_generator(base_url: str | None, **settings: Any) -> AsyncIterator[Generator]:
    """Starts one on a socket file; settings are slots, silence_ms, heartbeat_ms, drain_ms, or whole variables."""
    variables = {VARIABLES.get(name, name): str(value) for name, value in settings.items()}
    with tempfile.TemporaryDirectory(prefix="hg") as folder:
        address = f"unix:{folder}/g"
        upstream = {} if base_url is None else {"ANTHROPIC_BASE_URL": base_url}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.generator", cwd=ROOT, stderr=asyncio.subprocess.PIPE,
            env={**environment(), "HEADGATE_LISTEN": address, **upstream, **variables},
        )  # fmt: skip
        try:
            async with grpc.aio.insecure_channel(address) as channel:
                await asyncio.wait_for(channel.channel_ready(), START_S)
                yield Generator(address, channel, GeneratorServiceStub(channel), process)
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()
