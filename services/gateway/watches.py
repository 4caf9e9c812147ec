"""The hub: one Watch stream to the scheduler for every reader of this process.

A reader subscribes to a request; the id is asked for on the stream; once the scheduler has
confirmed it, Replay tells what came before, and live events follow. Whenever an id is confirmed
again (the stream broke, or it was dropped and taken up in between) its readers catch up again
from the last number they saw, so nothing is lost or told twice.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Protocol

import grpc
from headgate.scheduler.v1 import scheduler_pb2 as pb

from services.clock import Clock
from services.gateway.messages import ENDED, Links, Message

IDS_PER_CHANGE = 1_000
"""The scheduler's bound of a WatchRequest."""
REPLAYS_PER_CALL = 64
"""Well under the scheduler's 500: an hour's deltas of each must fit into one gRPC message."""
HELD_LIMIT = 1_000
"""Live events kept while a reader catches up; beyond it deltas are dropped."""
BACKOFF_MS = (50, 2_000)
"""First and longest pause before asking the scheduler again."""

log = logging.getLogger(__name__)


Watch = Callable[[AsyncIterator[pb.WatchRequest]], AsyncIterable[pb.WatchResponse]]
"""The scheduler's live events of the ids that were asked for."""
Replay = Callable[[pb.ReplayRequest], Awaitable[pb.ReplayResponse]]
"""What the scheduler's logs hold."""


class Reader(Protocol):
    """Whoever is told."""

    @property
    def user_id(self) -> str:
        """The user it authenticated as; empty without a key."""
        ...

    def opened(self, request_id: str) -> None:
        """The request exists; its events come from here on."""
        ...

    def event(self, message: Message, seq: int) -> None:
        """Something happened; `seq` is the number to show."""
        ...

    def closed(self, request_id: str, *, known: bool) -> None:
        """Nothing more will come; `known` is false if there is no such request."""
        ...


class Subscription:
    """One reader's interest in one request."""

    __slots__ = ("after", "gone", "held", "last", "opened", "reader", "request_id", "turn", "viewer")

    def __init__(self, request_id: str, reader: Reader, after: int | None) -> None:
        self.request_id = request_id
        self.reader = reader
        # Kept as it was: a key sent later must not turn a request that is watched by id into another user's.
        self.viewer = reader.user_id
        self.after = after
        self.last = after or 0
        self.opened = False
        self.gone = False
        self.turn = 0
        self.held: deque[Message] | None = deque()


class _Topic:
    __slots__ = ("confirmed", "subscriptions")

    def __init__(self) -> None:
        self.confirmed = False
        self.subscriptions: set[Subscription] = set()


class _Changes:
    """What one stream has still to be told. Each stream has its own: gRPC goes on reading a broken one's."""

    def __init__(self, ids: Iterable[str]) -> None:
        self._ids = set(ids)
        self._changed = asyncio.Event()
        self._changed.set()
        self._over = False

    def add(self, request_id: str) -> None:
        """Tells of this id, whichever way it changed."""
        self._ids.add(request_id)
        self._changed.set()

    def end(self) -> None:
        """Nobody is told any more."""
        self._over = True
        self._changed.set()

    async def told(self, topics: Mapping[str, _Topic]) -> AsyncIterator[pb.WatchRequest]:
        """The messages of the stream. Only how things stand now matters, so no id is named twice in one."""
        while True:
            await self._changed.wait()
            if self._over:
                return
            self._changed.clear()
            ids, self._ids = self._ids, set()
            for chunk in _chunks([i for i in ids if i not in topics]):
                yield pb.WatchRequest(unsubscribe=chunk)
            for chunk in _chunks([i for i in ids if i in topics]):
                yield pb.WatchRequest(subscribe=chunk)


