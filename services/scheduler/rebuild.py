"""Makes the order anew from SQL when Valkey comes back empty, old or as another one.

SQL keeps which Valkey (its run id) the current epoch was made in. One replica at a time
rebuilds: it raises the epoch in SQL, which is the lock, so that scripts of the old epoch are
refused from its first write on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Protocol

from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy import Connection, select, update

from services.clock import DAY_MS, Clock
from services.scheduler.life import LineFull, LineUnavailable, Request, State
from services.scheduler.line import Identity, ValkeyLine, base_key, connect
from services.scheduler.ports import Requests
from services.scheduler.tables import identity as identity_table
from services.sql import Database, StoreUnavailable

log = logging.getLogger(__name__)

LOCK_MS = 30_000
"""A rebuild of 100,000 requests takes a few seconds; after this long another replica may begin anew."""
BATCH = 500


class IdentityStore(Protocol):
    """What SQL knows of Valkey."""

    async def read(self) -> tuple[int, str, int]:
        """(epoch, run id, until when a rebuild holds the lock; 0: none)."""
        ...

    async def claim(self, epoch: int, now_ms: int) -> bool:
        """Raises the epoch by one and takes the lock, if the epoch is still this one and nobody holds it."""
        ...

    async def adopt(self, epoch: int, run_id: str) -> bool:
        """Records that the epoch was made in that Valkey and gives the lock back; False if it was raised."""
        ...


class SqlIdentity:
    """`IdentityStore` in one row."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self) -> tuple[int, str, int]:
        row = identity_table.c
        query = select(row.epoch, row.run_id, row.rebuilding_until_ms)
        return await self._database.read(lambda connection: tuple(connection.execute(query).one()))

    async def claim(self, epoch: int, now_ms: int) -> bool:
        return await self._database.write(partial(_claim, epoch=epoch, now_ms=now_ms))

    async def adopt(self, epoch: int, run_id: str) -> bool:
        statement = update(identity_table).where(identity_table.c.epoch == epoch)
        done = statement.values(run_id=run_id, rebuilding_until_ms=0)
        return await self._database.write(lambda connection: connection.execute(done).rowcount == 1)


def _claim(connection: Connection, epoch: int, now_ms: int) -> bool:
    row = identity_table.c
    statement = update(identity_table).where(row.epoch == epoch, row.rebuilding_until_ms < now_ms)
    taken = statement.values(epoch=epoch + 1, run_id="", rebuilding_until_ms=now_ms + LOCK_MS)
    return connection.execute(taken).rowcount == 1


class Rebuilder:
    """Brings `identity` in line with the Valkey that answers, rebuilding its content if it must."""

    def __init__(
        self,
        url: str,
        pools: Sequence[str],
        identity: Identity,
        store: IdentityStore,
        requests: Requests,
        *,
        clock: Clock,
        set_limits: Callable[[ValkeyLine], Awaitable[None]],
    ) -> None:
        """`set_limits(line)` puts the pools' limits in force; nothing may be dispatched before."""
        self._set_limits = set_limits
        self._url = url
        self._pools = pools
        self._identity = identity
        self._store = store
        self._requests = requests
        self._clock = clock

    async def ensure(self) -> bool:
        """True once this process may write to Valkey; `LineUnavailable` if it cannot be reached."""
        client = connect(self._url, None)
        try:
            run_id = str((await client.info("server"))["run_id"])
            epoch, known_run_id, locked_until_ms = await self._store.read()
            if not locked_until_ms and run_id == known_run_id and await self._carries(client, epoch):
                # The configuration may have changed since.
                await self._set_limits(ValkeyLine(client, Identity(epoch, run_id)))
                self._identity.epoch, self._identity.run_id = epoch, run_id
                return True
            if not await self._store.claim(epoch, self._clock.now_ms()):
                return False
            return await self._rebuild_or_give_back(client, epoch + 1, run_id)
        except (RedisError, OSError) as error:
            raise LineUnavailable(type(error).__name__) from error
        finally:
            await client.aclose()

    async def _carries(self, client: Redis, epoch: int) -> bool:
        held = [await client.hget(f"{base_key(pool)}meta", "epoch") for pool in self._pools]
        return all(value == str(epoch) for value in held)

    async def _rebuild_or_give_back(self, client: Redis, epoch: int, run_id: str) -> bool:
        try:
            return await self._rebuild(client, epoch, run_id)
        except BaseException:
            # The lock would keep everybody waiting; without a run id the next one rebuilds.
            with suppress(StoreUnavailable):
                await self._store.adopt(epoch, "")
            raise

    async def _rebuild(self, client: Redis, epoch: int, run_id: str) -> bool:
        for pool in self._pools:
            # Without it every script is refused; written last, because a full Valkey takes it only once it is emptied.
            await client.delete(f"{base_key(pool)}meta")
            keys = [key async for key in client.scan_iter(f"{base_key(pool)}*", count=1000)]
            for i in range(0, len(keys), BATCH):
                await client.unlink(*keys[i : i + BATCH])
            await client.hset(f"{base_key(pool)}meta", "epoch", str(epoch))
        line = ValkeyLine(client, Identity(epoch, run_id))
        await self._set_limits(line)
        await self._count_today(line)
        adopted = await self._fill(line, State.RUNNING)
        placed = await self._fill(line, State.QUEUED)
        if not await self._store.adopt(epoch, run_id):
            return False
        self._identity.epoch, self._identity.run_id = epoch, run_id
        log.warning("the order was rebuilt from SQL: epoch %d, %d queued, %d running", epoch, placed, adopted)
        return True

    async def _count_today(self, line: ValkeyLine) -> None:
        for pool in self._pools:
            seen = await line.view(pool)
            if any(name.endswith(":requests_day") for name in seen["bucket"]):
                day = seen["now"] // DAY_MS
                await line.set_today(pool, day, await self._requests.begun(pool, day * DAY_MS))

    async def _fill(self, line: ValkeyLine, state: State) -> int:
        total, rows = 0, await self._requests.unfinished(state, 0, BATCH)
        while rows:
            # The next are read while Valkey works.
            put, rows = await asyncio.gather(
                self._put(line, state, rows), self._requests.unfinished(state, rows[-1].acceptance, BATCH)
            )
            total += put
        return total

    async def _put(self, line: ValkeyLine, state: State, rows: Sequence[Request]) -> int:
        put, total = line.adopt if state is State.RUNNING else line.place, 0
        for pool in self._pools:
            if mine := [row for row in rows if row.pool == pool]:
                # The sweep places the rest as room comes; if all had to fit, nothing would be served any more.
                with suppress(LineFull):
                    total += await put(pool, mine)
        return total
