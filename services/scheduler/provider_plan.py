"""Which provider plan is in force and which pools stand still by hand: kept in SQL, put into Valkey, on all replicas.

Nobody keeps it in memory: whoever puts limits into Valkey reads the row first, so a switch outlives restarts and
rebuilds, and is in force everywhere once Valkey has it.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from sqlalchemy import Connection, delete, select, update

from services.clock import DAY_MS, Clock
from services.scheduler import audit
from services.scheduler.life import LineUnavailable, Refused
from services.scheduler.line import ValkeyLine
from services.scheduler.providers import LIMITS, MOST, MOST_OF_OTHERS, Provider
from services.scheduler.statements import upsert
from services.scheduler.tables import provider as provider_table
from services.scheduler.tables import stopped as stopped_table
from services.scheduler.waits import OPERATOR
from services.sql import Database, StoreUnavailable

log = logging.getLogger(__name__)

INDEFINITE_MS = 3_650 * DAY_MS
"""Until it is resumed."""
AGREE_MS = 5_000
"""How long Valkey may differ from SQL after a call that could not be finished."""
WORDS_CHARACTERS = 1_000
"""What quota keeps of a value in its audit; all limits of three pools are some 700."""
FIELDS = {
    "requests": "requestsPerMinute",
    "tokens": "tokensPerMinute",
    "input_tokens": "inputTokensPerMinute",
    "output_tokens": "outputTokensPerMinute",
    "requests_day": "requestsPerDay",
    "concurrency": "concurrency",
}
"""How the public contract calls the limits."""

Overrides = Mapping[tuple[str, str], int]
"""By pool ("" for all) and limit."""


@dataclass(frozen=True)
class InForce:
    """What the key may do now."""

    plan: str
    overrides: Overrides
    version: int = 0
    """Rises with each switch; 0: nobody has switched, the environment's holds."""
    actor: str = ""
    changed_ms: int | None = None

    def words(self) -> str:
        """For the audit."""
        limits = [f"{pool or 'all'} {name} {limit}" for (pool, name), limit in sorted(self.overrides.items())]
        return ", ".join([self.plan, *limits])[:WORDS_CHARACTERS]


@dataclass(frozen=True)
class Change:
    """What an operator wants."""

    plan: str
    """Empty: it stays."""
    overrides: Sequence[tuple[str, str, int]]
    """(pool, limit's name, limit); 0 takes one back."""
    keep: bool
    """Those that are not named stay."""


def overrides_after(provider: Provider, before: InForce, change: Change) -> tuple[str, Overrides]:
    """Plan and single limits after a change. `Refused` names the field that is wrong."""
    if not (change.plan or change.overrides) and change.keep:
        raise _invalid("plan", "Name a plan or a limit.")
    if change.plan and change.plan not in provider.plans:
        raise _invalid("plan", f"There is no provider plan '{change.plan}', only {', '.join(provider.plans)}.")
    after = dict(before.overrides) if change.keep else {}
    for pool, name, limit in change.overrides:
        if pool and pool not in provider.pools:
            raise _invalid("pool", f"There is no pool '{pool}', only {', '.join(provider.pools)}.")
        if name not in LIMITS:
            raise _invalid("dimension", f"There is no limit '{name}', only {', '.join(LIMITS)}.")
        most = MOST.get(name, MOST_OF_OTHERS)
        if not (0 if change.keep else 1) <= limit <= most:
            raise _invalid(FIELDS[name], f"{FIELDS[name]} must be a whole number from 1 to {most}.")
        after[pool, name] = limit
    return change.plan or before.plan, {key: limit for key, limit in after.items() if limit}


