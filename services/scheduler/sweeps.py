"""What mends everything a crash can leave behind: each sweep compares SQL with Valkey and repeats what is missing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from services.clock import DAY_MS, Clock
from services.pricing import PriceList, Tokens
from services.scheduler.attempts import Attempts
from services.scheduler.life import LineUnavailable, Request, Retry, State, Turn
from services.scheduler.line import ValkeyLine
from services.scheduler.ports import Requests
from services.sql import StoreUnavailable

log = logging.getLogger(__name__)

RENEW_MS = 2_000
"""A quarter of a lease."""
LEASES_MS = 2_000
DEADLINES_MS = 1_000
MISSING_MS = 10_000
PURGE_MS = 600_000
SETTLED_AGE_MS = 10_000
"""Younger rows may still be on their way from SQL to Valkey."""
TELLING_MS = 3_000
"""Who ended it tells of it first, and alone knows what it used: milliseconds, a second for a crowd of equals."""
UNPAID_MS = 15_000
"""Whoever runs a cancelled attempt hears of it with the next renewal, 2 s later, and then pays at once."""
UNPAID_UNTIL_MS = 3_600_000
"""Older ones are of the release before this one, which left no mark where an attempt had cost nothing."""
STRANDED_MS = 3_600_000
"""The longest that an attempt can be allowed: until then a replica with other settings may be at it."""
BATCH = 500


class Sweeps:
    """Each method of `every` is one sweep; `run` repeats them all until told to stop."""

    def __init__(
        self,
        requests: Requests,
        line: ValkeyLine,
        attempts: Attempts,
        prices: PriceList,
        pools: Sequence[str],
        *,
        clock: Clock,
        retention_days: int,
        on_settlement: Callable[[], None],
    ) -> None:
        self._retention_days = retention_days
        self._requests = requests
        self._line = line
        self._attempts = attempts
        self._prices = prices
        self._pools = pools
        self._clock = clock
        self._on_settlement = on_settlement
        self._looked_ms: int | None = None
        self._rounds_to_wait = 0
        self._cursors = {State.QUEUED: 0, State.RUNNING: 0}

    @property
    def every(self) -> list[tuple[int, Callable[[], Awaitable[None]]]]:
        """(interval in ms, sweep)."""
        return [
            (RENEW_MS, self.renew),
            (LEASES_MS, self.expired_leases),
            (LEASES_MS, self.parked),
            (DEADLINES_MS, self.deadlines),
            (MISSING_MS, self.missing),
            (MISSING_MS, self.untold),
            (MISSING_MS, self.unpaid),
            (PURGE_MS, self.purge),
        ]

    async def run(self, stopping: asyncio.Event) -> None:
        """Repeats every sweep until told to stop."""
        await asyncio.gather(*(self._repeat(ms, sweep, stopping) for ms, sweep in self.every))

    async def _repeat(self, interval_ms: int, sweep: Callable[[], Awaitable[None]], stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            try:
                await sweep()
            except (LineUnavailable, StoreUnavailable) as error:
                log.info("a sweep waits: %s", error)
            except Exception:
                log.exception("a sweep broke; it will be repeated")
            with suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), interval_ms / 1000)

    async def renew(self) -> None:
        """Prolongs the leases of what runs here; stops what SQL says is over."""
        over: dict[str, int] = {}
        for pool in self._pools:
            if held := self._attempts.held(pool):
                lost = set(await self._line.renew(pool, held))
                over |= {request_id: attempt for request_id, attempt in held if request_id in lost}
        # Only now: no lease may run out because the database is away.
        for row in await self._requests.get_many(list(over)) if over else ():
            if row.state is not State.RUNNING or row.attempt != over[row.request_id]:
                self._attempts.abandon(row.request_id)
            else:
                event = {"type": "processing", "attempt": row.attempt}
                # A rebuild does not find what began between its two looks at the rows.
                if not await self._line.start(row.pool, row.request_id, row.attempt, event):
                    await self._line.adopt(row.pool, [row])

    async def expired_leases(self) -> None:
        """Puts back what nobody works on any more."""
        found = {pool: await self._line.expired(pool) for pool in self._pools}
        if self._stood_still():
            return
        for pool, request_ids in found.items():
            expired = [i for i in request_ids if not self._attempts.runs(i)]
            rows = {row.request_id: row for row in await self._requests.get_many(expired)}
            for request_id in expired:
                row = rows.get(request_id)
                if row is None:
                    await self._line.forget(pool, request_id)
                elif row.state is State.RUNNING:
                    await self._lost(row)
                elif row.state is State.QUEUED:
                    await self._line.requeue(row, None, None, None)
                else:
                    await self._tell([row])
        self._looked_ms = self._clock.now_ms()

    def _stood_still(self) -> bool:
        """Whether Valkey answered nobody a moment ago: then every lease ran out, and whoever runs is about to renew."""
        now_ms = self._clock.now_ms()
        if self._looked_ms is not None and now_ms - self._looked_ms > 2 * LEASES_MS:
            # This answer may be as old as the question, and a renewal is at most a round away.
            self._rounds_to_wait = 2
        self._looked_ms = now_ms
        if not self._rounds_to_wait:
            return False
        self._rounds_to_wait -= 1
        return True

    async def parked(self) -> None:
        """Puts back what waits for the end of a request that does not run."""
        for pool in self._pools:
            await self._line.unpark(pool)

    async def deadlines(self) -> None:
        """Ends what waited longer than it was allowed to."""
        while expired := await self._requests.expire(self._clock.now_ms(), BATCH):
            self._on_settlement()
            await self._tell(expired)

    async def missing(self) -> None:
        """Places queued rows that Valkey does not have, and puts back running ones without a lease."""
        # What runs comes first: a full Valkey refuses to place, and only what ends empties it.
        for state in (State.RUNNING, State.QUEUED):
            rows = await self._requests.unfinished(state, self._cursors[state], BATCH)
            # Rolling: a long queue is compared a batch at a time, from its beginning again after its end.
            self._cursors[state] = rows[-1].acceptance if len(rows) == BATCH else 0
            settled_ms = self._clock.now_ms() - SETTLED_AGE_MS
            old = [r for r in rows if max(r.accepted_ms, r.started_ms or 0) <= settled_ms]
            if state is State.RUNNING:
                await self._stranded(old)
            for pool in self._pools:
                mine = {r.request_id: r for r in old if r.pool == pool and not self._attempts.runs(r.request_id)}
                gone = await self._line.missing(pool, list(mine)) if mine else []
                if state is State.QUEUED and gone:
                    log.warning("%d queued requests were not in line and are placed again", len(gone))
                    await self._line.place(pool, [mine[i] for i in gone])
                for request_id in gone if state is State.RUNNING else ():
                    await self._lost(mine[request_id])

    async def _stranded(self, rows: Sequence[Request]) -> None:
        """Ends attempts in pools that are no longer configured; they have no lease to run out."""
        for row in rows:
            overdue = self._clock.now_ms() - (row.started_ms or 0) > STRANDED_MS
            if row.pool not in self._pools and overdue and not self._attempts.runs(row.request_id):
                await self._lost(row)

    async def untold(self) -> None:
        """Runs the ending script for ended rows that are not known to have had it."""
        while rows := await self._requests.untold(BATCH, self._clock.now_ms() - TELLING_MS):
            await self._tell(rows)

    async def unpaid(self) -> None:
        """Pays an estimate for attempts that were cancelled when whoever ran them was gone."""
        now_ms = self._clock.now_ms()
        for row in await self._requests.unpaid(BATCH, now_ms - UNPAID_UNTIL_MS, now_ms - UNPAID_MS):
            if not self._attempts.runs(row.request_id):
                await self._requests.charge(row.request_id, row.attempt, [self._estimate(row)])
                self._on_settlement()

    async def purge(self) -> None:
        """Deletes what is older than it may get."""
        before_ms = self._clock.now_ms() - self._retention_days * DAY_MS
        while await self._requests.purge(before_ms, BATCH) == BATCH:
            continue

    async def _lost(self, row: Request) -> None:
        log.warning("attempt %d of %s was lost and is put back in line", row.attempt, row.request_id)
        retry = Retry(0, "The worker was lost.")
        queued = await self._requests.requeue(
            row.request_id, row.attempt, retry, [self._estimate(row)], self._clock.now_ms()
        )
        if queued is None:
            return
        self._on_settlement()
        if row.pool not in self._pools:
            return
        event = {"type": "retrying", "reason": retry.reason, "delay": 0, "attempt": row.attempt}
        if not await self._line.requeue(queued, None, None, event):
            await self._line.place(row.pool, [queued])

    def _estimate(self, row: Request) -> Turn:
        """What a lost attempt may have cost: nobody is left who saw its usage."""
        tokens = Tokens(input=row.estimated_input_tokens, output=row.estimated_output_tokens)
        try:
            cost = self._prices.cost_nano_usd(row.model, tokens)
        except KeyError:
            # Its model was taken out of the configuration while it ran; it must end all the same.
            log.error("%s is charged nothing: its model has no price any more", row.request_id)
            cost = 0
        return Turn(row.attempt, 1, row.model, tokens, cost, True, self._clock.now_ms())

    async def _tell(self, rows: Sequence[Request]) -> None:
        last_seq = self._line.identity.last_seq
        # In a pool that is no longer configured nothing is held, and nobody listens.
        finished = [await self._line.finish(row) if row.pool in self._pools else last_seq for row in rows]
        await self._requests.tell([(row.request_id, seq) for row, seq in zip(rows, finished, strict=True)])
