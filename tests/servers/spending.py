"""A site that spends, in virtual time: the real scripts on the real Valkey, the real rows on SQLite, several pools and
several schedulers, of which the test moves every step."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from services import sql
from services.clock import DAY_MS
from services.pricing import Tokens
from services.scheduler.life import End, LineUnavailable, Request, State, Submission, TierTerms, Turn
from services.scheduler.line import Identity, ValkeyLine, base_key, connect
from services.scheduler.spend import Alert, Spend
from services.scheduler.store import SqlRequests
from services.scheduler.tally import SqlTally
from tests.servers.scheduler import migrate, sqlite_url
from tests.servers.valkey import ValkeyServer

POOLS = ("opus", "sonnet", "haiku")
START_MS = 20_000 * DAY_MS + 3_600_000
"""One in the morning."""
MIDNIGHT_MS = 20_001 * DAY_MS
SHARES = {"free": 1, "pro": 4}


@dataclass
class Now:
    """A clock that the test sets."""

    ms: int = START_MS

    def now_ms(self) -> int:
        return self.ms

    async def sleep(self, delay_ms: float) -> None:
        raise AssertionError("nobody waits here")


@dataclass(frozen=True)
class Raised:
    """An alert."""

    subject: str


class KeptAlerts:
    """`Alerts` in memory."""

    def __init__(self) -> None:
        self._active: set[str] = set()

    async def active(self) -> Sequence[Alert]:
        return [Raised(subject) for subject in sorted(self._active)]

    async def raise_(self, subject: str, message: str) -> None:
        self._active.add(subject)

    async def end(self, subject: str) -> None:
        self._active.discard(subject)


class Line(ValkeyLine):
    """A scheduler's line; it may die while it tells, of the pools in `deaf` none."""

    deaf: Collection[str] = ()

    async def tell_spent(self, pool: str, day: int, spent: object) -> None:
        if pool in self.deaf:
            raise LineUnavailable("it died")
        await super().tell_spent(pool, day, spent)  # type: ignore[arg-type]


@dataclass
class Scheduler:
    """One replica."""

    line: Line
    spend: Spend
    alerts: KeptAlerts