class ProviderPlan:
    """Reads, switches, and puts in force."""

    def __init__(
        self, provider: Provider, overrides: Mapping[str, int], database: Database, clock: Clock,
        new_id: Callable[[], str], on_audit: Callable[[], None],
    ) -> None:  # fmt: skip
        """`overrides` are the environment's, of all pools; `on_audit` hears that there is something to deliver."""
        self.provider = provider
        self._start = InForce(provider.plan, {("", name): limit for name, limit in overrides.items()})
        self._database = database
        self._clock = clock
        self._new_id = new_id
        self._on_audit = on_audit
        self._missed = ""

    async def read(self) -> tuple[InForce, frozenset[str]]:
        """What is in force, and the pools that stand still by hand."""
        return await self._database.read(self._read)

    def _read(self, connection: Connection) -> tuple[InForce, frozenset[str]]:
        stopped = connection.execute(select(stopped_table.c.pool)).scalars()
        return self._row(connection), frozenset(stopped)

    def _row(self, connection: Connection, *, lock: bool = False) -> InForce:
        query = select(provider_table)
        row = connection.execute(query.with_for_update() if lock else query).mappings().first()
        if row is None or not row["version"]:
            return self._start
        if row["plan"] not in self.provider.plans:
            if self._missed != row["plan"]:
                log.error("provider plan %s is no longer in config/: %s holds", row["plan"], self._start.plan)
            self._missed = row["plan"]
            return self._start
        overrides = {(pool, name): limit for pool, name, limit in json.loads(row["overrides"])}
        return InForce(row["plan"], overrides, row["version"], row["actor"], row["changed_ms"])

    async def switch(self, line: ValkeyLine, change: Change, actor: str) -> tuple[InForce, InForce]:
        """Switches; (what is in force now, what was before). `Refused` if it makes no sense; then nothing changes."""
        after, before = await self._database.write(partial(self._switch, change=change, entry=self._entry(actor)))
        if after != before:
            log.warning("the provider plan is now %s (before: %s)", after.words(), before.words())
            self._on_audit()
        await self.put(line)
        return after, before

    def _entry(self, actor: str) -> audit.Entry:
        """To be filled in by the transaction: run again, it leaves the same entry."""
        return audit.Entry(self._new_id(), self._clock.now_ms(), actor[:200] or "unknown", "", "", "", "")

    def _switch(self, connection: Connection, change: Change, entry: audit.Entry) -> tuple[InForce, InForce]:
        # Version 0: only something to lock, so that two who switch at once come one after the other.
        first = {"id": 1, "version": 0, "plan": self._start.plan, "overrides": "[]", "actor": "", "changed_ms": 0}
        connection.execute(upsert(connection.dialect.name, provider_table).on_conflict_do_nothing(), first)
        before = self._row(connection, lock=True)
        plan, overrides = overrides_after(self.provider, before, change)
        # What the environment says is written down once somebody asks for it: it then holds whatever that says later.
        if before.version and (plan, overrides) == (before.plan, before.overrides):
            return before, before
        version = connection.execute(select(provider_table.c.version)).scalar_one() + 1
        after = InForce(plan, overrides, version, entry.actor, entry.time_ms)
        listed = json.dumps([[*key, limit] for key, limit in overrides.items()])
        new = {"version": version, "plan": plan, "overrides": listed, "actor": after.actor, "changed_ms": entry.time_ms}
        connection.execute(update(provider_table).values(new))
        entry = replace(entry, old=before.words(), new=after.words())
        audit.note(connection, replace(entry, action="provider.plan", subject="provider"))
        return after, before

    async def stop(self, line: ValkeyLine, pool: str, actor: str, *, resume: bool = False) -> None:
        """Stops a pool until it is resumed, or resumes it. Repeatable; `Refused` if there is no such pool."""
        if pool not in self.provider.pools:
            raise Refused("NOT_FOUND", f"There is no pool '{pool}', only {', '.join(self.provider.pools)}.")
        transaction = partial(_stop, pool=pool, entry=self._entry(actor), resume=resume)
        if await self._database.write(transaction):
            log.warning("pool %s was %s by hand", pool, "resumed" if resume else "stopped")
            self._on_audit()
        await self.put(line)

    async def put(self, line: ValkeyLine) -> None:
        """Puts what SQL says into Valkey. Until nothing has changed meanwhile: who read first may write last."""
        put = None
        while (state := await self.read()) != put:
            for pool in self.provider.pools:
                for kind, limits in self._fields(pool, state[0]).items():
                    await line.set_limits(pool, kind, limits)
                await line.pause(pool, INDEFINITE_MS if pool in state[1] else 0, OPERATOR)
            put = state

    def _fields(self, pool: str, now: InForce) -> dict[str, dict[str, int | None]]:
        plan, overrides = self.provider.plans[now.plan].limits[pool], now.overrides
        return {
            "plan": {name: plan.of(name) for name in LIMITS},
            "override": {name: overrides.get((pool, name), overrides.get(("", name))) for name in LIMITS},
        }

    async def run(self, line: ValkeyLine, stopping: asyncio.Event) -> None:
        """Mends what a call could not finish, or a replica of the release before has overwritten."""
        while not stopping.is_set():
            with suppress(LineUnavailable, StoreUnavailable):
                await self.agree(line)
            with suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), AGREE_MS / 1000)

    async def agree(self, line: ValkeyLine) -> None:
        """Puts what SQL says into Valkey if Valkey says something else."""
        now, stopped = await self.read()
        for pool in self.provider.pools:
            seen = (await line.view(pool))["bucket"] or {}
            if not self._is_in_force(pool, seen, now) or (f"pause:{OPERATOR}" in seen) != (pool in stopped):
                log.warning("pool %s had other limits than SQL says: they are put in force again", pool)
                await self.put(line)
                return

    def _is_in_force(self, pool: str, seen: Mapping[str, Any], now: InForce) -> bool:
        return all(
            float(seen.get(f"{kind}:{name}", 0)) == (limit or 0)
            for kind, limits in self._fields(pool, now).items()
            for name, limit in limits.items()
        )


def _stop(connection: Connection, pool: str, entry: audit.Entry, resume: bool) -> bool:
    if resume:
        changed = connection.execute(delete(stopped_table).where(stopped_table.c.pool == pool)).rowcount == 1
    else:
        row = {"pool": pool, "actor": entry.actor, "changed_ms": entry.time_ms}
        statement = upsert(connection.dialect.name, stopped_table).values(row).on_conflict_do_nothing()
        changed = connection.execute(statement.returning(stopped_table.c.pool)).first() is not None
    if changed:
        old, new = ("stopped", "flows") if resume else ("flows", "stopped")
        action = "pool.resume" if resume else "pool.pause"
        audit.note(connection, replace(entry, action=action, subject=pool, old=old, new=new))
    return changed


def _invalid(field: str, message: str) -> Refused:
    return Refused("INVALID_REQUEST", message, figures={"field": field})
