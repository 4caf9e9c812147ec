"""A real emulator process of its own for a test, and a small client for its controls.

async with running_emulator(rpm=6000, first_token_ms=0) as emulator:
    await emulator.fault("529", times=2)
    ... HEADGATE settings with ANTHROPIC_BASE_URL=emulator.base_url ...
    calls = await emulator.calls()
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2

ROOT = Path(__file__).parents[2]
START_S = 30.0
DEADLINE_S = 20.0
FAST = {"rpm": 600_000, "tpm": 100_000_000, "first_token_ms": 0, "tokens_per_second": 1_000_000}
"""No limit in the way and every answer at once."""


class Emulator:
    """Its controls."""

    def __init__(self, base_url: str, process: asyncio.subprocess.Process) -> None:
        self.base_url = base_url
        self.process = process
        self._http = httpx2.AsyncClient(base_url=base_url, timeout=DEADLINE_S)

    async def fault(self, name: str, **fields: Any) -> None:
        """The next calls meet this fault (times=1, probability, match, retry_after, after_tokens…)."""
        await self._ask("POST", "/_emulator/faults", {"fault": name, **fields})

    async def clear_faults(self) -> None:
        await self._ask("DELETE", "/_emulator/faults")

    async def limits(self, **limits: int | None) -> dict[str, Any]:
        """Changes limits (rpm, tpm, itpm, otpm, request_burst_ms, token_burst_ms; None takes one away; full: fills)."""
        return await self._ask("PUT", "/_emulator/limits", limits)

    async def foreigner(self, share: float | None = None) -> dict[str, Any]:
        """Lets somebody else use that share of every limit from now on; their share, and their calls by pool."""
        path = "/_emulator/foreigner"
        return await (self._ask("GET", path) if share is None else self._ask("PUT", path, {"share": share}))

    async def pace(self, **pace: float) -> dict[str, Any]:
        """Changes first_token_ms, tokens_per_second."""
        return await self._ask("PUT", "/_emulator/pace", pace)

    async def calls(self, after: int = 0) -> list[dict[str, Any]]:
        """The calls it saw, oldest first."""
        return list((await self._ask("GET", f"/_emulator/calls?after={after}"))["calls"])

    async def totals(self) -> dict[str, Any]:
        """count, running, peak_running, input_tokens, output_tokens, statuses, ended."""
        return dict((await self._ask("GET", "/_emulator/calls?limit=0"))["totals"])

    async def forget_calls(self) -> None:
        await self._ask("DELETE", "/_emulator/calls")

    async def calls_when(self, holds: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
        """The calls as soon as they fulfil `holds`; TimeoutError after 20 s."""
        async with asyncio.timeout(DEADLINE_S):
            while not holds(seen := await self.calls()):
                await asyncio.sleep(0)
        return seen

    async def close(self) -> None:
        await self._http.aclose()

    async def _ask(self, method: str, path: str, body: Any = None) -> Any:
        response = await self._http.request(method, path, json=body)
        assert response.status_code == 200, response.text
        return response.json()


@contextlib.asynccontextmanager
async def running_emulator(**settings: Any) -> AsyncIterator[Emulator]:
    """Starts one on a free port. Settings are its variables without the prefix: rpm=60, seed="x"; FAST by default."""
    variables = {f"HEADGATE_EMULATOR_{k.upper()}": str(v) for k, v in {**FAST, **settings}.items() if v is not None}
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HEADGATE_", "ANTHROPIC_"))}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.emulator", cwd=ROOT, stdout=asyncio.subprocess.PIPE,
        env={**inherited, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protos'}", **variables},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = (await asyncio.wait_for(process.stdout.readline(), START_S)).decode()
        assert line.startswith("listening "), f"the emulator said {line!r}"
        emulator = Emulator(line.split()[1], process)
        try:
            yield emulator
        finally:
            await emulator.close()
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
