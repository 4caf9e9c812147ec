"""Keeps a set of children running until it is stopped."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from itertools import groupby

from services.clock import Clock
from services.embedded import child as children
from services.embedded.child import Child, ChildSpec
from services.embedded.folder import DataFolder
from services.embedded.processes import Running
from services.embedded.restarts import Restarts
from services.process import USAGE_ERROR, StartError

SET_ASIDE_AFTER = 3
"""Rapid deaths after which data that can be rebuilt is no longer trusted."""
LOG_CHECK_S = 30.0


class ChildGaveUp(Exception):
    """A child cannot be kept running; the text is one sentence."""


class Supervisor:
    """Starts children, starts them again when they die, and stops them in order."""

    def __init__(self, folder: DataFolder, clock: Clock, warn: Callable[[str], None]) -> None:
        self._folder = folder
        self._clock = clock
        self._warn = warn
        self._running: dict[str, Child] = {}
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._settled = False
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Fails with `StartError` or `ChildGaveUp` when a child cannot be kept running."""
        self._log_keeper = asyncio.create_task(self._bound_logs())

    async def add(self, spec: ChildSpec) -> None:
        """Starts one more child and keeps it running from now on."""
        running = await self._start(spec)
        self._keepers[spec.name] = asyncio.create_task(self._keep(running))

    def settle(self) -> None:
        """Everything was up once: from now on a mistake in the settings is not what a child dies of."""
        self._settled = True

    def pid(self, name: str) -> int | None:
        """The process that a child is now, or was last; None before it was added."""
        child = self._running.get(name)
        return child.pid if child else None

    async def stop(self, *, at_once: asyncio.Event) -> None:
        """Stops all, rank by rank; kills all as soon as `at_once` is set."""
        tasks = [self._log_keeper, *self._keepers.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if not self.failure.done():
            self.failure.cancel()
        hurry = asyncio.create_task(self._kill_when(at_once))
        began_s = asyncio.get_running_loop().time()
        ordered = sorted(self._running.values(), key=lambda child: child.spec.stop_rank)
        for _, rank in groupby(ordered, key=lambda child: child.spec.stop_rank):
            await asyncio.gather(*(self._stop(child, began_s, at_once) for child in rank))
        hurry.cancel()

    async def _stop(self, child: Child, began_s: float, at_once: asyncio.Event) -> None:
        grace_s = max(0.0, child.spec.stop_by_s - (asyncio.get_running_loop().time() - began_s))
        if not await child.stop(grace_s) and not at_once.is_set():
            self._warn(f"{child.spec.name} did not stop in {grace_s:.1f} s and was killed.")

    async def _kill_when(self, at_once: asyncio.Event) -> None:
        await at_once.wait()
        for child in self._running.values():
            child.kill()

    async def _start(self, spec: ChildSpec) -> Child:
        started = await children.start(spec, self._folder.logs)
        self._running[spec.name] = started
        # Beside its command, not the one that becomes it: that is what a later start will find.
        if running := Running.of(started.pid, spec.command):
            self._folder.record.children[spec.name] = running
            self._folder.write_record()
        return started

    async def _keep(self, child: Child) -> None:
        restarts = Restarts()
        try:
            while True:
                started_ms = self._clock.now_ms()
                status = await child.ended()
                if status == USAGE_ERROR and not self._settled:
                    raise StartError(child.last_words())
                delay_ms = restarts.delay_ms(self._clock.now_ms() - started_ms)
                if delay_ms is None:
                    raise ChildGaveUp(self._epitaph(child, restarts.rapid_deaths))
                self._warn(f"{child.spec.name} ended ({_reason(status)}); starting it again.")
                await self._clock.sleep(delay_ms)
                # A signal came from outside; an exit status is its own verdict on what it found.
                if restarts.rapid_deaths == SET_ASIDE_AFTER and status > 0:
                    self._set_aside(child.spec)
                child = await self._start(child.spec)
        except (StartError, ChildGaveUp, OSError) as error:
            if not self.failure.done():
                self.failure.set_exception(error)

    def _epitaph(self, child: Child, deaths: int) -> str:
        log = self._folder.logs / f"{child.spec.name}.log"
        return f"{child.spec.name} died {deaths} times in a row ({child.last_words() or 'silently'}): see {log}."

    def _set_aside(self, spec: ChildSpec) -> None:
        if spec.folder and spec.folder.exists():
            damaged = spec.folder.with_suffix(".damaged")
            shutil.rmtree(damaged, ignore_errors=True)
            spec.folder.rename(damaged)
            self._warn(f"{spec.name} starts with empty data, made anew from SQL; the old is in {damaged}.")

    async def _bound_logs(self) -> None:
        while True:
            await asyncio.sleep(LOG_CHECK_S)
            for name in list(self._running):
                children.bound(self._folder.logs / f"{name}.log")


def _reason(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"exit status {status}"
