"""Virtual time: an event loop that jumps to its next timer, and the processes that live on it.

Nothing here waits and nothing runs in a thread, so a run is a pure function of its seed.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
from collections.abc import Callable, Coroutine, Iterator
from contextvars import ContextVar
from typing import Any

START_MS = 1_796_000_000_000
"""When every run begins: a moment of 2026, so that days, deadlines and event numbers look as they do outside."""


class OutOfTime(Exception):
    """The run's virtual time is over."""


class _Jump(selectors.SelectSelector):
    """Waits for nothing: what it is asked to wait is added to the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.end_s = float("inf")

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise OutOfTime("nothing will ever happen again")
        self.now_s += max(0.0, timeout)
        if self.now_s > self.end_s:
            raise OutOfTime(f"{self.now_s:.0f} virtual seconds have passed")
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is its own."""

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)
        self.set_task_factory(_own)

    def time(self) -> float:
        return self._jump.now_s

    def end_at(self, end_s: float) -> None:
        """From then on the loop raises `OutOfTime`."""
        self._jump.end_s = end_s

    @property
    def now_ms(self) -> int:
        """The true time, which no process can know."""
        return START_MS + int(self._jump.now_s * 1000)


class Dead(asyncio.CancelledError):
    """The process was killed: none of its code may go on, and no handler may mistake this for a failure."""


class Process:
    """One life of a program: its tasks, and whether it still lives. A killed one never has an effect again."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.skew_ms = 0
        """How far its clock is from the true time."""
        self.frozen_until_s = 0.0
        """It does nothing before, as if it was stopped: what it was told meanwhile it finds then."""
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self.on_death: list[Callable[[], None]] = []

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Runs `work` as a part of this process."""
        with self.current():
            return asyncio.get_running_loop().create_task(work)

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """What is made inside belongs to this process."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def adopt(self, task: asyncio.Task[Any]) -> None:
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))

    def kill(self) -> None:
        """Ends it as SIGKILL would: what its code does while it is torn down reaches nobody."""
        if not self.alive:
            return
        self.alive = False
        for tell in self.on_death:
            tell()
        for task in list(self._tasks):
            task.cancel()

    def check(self) -> None:
        """Raises `Dead` in a killed process."""
        if not self.alive:
            raise Dead(self.name)

    async def awake(self) -> None:
        """Returns once it is not frozen; raises `Dead` in a killed process."""
        while (left_s := self.frozen_until_s - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(left_s)
        self.check()


_current: ContextVar[Process] = ContextVar("process")


def process() -> Process:
    """The process whose code is running."""
    return _current.get()


def _own(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
    task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, **options)
    if owner := _current.get(None):
        owner.adopt(task)
        if not owner.alive:
            task.cancel()
    return task


class ProcessClock:
    """`clock.Clock` as the process that reads it sees it."""

    def __init__(self, loop: VirtualLoop, owner: Process) -> None:
        self._loop = loop
        self._owner = owner

    def now_ms(self) -> int:
        return self._loop.now_ms + self._owner.skew_ms

    async def sleep(self, delay_ms: float) -> None:
        await asyncio.sleep(max(0.0, delay_ms) / 1000)
        await self._owner.awake()
