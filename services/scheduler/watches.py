"""Who watches what: hands events to the gateways' streams and tells them places that changed."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from services.clock import Clock
from services.scheduler.life import LineUnavailable, Request, State
from services.scheduler.ports import Requests
from services.scheduler.waits import Place
from services.sql import StoreUnavailable

log = logging.getLogger(__name__)

STATUS_MS = 1_000
"""Places are told once a second, and only when they changed."""
GATHER_MS = 20
"""Events that happen together travel together."""
BATCH = 500
PENDING = 20_000
"""Events held for one slow stream; beyond it places and deltas are dropped."""


@dataclass(frozen=True)
class Happened:
    """One thing that happened to a request: a logged event, a place, or its end."""

    request_id: str
    seq: int
    event: dict[str, Any] | Place | Request

    @property
    def may_be_lost(self) -> bool:
        """Whether what follows makes it good: the next place does, and the end holds the whole answer."""
        return isinstance(self.event, Place) or (isinstance(self.event, dict) and self.event["type"] == "delta")


class Line(Protocol):
    """What watching needs of the order."""

    async def events(self, pool: str, request_id: str, after: int) -> list[tuple[int, dict[str, Any]]]: ...


class Watcher:
    """One gateway's stream: what it watches and what it has not been sent yet."""

    def __init__(self, watches: Watches, clock: Clock) -> None:
        self._watches = watches
        self._clock = clock
        self._confirmed: list[str] = []
        self._pending: list[Happened] = []
        self._some = asyncio.Event()
        self._over = False

    async def subscribe(self, request_ids: Sequence[str]) -> None:
        """Watches these from now on; confirmed by the next batch."""
        await self._watches.add(self, request_ids)
        self._confirmed += request_ids
        self._some.set()

    def unsubscribe(self, request_ids: Iterable[str]) -> None:
        """Watches these no longer."""
        self._watches.remove(self, request_ids)

    def push(self, happened: Happened) -> None:
        """Holds an event until the stream takes it; a slow stream loses what may be lost."""
        if len(self._pending) < PENDING or not happened.may_be_lost:
            self._pending.append(happened)
            self._some.set()

    def end(self) -> None:
        """No more is asked for: `batches` ends after what is held."""
        self._over = True
        self._some.set()

    async def batches(self) -> AsyncIterator[tuple[list[str], list[Happened]]]:
        """(ids confirmed, events) as they come, until `end`."""
        while not self._over:
            await self._some.wait()
            await self._clock.sleep(GATHER_MS)
            self._some.clear()
            confirmed, self._confirmed = self._confirmed, []
            pending, self._pending = self._pending, []
            yield confirmed, pending