class Hub:
    """All subscriptions of this process."""

    def __init__(self, watch: Watch, replay: Replay, links: Links, clock: Clock) -> None:
        self._watch_scheduler = watch
        self._ask_replay = replay
        self._links = links
        self._clock = clock
        self._topics: dict[str, _Topic] = {}
        self._changes = _Changes(())
        self._catching_up: deque[tuple[Subscription, int]] = deque()
        self._behind = asyncio.Event()
        self.broken = False

    def subscribe(self, request_id: str, reader: Reader, after: int | None = None) -> Subscription:
        """Tells `reader` of the request until `unsubscribe` or its end: its state first, or what followed `after`."""
        subscription = Subscription(request_id, reader, after)
        topic = self._topics.get(request_id)
        if topic is None:
            topic = self._topics[request_id] = _Topic()
            self._changes.add(request_id)
        topic.subscriptions.add(subscription)
        if topic.confirmed:
            self._catch_up(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Stops telling; repeatable."""
        if subscription.gone:
            return
        subscription.gone = True
        subscription.held = None
        topic = self._topics.get(subscription.request_id)
        if topic is not None:
            topic.subscriptions.discard(subscription)
            if not topic.subscriptions:
                del self._topics[subscription.request_id]
                self._changes.add(subscription.request_id)

    async def run(self) -> None:
        """Serves until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch())
            tasks.create_task(self._replay())

    async def _watch(self) -> None:
        pause_ms = BACKOFF_MS[0]
        while True:
            self._changes = _Changes(self._topics)
            try:
                async for answer in self._watch_scheduler(self._changes.told(self._topics)):
                    pause_ms = BACKOFF_MS[0]
                    self.broken = False
                    self._answered(answer)
            except grpc.aio.AioRpcError as error:
                log.warning("the stream of events broke: %s", error.code().name)
            # Topics stay confirmed: who comes now is told the state at once, and what follows at the next confirmation.
            self._changes.end()
            self.broken = True
            # Jitter, so that the gateways of a site do not come back in one crowd.
            await self._clock.sleep(pause_ms * random.uniform(0.5, 1.0))  # noqa: S311
            pause_ms = min(pause_ms * 2, BACKOFF_MS[1])

    def _answered(self, answer: pb.WatchResponse) -> None:
        for request_id in answer.subscribed:
            topic = self._topics.get(request_id)
            if topic is not None:
                topic.confirmed = True
                for subscription in topic.subscriptions:
                    self._catch_up(subscription)
        for event in answer.events:
            topic = self._topics.get(event.request_id)
            if topic is not None:
                message = Message(event, self._links)
                for subscription in list(topic.subscriptions):
                    if subscription.held is None:
                        self._tell(subscription, message)
                    else:
                        _hold(subscription.held, message)

    def _catch_up(self, subscription: Subscription) -> None:
        subscription.turn += 1
        if subscription.held is None:
            subscription.held = deque()
        self._catching_up.append((subscription, subscription.turn))
        self._behind.set()

    async def _replay(self) -> None:
        pause_ms = BACKOFF_MS[0]
        while True:
            await self._behind.wait()
            batch = self._batch()
            if not batch:
                self._behind.clear()
                continue
            try:
                answer = await self._ask_replay(pb.ReplayRequest(items=[_item(s) for s, _ in batch]))
            except grpc.aio.AioRpcError as error:
                log.warning("events cannot be replayed: %s", error.code().name)
                self._catching_up.extendleft(reversed(batch))
                await self._clock.sleep(pause_ms * random.uniform(0.5, 1.0))  # noqa: S311
                pause_ms = min(pause_ms * 2, BACKOFF_MS[1])
                continue
            pause_ms = BACKOFF_MS[0]
            for (subscription, turn), replayed in zip(batch, answer.replayed, strict=True):
                if not subscription.gone and subscription.turn == turn:
                    self._replayed(subscription, replayed)

    def _batch(self) -> list[tuple[Subscription, int]]:
        batch: list[tuple[Subscription, int]] = []
        while self._catching_up and len(batch) < REPLAYS_PER_CALL:
            subscription, turn = self._catching_up.popleft()
            if not subscription.gone and subscription.turn == turn:
                batch.append((subscription, turn))
        return batch

    def _replayed(self, subscription: Subscription, replayed: pb.Replayed) -> None:
        if not replayed.found:
            self._finish(subscription, known=False)
            return
        first, subscription.opened = not subscription.opened, True
        if first:
            subscription.reader.opened(subscription.request_id)
            if replayed.request.state not in ENDED:
                # A number that was never given would hide everything below it.
                subscription.last = min(subscription.last, replayed.seq)
        for event in replayed.events:
            self._tell(subscription, self._message(subscription, event))
        if not subscription.gone:
            self._tell_state(subscription, replayed, state_only=first and subscription.after is None)
        held, subscription.held = subscription.held, None
        for message in held or ():
            if not subscription.gone:
                self._tell(subscription, message)

    def _message(self, subscription: Subscription, event: pb.Event) -> Message:
        # What was asked for without a user comes without cost, and a zero would be a lie.
        return Message(event, self._links, priced=bool(subscription.viewer))

    def _tell_state(self, subscription: Subscription, replayed: pb.Replayed, *, state_only: bool) -> None:
        request = replayed.request
        event = pb.Event(request_id=subscription.request_id, seq=replayed.seq)
        if request.state in ENDED:
            if subscription.last < replayed.seq or state_only:
                event.ended.CopyFrom(request)
                subscription.reader.event(self._message(subscription, event), replayed.seq)
            self._finish(subscription, known=True)
        elif request.state == pb.STATE_QUEUED:
            event.status.CopyFrom(request.place)
            subscription.last = max(subscription.last, replayed.seq if state_only else 0)
            subscription.reader.event(self._message(subscription, event), subscription.last)
        elif state_only:
            subscription.last = replayed.seq
            event.processing.attempt = request.attempts
            subscription.reader.event(self._message(subscription, event), replayed.seq)

    def _tell(self, subscription: Subscription, message: Message) -> None:
        seq = message.event.seq
        if message.kind == "status":
            seq = subscription.last
        elif seq <= subscription.last:
            return
        subscription.last = seq
        subscription.reader.event(message, seq)
        if message.kind == "ended":
            self._finish(subscription, known=True)

    def _finish(self, subscription: Subscription, *, known: bool) -> None:
        self.unsubscribe(subscription)
        subscription.reader.closed(subscription.request_id, known=known)


def _hold(held: deque[Message], message: Message) -> None:
    if len(held) < HELD_LIMIT or message.kind not in ("status", "delta"):
        held.append(message)


def _item(subscription: Subscription) -> pb.ReplayItem:
    after = subscription.last if subscription.opened else subscription.after
    return pb.ReplayItem(request_id=subscription.request_id, after=after, user_id=subscription.viewer)


def _chunks(ids: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(ids), IDS_PER_CHANGE):
        yield ids[start : start + IDS_PER_CHANGE]
