"""Spend limits of a UTC day: of the site, of a tier, of a user.

What an attempt cost is in SQL before its lease is freed, and every pool is told the sums before it, too. So what was
spent and is not known to a pool is in flight: dispatch goes past a limit by no more than that. Sums are read whole, so
telling one twice, or late, or of two the older one last, changes nothing, and nothing is left to repair when a process
dies in between: the lease stays until a sweep frees it, and that tells the sums first.

A cost counts on the day on which its last turn ended, whatever day the request's place was of: it is spent then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

from services.clock import DAY_MS, Clock
from services.money import to_the_cent
from services.scheduler.life import LineUnavailable, Request, TierTerms
from services.sql import StoreUnavailable

log = logging.getLogger(__name__)

LOOK_MS = 10_000
"""How long a limit that another replica was told of may be unknown here."""
BATCH = 500
SUBJECT = "spend/"
ADVICE = {
    "site": "Raise HEADGATE_MAX_SPEND_PER_DAY",
    "tier": "Raise its spend_nano_usd_per_day in config/plans.yaml (in force with the tier's next request)",
    "user": "Raise their spendNanoUsdPerDay with PUT /api/admin/users/{}/limits",
}


@dataclass(frozen=True)
class Spent:
    """What was spent today, and of how much."""

    scope: str
    """"site", "tier/NAME" or "user/ID"."""
    nano_usd: int
    cap_nano_usd: int | None

    @property
    def reached(self) -> bool:
        """Whether nothing more may be dispatched."""
        return self.cap_nano_usd is not None and self.nano_usd >= self.cap_nano_usd

    @property
    def advice(self) -> str:
        """What the owner is told."""
        kind, _, name = self.scope.partition("/")
        whose = f"the {kind} {name}" if name else "the site"
        return (
            f"The spend limit of {whose}, {to_the_cent(self.cap_nano_usd or 0)} a day, is reached: "
            f"{to_the_cent(self.nano_usd)} today. Requests wait until midnight UTC. "
            f"{ADVICE[kind].format(name)} to let them go on now."
        )


class Tally(Protocol):
    """The sums in SQL."""

    async def read(self, day: int, user_ids: Collection[str]) -> list[Spent]:
        """Of that day (since 1970): of every tier, and of those users."""
        ...

    async def limited(self) -> bool:
        """Whether any tier or user has a limit."""
        ...

    async def limited_users(self, after: str, many: int) -> list[str]:
        """Users with a limit who have something that has not ended, by id, after that one."""
        ...

    async def limit_tier(self, tier: str, cap_nano_usd: int | None) -> None:
        """Keeps a tier's limit."""
        ...


class Line(Protocol):
    """What this needs of the order."""

    async def tell_spent(self, pool: str, day: int, spent: Sequence[Spent]) -> None: ...


class Alert(Protocol):
    """One that is raised now."""

    @property
    def subject(self) -> str: ...


class Alerts(Protocol):
    """Where the owner looks."""

    async def active(self) -> Sequence[Alert]: ...
    async def raise_(self, subject: str, message: str) -> None: ...
    async def end(self, subject: str) -> None: ...