class Watches:
    """All streams of this process, fed by the live feed; a `feed.Listener`."""

    def __init__(
        self,
        requests: Requests,
        line: Line,
        places: Callable[[str, Sequence[str]], Any],
        *,
        clock: Clock,
        on_ended: Callable[[str], None],
    ) -> None:
        """`places(pool, ids)` gives {id: Place} of those queued; `on_ended(id)` hears of every end."""
        self._requests = requests
        self._line = line
        self._places = places
        self._clock = clock
        self._on_ended = on_ended
        self._watchers: dict[str, set[Watcher]] = defaultdict(set)
        self._open: set[Watcher] = set()
        self._pools: dict[str, str] = {}
        self._queued: set[str] = set()
        self._told: dict[str, Place] = {}
        self._seen: dict[str, int] = {}
        self._ended: dict[str, int] = {}
        self._gap = False
        self._some = asyncio.Event()

    def open(self) -> Watcher:
        """A stream that watches nothing yet."""
        watcher = Watcher(self, self._clock)
        self._open.add(watcher)
        return watcher

    def end(self) -> None:
        """Ends every stream, so that their gateways go to another replica."""
        for watcher in list(self._open):
            watcher.end()

    def close(self, watcher: Watcher) -> None:
        """Forgets a stream."""
        self._open.discard(watcher)
        self.remove(watcher, [i for i, watchers in self._watchers.items() if watcher in watchers])

    async def add(self, watcher: Watcher, request_ids: Sequence[str]) -> None:
        """Hands the watcher what happens to these from now on."""
        for request_id in request_ids:
            self._watchers[request_id].add(watcher)
        for i in range(0, len(request_ids), BATCH):
            for request in await self._requests.get_many(request_ids[i : i + BATCH]):
                if request.request_id in self._watchers and not request.state.ended:
                    self._pools[request.request_id] = request.pool
                    self._told.pop(request.request_id, None)
                    # What was heard since it was read is newer.
                    if request.state is State.QUEUED and request.request_id not in self._seen:
                        self._queued.add(request.request_id)

    def remove(self, watcher: Watcher, request_ids: Iterable[str]) -> None:
        """No longer hands the watcher what happens to these."""
        for request_id in request_ids:
            watchers = self._watchers.get(request_id)
            if watchers is not None:
                watchers.discard(watcher)
                if not watchers:
                    self._forget(request_id)

    def on_event(self, pool: str, request_id: str, seq: int, event: dict[str, Any]) -> None:
        """From the feed."""
        kind = event["type"]
        if kind == "ended":
            self._on_ended(request_id)
        if request_id not in self._watchers or seq <= self._seen.get(request_id, 0):
            return
        self._seen[request_id] = seq
        if kind == "ended":
            self._ended[request_id] = seq
            self._some.set()
            return
        if kind == "processing":
            self._queued.discard(request_id)
        elif kind == "retrying":
            self._queued.add(request_id)
            self._told.pop(request_id, None)
        self._push(Happened(request_id, seq, event))

    def on_gap(self) -> None:
        """From the feed: it was away, so what is watched must be looked up."""
        self._gap = True
        self._some.set()

    async def run(self, stopping: asyncio.Event) -> None:
        """Sends ends as they come and places once a second, until told to stop."""
        next_status_ms = self._clock.now_ms()
        while not stopping.is_set():
            try:
                await asyncio.wait_for(self._some.wait(), STATUS_MS / 1000)
            except TimeoutError:
                pass
            self._some.clear()
            try:
                await self._catch_up()
                await self._send_ends()
                # Further off than an interval: the clock was set back.
                if not 0 < next_status_ms - self._clock.now_ms() <= STATUS_MS:
                    next_status_ms = self._clock.now_ms() + STATUS_MS
                    await self._send_places()
            except (StoreUnavailable, LineUnavailable) as error:
                log.warning("watchers wait: %s", error)
                await self._clock.sleep(STATUS_MS)

    async def _send_ends(self) -> None:
        while self._ended:
            some = dict(list(self._ended.items())[:BATCH])
            for request in await self._requests.get_many(list(some)):
                if request.state.ended:
                    self._push(Happened(request.request_id, some[request.request_id], request))
            for request_id in some:
                self._ended.pop(request_id, None)
                self._queued.discard(request_id)

    async def _send_places(self) -> None:
        by_pool: dict[str, list[str]] = defaultdict(list)
        for request_id in self._queued:
            by_pool[self._pools.get(request_id, "")].append(request_id)
        by_pool.pop("", None)
        for pool, request_ids in by_pool.items():
            for i in range(0, len(request_ids), BATCH):
                places: dict[str, Place] = await self._places(pool, request_ids[i : i + BATCH])
                for request_id, place in places.items():
                    if self._told.get(request_id) != place and request_id in self._queued:
                        self._told[request_id] = place
                        self._push(Happened(request_id, 0, place))

    async def _catch_up(self) -> None:
        """After a gap: what was logged meanwhile, and ends that were missed."""
        if not self._gap:
            return
        self._gap, watched = False, list(self._watchers)
        try:
            await self._look_up(watched)
        except BaseException:
            self._gap = True
            raise

    async def _look_up(self, watched: Sequence[str]) -> None:
        for i in range(0, len(watched), BATCH):
            for request in await self._requests.get_many(watched[i : i + BATCH]):
                seen = self._seen.get(request.request_id, 0)
                for seq, event in await self._line.events(request.pool, request.request_id, seen):
                    self.on_event(request.pool, request.request_id, seq, event)
                if request.state.ended and request.final_seq is not None:
                    self._ended.setdefault(request.request_id, request.final_seq)

    def _push(self, happened: Happened) -> None:
        for watcher in self._watchers.get(happened.request_id, ()):
            watcher.push(happened)

    def _forget(self, request_id: str) -> None:
        self._watchers.pop(request_id, None)
        self._pools.pop(request_id, None)
        self._told.pop(request_id, None)
        self._seen.pop(request_id, None)
        self._queued.discard(request_id)
