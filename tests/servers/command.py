"""The command `headgate`, run as its process would run it."""

from __future__ import annotations

import asyncio

from services.cli.__main__ import main
from tests.servers.gateway import DEADLINE_S


async def run(*arguments: str) -> int:
    """Its exit status."""
    async with asyncio.timeout(DEADLINE_S):
        return await asyncio.to_thread(main, arguments)
