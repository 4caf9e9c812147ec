"""What was spent today, in SQL: what the outbox holds, and what was added up as it left that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from functools import cache, partial
from typing import Any

from sqlalchemy import BigInteger, Connection, bindparam, case, cast, delete, exists, func, literal, null, or_, select

from services.scheduler.spend import Spent
from services.scheduler.statements import ALIVE, upsert
from services.scheduler.tables import outbox, requests, spent, users
from services.sql import Database

_TODAY = case((spent.c.day == bindparam("day"), spent.c.nano_usd), else_=0)
_WANTED = or_(spent.c.kind == "tier", spent.c.name.in_(bindparam("users", expanding=True)))
_ADDED_UP = select(spent.c.kind, spent.c.name, literal("").label("user_id"), _TODAY, spent.c.cap_nano_usd)
_UNDER_WAY = (
    select(
        literal("outbox"), outbox.c.tier, outbox.c.user_id, func.sum(outbox.c.cost_nano_usd), cast(null(), BigInteger)
    )
    .where(outbox.c.spent_day == bindparam("day"))
    .group_by(outbox.c.tier, outbox.c.user_id)
)
SUMS = _ADDED_UP.where(_WANTED).union_all(_UNDER_WAY)
"""In one statement, because that is one snapshot: what moves meanwhile from there to here is in neither or in both."""

_CAP = users.c.spend_nano_usd_per_day
USER_CAPS = select(users.c.user_id, _CAP).where(users.c.user_id.in_(bindparam("users", expanding=True)))
_LIMITED_TIER = exists().where(spent.c.kind == "tier", spent.c.cap_nano_usd.is_not(None))
LIMITED = select(or_(exists().where(_CAP.is_not(None)), _LIMITED_TIER))
LIMITED_USERS = (
    select(users.c.user_id)
    .where(_CAP.is_not(None), users.c.user_id > bindparam("after"))
    .where(exists().where(requests.c.user_id == users.c.user_id, ALIVE))
    .order_by(users.c.user_id)
    .limit(bindparam("many"))
)


class SqlTally:
    """`spend.Tally` on a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self, day: int, user_ids: Collection[str]) -> list[Spent]:
        return await self._database.read(partial(_read, day=day, user_ids=list(user_ids)))

    async def limited(self) -> bool:
        return await self._database.read(lambda connection: bool(connection.execute(LIMITED).scalar()))

    async def limited_users(self, after: str, many: int) -> list[str]:
        named = {"after": after, "many": many}
        return await self._database.read(lambda connection: list(connection.execute(LIMITED_USERS, named).scalars()))

    async def limit_tier(self, tier: str, cap_nano_usd: int | None) -> None:
        row = {"kind": "tier", "name": tier, "day": 0, "nano_usd": 0, "cap_nano_usd": cap_nano_usd}
        await self._database.write(lambda connection: connection.execute(_limit(connection.dialect.name), row).rowcount)


def take_from_outbox(connection: Connection, outbox_ids: Sequence[int]) -> None:
    """Removes delivered rows and adds up what they cost; of two replicas that delivered the same row one finds it."""
    told = delete(outbox).where(outbox.c.outbox_id.in_(outbox_ids))
    gone = told.returning(outbox.c.spent_day, outbox.c.tier, outbox.c.user_id, outbox.c.cost_nano_usd)
    sums: Counter[tuple[str, str, int]] = Counter()
    for day, tier, user_id, cost in connection.execute(gone):
        if cost:
            sums["tier", tier, day] += cost
            sums["user", user_id, day] += cost
    if sums:
        # In order: replicas take the same locks one after the other.
        rows = [{"kind": k, "name": n, "day": day, "nano_usd": cost} for (k, n, day), cost in sorted(sums.items())]
        connection.execute(_add(connection.dialect.name), rows)


@cache
def _add(dialect: str) -> Any:
    new = upsert(dialect, spent)
    sum_ = case(
        (new.excluded.day == spent.c.day, spent.c.nano_usd + new.excluded.nano_usd),
        (new.excluded.day > spent.c.day, new.excluded.nano_usd),
        # A day that is over limits nothing any more.
        else_=spent.c.nano_usd,
    )
    day = case((new.excluded.day > spent.c.day, new.excluded.day), else_=spent.c.day)
    return new.on_conflict_do_update(index_elements=["kind", "name"], set_={"day": day, "nano_usd": sum_})


@cache
def _limit(dialect: str) -> Any:
    new = upsert(dialect, spent)
    cap = {"cap_nano_usd": new.excluded.cap_nano_usd}
    return new.on_conflict_do_update(index_elements=["kind", "name"], set_=cap)


def _read(connection: Connection, day: int, user_ids: list[str]) -> list[Spent]:
    tiers: Counter[str] = Counter()
    spent_by_user: Counter[str] = Counter()
    caps: dict[str, int | None] = {}
    for kind, name, user_id, nano_usd, cap in connection.execute(SUMS, {"day": day, "users": user_ids}):
        if kind == "user":
            spent_by_user[name] += int(nano_usd)
            continue
        tiers[name] += int(nano_usd)
        if kind == "tier":
            caps[name] = cap
        else:
            spent_by_user[user_id] += int(nano_usd)
    rows = connection.execute(USER_CAPS, {"users": user_ids}) if user_ids else ()
    user_caps = {str(row.user_id): row.spend_nano_usd_per_day for row in rows}
    found = [Spent(f"tier/{name}", nano_usd, caps.get(name)) for name, nano_usd in tiers.items()]
    return found + [Spent(f"user/{i}", spent_by_user[i], user_caps.get(i)) for i in user_ids]