class Spend:
    """Keeps every pool told; one for a process."""

    def __init__(
        self, tally: Tally, pools: Sequence[str], cap_nano_usd: int | None, *, clock: Clock, alerts: Alerts
    ) -> None:
        """`cap_nano_usd` is the site's."""
        self._tally = tally
        self._pools = pools
        self._cap_nano_usd = cap_nano_usd
        self._clock = clock
        self._alerts = alerts
        self._limited = cap_nano_usd is not None
        """Whether anything has a limit; else nothing is asked and nobody waits."""
        self._tier_caps: dict[str, int | None] = {}
        self._raised: set[str] = set()
        self._users: set[str] = set()
        self._next: asyncio.Task[None] | None = None
        self._telling = asyncio.Lock()

    async def restore(self, line: Line) -> None:
        """Puts in force what SQL knows; nothing may be dispatched before."""
        await self._tell(line, ())
        self._limited = self._cap_nano_usd is not None or await self._tally.limited()
        users = await self._tally.limited_users("", BATCH)
        while users:
            await self._tell(line, users)
            users = await self._tally.limited_users(users[-1], BATCH)

    async def count(self, line: Line, request: Request) -> None:
        """Tells every pool what a request's attempts cost, where anything has a limit."""
        if self._limited and request.attempt:
            await self._tell_soon(line, [request.user_id])

    async def accepted(self, line: Line, user_id: str, terms: TierTerms) -> None:
        """Before a request is put in line: its user's limit may be reached already, or new."""
        await self._keep(line, [terms])
        if terms.user_spend_nano_usd_per_day is not None:
            self._limited = True
            await self._tell_soon(line, [user_id])

    async def changed(self, line: Line, changes: Sequence[tuple[str, TierTerms]]) -> None:
        """Users have other terms: who waits for a limit that was raised goes on."""
        await self._keep(line, [terms for _, terms in changes])
        self._limited |= any(terms.user_spend_nano_usd_per_day is not None for _, terms in changes)
        await self._tell_soon(line, [user_id for user_id, _ in changes])

    async def run(self, line: Line, stopping: asyncio.Event) -> None:
        """Looks every 10 s what has a limit, and what is over."""
        while not stopping.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), LOOK_MS / 1000)
            with suppress(LineUnavailable, StoreUnavailable):
                await self.look(line)

    async def look(self, line: Line) -> None:
        """Ends the alerts of what is over, whoever raised them."""
        before, self._limited = self._limited, self._cap_nano_usd is not None or await self._tally.limited()
        subjects = {alert.subject for alert in await self._alerts.active()}
        self._raised = {subject.removeprefix(SUBJECT) for subject in subjects if subject.startswith(SUBJECT)}
        if before or self._limited or self._raised:
            await self._tell_soon(line, [scope[5:] for scope in self._raised if scope.startswith("user/")])

    async def _keep(self, line: Line, all_terms: Sequence[TierTerms]) -> None:
        caps = {terms.name: terms.tier_spend_nano_usd_per_day for terms in all_terms}
        news = {tier: cap for tier, cap in caps.items() if cap != self._tier_caps.get(tier)}
        for tier, cap in news.items():
            with _as_the_lines():
                await self._tally.limit_tier(tier, cap)
            self._tier_caps[tier] = cap
            self._limited = True
        if news:
            await self._tell_soon(line, ())

    async def _tell_soon(self, line: Line, user_ids: Collection[str]) -> None:
        """Reads and tells once for all who ask before the reading begins: what they had committed is in it."""
        self._users |= set(user_ids)
        if self._next is None:
            self._next = asyncio.create_task(self._round(line))
            # It may fail after the last who waited for it was cancelled.
            self._next.add_done_callback(lambda done: done.cancelled() or done.exception())
        with _as_the_lines():
            await asyncio.shield(self._next)

    async def _round(self, line: Line) -> None:
        async with self._telling:
            users, self._users, self._next = self._users, set(), None
            await self._tell(line, users)

    async def _tell(self, line: Line, user_ids: Collection[str]) -> None:
        day = self._clock.now_ms() // DAY_MS
        spent = await self._tally.read(day, user_ids)
        tiers = {s.scope.removeprefix("tier/"): s for s in spent if s.scope.startswith("tier/")}
        self._tier_caps |= {tier: s.cap_nano_usd for tier, s in tiers.items()}
        spent.append(Spent("site", sum(s.nano_usd for s in tiers.values()), self._cap_nano_usd))
        await asyncio.gather(*(line.tell_spent(pool, day, spent) for pool in self._pools))
        with suppress(StoreUnavailable):
            await self._alert(spent)

    async def _alert(self, spent: Sequence[Spent]) -> None:
        for one in spent:
            if one.reached and one.scope not in self._raised:
                self._raised.add(one.scope)
                await self._alerts.raise_(SUBJECT + one.scope, one.advice)
            elif not one.reached and one.scope in self._raised:
                self._raised.discard(one.scope)
                await self._alerts.end(SUBJECT + one.scope)


@contextmanager
def _as_the_lines() -> Iterator[None]:
    """Who frees a lease or places a request tries again when the order is away, and has to when SQL is."""
    try:
        yield
    except StoreUnavailable as error:
        raise LineUnavailable("nobody knows what was spent") from error
