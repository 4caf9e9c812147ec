"""Keeps the line usable: notices that Valkey is away or another one, has it rebuilt."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress

from services.scheduler.life import LineUnavailable
from services.scheduler.line import ValkeyLine
from services.scheduler.rebuild import Rebuilder
from services.sql import StoreUnavailable

log = logging.getLogger(__name__)

CHECK_MS = 2_000
RETRY_MS = 200


class Keeper:
    """Runs until told to stop."""

    def __init__(
        self,
        line: ValkeyLine,
        rebuilder: Rebuilder,
        pools: Sequence[str],
        on_ready: Callable[[], None],
    ) -> None:
        """`on_ready` is called whenever the line has become usable."""
        self._line = line
        self._rebuilder = rebuilder
        self._pools = pools
        self._on_ready = on_ready
        self._suspected = asyncio.Event()
        self.ready = False

    def suspect(self) -> None:
        """Somebody found the line away: look at once."""
        self._suspected.set()

    async def run(self, stopping: asyncio.Event) -> None:
        """Checks every 2 s, and at once when somebody suspects; tries five times a second while it is away."""
        while not stopping.is_set():
            self._suspected.clear()
            await self.check()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._suspected.wait(), (CHECK_MS if self.ready else RETRY_MS) / 1000)

    async def check(self) -> None:
        """Looks once, and restores what can be restored."""
        if await self._usable():
            return
        if self.ready:
            log.warning("the store of the order is away; requests are accepted and wait")
        self.ready = False
        await self._restore()

    async def _usable(self) -> bool:
        if not self.ready:
            return False
        try:
            for pool in self._pools:
                await self._line.view(pool)
        except LineUnavailable:
            return False
        return True

    async def _restore(self) -> None:
        try:
            if await self._rebuilder.ensure():
                self.ready = True
                self._on_ready()
        except (LineUnavailable, StoreUnavailable) as error:
            log.debug("not yet: %s", error)
