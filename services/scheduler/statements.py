"""The statements of the paths every request takes, built once: building one costs more than running it."""

from __future__ import annotations

from functools import cache
from typing import Any

from sqlalchemy import bindparam, case, func, insert, literal, select, text, update
from sqlalchemy.dialects import postgresql, sqlite

from services.scheduler.tables import outbox, requests, tombstones, users

TERMS = ("tier", "version", "share", "outstanding")
TOKENS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens")
HEAVY = ("prompt", "result", "svg")
"""Columns that are read only where they are asked for."""
LIGHT = [column for column in requests.c if column.name not in (*HEAVY, "counted", "told", "generation")]

ALIVE = text("state IN ('queued', 'running')")

OUTSTANDING = select(func.count()).select_from(requests).where(requests.c.user_id == bindparam("user"), ALIVE)

ALIVE_OF_USER = select(*LIGHT).where(requests.c.user_id == bindparam("user"), ALIVE).order_by(requests.c.acceptance)

RETIER = (
    update(requests)
    .where(requests.c.user_id == bindparam("user"), ALIVE)
    .values(tier=bindparam("new_tier"), share=bindparam("new_share"))
)

_source = requests.alias("source")
_SOURCE = (
    select(_source.c.acceptance)
    # The release before this one leaves the key where an answer is erased or was cut short.
    .where(_source.c.state == "completed", _source.c.ended_ms > bindparam("fresh_ms"))
    .where(_source.c.result != "", ~_source.c.truncated)
    .order_by(_source.c.ended_ms.desc())
    .limit(1)
)


def by_key(key: Any) -> Any:
    """The newest row of that key whose answer may be given again."""
    return _SOURCE.where(_source.c.cache_key == key)


STANDING = select(
    select(literal(1)).where(requests.c.request_id == bindparam("id")).scalar_subquery(),
    select(tombstones.c.generation).where(tombstones.c.request_id == bindparam("id")).scalar_subquery(),
    select(func.count()).select_from(requests).where(requests.c.user_id == bindparam("user"), ALIVE).scalar_subquery(),
    by_key(bindparam("key")).scalar_subquery(),
)
"""Before an acceptance: is the id known, up to which generation is it buried, how many has the user outstanding, which
row has its answer."""

ACCEPT = insert(requests).returning(requests.c.acceptance)

_OF_ATTEMPT = (
    requests.c.request_id == bindparam("id"),
    requests.c.state == "running",
    requests.c.attempt == bindparam("of_attempt"),
)

BEGIN = (
    update(requests)
    .where(
        requests.c.request_id == bindparam("id"),
        requests.c.state == "queued",
        requests.c.attempt == bindparam("of_attempt"),
        ~by_key(requests.c.cache_key).correlate(requests).exists(),
    )
    .values(state="running", attempt=requests.c.attempt + 1, started_ms=bindparam("now_ms"))
    .returning(*LIGHT, requests.c.prompt)
)

DELIVER = update(requests).where(*_OF_ATTEMPT).values(delivered=True)

FINISH = (
    update(requests)
    .where(*_OF_ATTEMPT)
    .values({n: bindparam(f"new_{n}") for n in ("state", "code", "error", "result", "svg", "has_svg", "truncated")})
    .values(ended_ms=bindparam("now_ms"))
    .returning(*LIGHT)
)

REQUEUE = (
    update(requests)
    .where(*_OF_ATTEMPT)
    .values(
        state="queued",
        not_before_ms=bindparam("new_not_before_ms"),
        charged_attempt=requests.c.attempt,
        failures=requests.c.failures + bindparam("more_failures"),
        losses=requests.c.losses + bindparam("more_losses"),
    )
    .returning(*LIGHT)
)

_TOTALS = (*TOKENS, "cost_nano_usd", "cost_estimated", "charged_attempt")

ADD_TURNS = (
    update(requests)
    .where(requests.c.acceptance == bindparam("row"))
    .values({name: bindparam(f"new_{name}") for name in _TOTALS})
)

CHARGED = (
    update(requests).where(requests.c.acceptance == bindparam("row")).values(charged_attempt=bindparam("of_attempt"))
)

COUNT = update(requests).where(requests.c.acceptance == bindparam("row")).values(counted=bindparam("takes_place"))

TELL_QUOTA = insert(outbox)

TELL = (
    update(requests)
    .where(requests.c.request_id == bindparam("id"), requests.c.final_seq.is_(None))
    .values(told=True, final_seq=bindparam("seq"))
)

_LOCK = func.pg_advisory_xact_lock(func.hashtextextended(bindparam("id"), 0))
LOCK_ID = select(_LOCK)
"""PostgreSQL only: Submit and Account of one id take turns. SQLite has one writer anyway."""


@cache
def keep_terms(dialect: str, *, lock_id: bool = False) -> Any:
    """Keeps the newer of two tiers, locks the user's row and returns the terms in force.

    With `lock_id` (PostgreSQL only) it then takes the lock of `id` as well: a round trip less.
    """
    statement = upsert(dialect, users)
    newer = statement.excluded.version >= users.c.version
    # A WHERE would leave an older change without a row to return; a CASE always returns the one in force.
    chosen = {name: case((newer, statement.excluded[name]), else_=users.c[name]) for name in TERMS}
    statement = statement.on_conflict_do_update(index_elements=["user_id"], set_=chosen)
    lock = (_LOCK,) if lock_id else ()
    return statement.returning(*(users.c[name] for name in TERMS), *lock)


@cache
def bury(dialect: str) -> Any:
    """Puts up a tombstone; one that is there is never lowered."""
    statement = upsert(dialect, tombstones)
    asked, buried = statement.excluded.generation, tombstones.c.generation
    higher = {"generation": case((asked > buried, asked), else_=buried), "made_ms": statement.excluded.made_ms}
    return statement.on_conflict_do_update(index_elements=["request_id"], set_=higher)


def upsert(dialect: str, table: Any) -> Any:
    """An INSERT that may say what to do on a conflict."""
    return (postgresql if dialect == "postgresql" else sqlite).insert(table)