@dataclass
class Site:
    """All of it."""

    database: sql.Database
    url: str
    cap: int | None
    now: Now
    schedulers: list[Scheduler] = field(default_factory=list)
    running: dict[str, Request] = field(default_factory=dict)
    ghosts: dict[str, Request] = field(default_factory=dict)
    """Ended in SQL by a scheduler that died before it freed their leases."""
    freed: list[tuple[Request, int, int]] = field(default_factory=list)
    """(request, cost, day) of attempts whose lease is free."""
    order: list[str] = field(default_factory=list)
    """Users, as their requests went."""
    user_caps: dict[str, int | None] = field(default_factory=dict)
    tier_caps: dict[str, int | None] = field(default_factory=dict)
    _count: int = 0

    def __post_init__(self) -> None:
        self.requests = SqlRequests(self.database)
        self.client = connect(self.url, None)

    async def scheduler(self, cap: int | None = None) -> Scheduler:
        """Another replica starts."""
        self.schedulers.append(self._made(self.cap if cap is None else cap))
        await self.schedulers[-1].spend.restore(self.schedulers[-1].line)
        return self.schedulers[-1]

    def _made(self, cap: int | None, deaf: Collection[str] = ()) -> Scheduler:
        alerts = KeptAlerts()
        spend = Spend(SqlTally(self.database), POOLS, cap, clock=self.now, alerts=alerts)
        line = Line(self.client, Identity(1), virtual_now_ms=self.now.ms, on_spent=spend.count)
        line.deaf = deaf
        return Scheduler(line, spend, alerts)

    async def empty_valkey(self, **limits: int) -> None:
        """What a rebuild begins with."""
        for pool in POOLS:
            for key in [key async for key in self.client.scan_iter(f"{base_key(pool)}*", count=1000)]:
                await self.client.delete(key)
            await self.client.hset(f"{base_key(pool)}meta", "epoch", "1")
            line = Line(self.client, Identity(1), virtual_now_ms=self.now.ms)
            await line.set_limits(pool, "plan", limits or {"requests": 6_000_000})

    def move(self, ms: int) -> None:
        """Time passes."""
        self.now.ms += ms
        for one in self.schedulers:
            one.line.virtual_now_ms = self.now.ms

    def terms(self, user: str, tier: str) -> TierTerms:
        """What quota says of a user."""
        return TierTerms(tier, 1, SHARES[tier], 10_000, self.user_caps.get(user), self.tier_caps.get(tier))

    async def limit(self, user: str, cap: int | None, tier: str = "free", *, scheduler: int = 0) -> None:
        """Quota tells of a user's new limit."""
        self.user_caps[user] = cap
        changes = [(user, self.terms(user, tier))]
        await self.requests.apply_tiers(changes)
        its = self.schedulers[scheduler]
        await its.spend.changed(its.line, changes)

    async def send(self, user: str, pool: str = POOLS[0], tier: str = "free", *, scheduler: int = 0) -> Request:
        """A request is accepted and put in line."""
        self._count += 1
        terms = self.terms(user, tier)
        submission = Submission(
            request_id=f"req_{self._count:05d}", user_id=user, tier=terms, generation=1, day="2024-10-04", pool=pool,
            model="claude-sonnet-5-5", diagram_type="mermaid", prompt="p", max_tokens=1_000, priority=0,
            max_wait_ms=2 * DAY_MS, idempotent=False, work_hash="h", estimated_input_tokens=100,
            estimated_output_tokens=100, traceparent="",
        )  # fmt: skip
        row, _ = await self.requests.submit(submission, self.now.ms)
        its = self.schedulers[scheduler]
        await its.spend.accepted(its.line, user, terms)
        await its.line.place(pool, [row])
        return row

    async def dispatch(
        self, pool: str = POOLS[0], many: int = 100, *, slots: int = 8, scheduler: int = 0
    ) -> list[Request]:
        """What may go, goes."""
        line = self.schedulers[scheduler].line
        begun = []
        for request_id, attempts in (await line.dispatch(pool, many, slots)).request_ids:
            row = await self.requests.begin(request_id, attempts, self.now.ms)
            assert row is not None
            await line.start(pool, request_id, row.attempt, {"type": "processing", "attempt": row.attempt})
            self.running[request_id] = row
            begun.append(row)
            self.order.append(row.user_id)
        return begun

    async def end(self, row: Request, cost: int, *, scheduler: int = 0, deaf: Collection[str] = ()) -> None:
        """An attempt ends and cost that; its scheduler dies before the pools in `deaf` are told."""
        turn = Turn(row.attempt, 1, row.model, Tokens(input=100, output=100), cost, False, self.now.ms)
        del self.running[row.request_id]
        ended = await self.requests.finish(
            row.request_id, row.attempt, End(State.COMPLETED, result="x"), [turn], self.now.ms
        )
        self.ghosts[row.request_id] = ended[0]
        if not deaf:
            await self.sweep(row.request_id, scheduler=scheduler)
            return
        with contextlib.suppress(LineUnavailable):
            await self._made(self.cap, deaf).line.finish(ended[0], 100, 100)
        leased = await self.client.zscore(f"{base_key(row.pool)}leases", row.request_id)
        assert leased, "a lease is free and not every pool was told"

    async def sweep(self, request_id: str, *, scheduler: int = 0) -> None:
        """Somebody runs the ending script of one that has ended."""
        row = self.ghosts[request_id]
        await self.schedulers[scheduler].line.finish(row, 100, 100)
        # Two may have found it; the script may be repeated.
        if self.ghosts.pop(request_id, None):
            self.freed.append((row, row.cost_nano_usd, self.now.ms // DAY_MS))

    async def deliver(self, dice: random.Random) -> None:
        """The outbox is emptied, or some of it."""
        some = [s.outbox_id for s in await self.requests.settlements(dice.choice((1, 5, 500)))]
        await self.requests.settled(some)

    def spent(self, user: str = "", tier: str = "", day: int | None = None) -> int:
        """By what has no lease any more, as the test knows it."""
        today = self.now.ms // DAY_MS if day is None else day
        return sum(
            cost for row, cost, on in self.freed if on == today and user in ("", row.user_id) and tier in ("", row.tier)
        )

    async def told(self, pool: str = POOLS[0]) -> dict[str, str]:
        """What a pool's bucket says of stops."""
        bucket = (await self.schedulers[0].line.view(pool))["bucket"]
        return {name: value for name, value in bucket.items() if name.startswith(("pause", "stop"))}


@contextlib.asynccontextmanager
async def site(valkey: ValkeyServer, folder: Path, cap: int | None = None, replicas: int = 1) -> AsyncIterator[Site]:
    """A site of so many schedulers with that cap."""
    migrate(sqlite_url(folder))
    database = sql.connect(sqlite_url(folder))
    its = Site(database, valkey.url, cap, Now())
    try:
        await its.empty_valkey()
        for _ in range(replicas):
            await its.scheduler()
        for pool in POOLS:
            # The first look starts the buckets' clocks.
            await its.schedulers[0].line.dispatch(pool, 0, None)
        its.move(60_000)
        yield its
    finally:
        await its.client.aclose()
        await database.close()
