"""The requests in SQL: one code path for PostgreSQL and SQLite, every transition a guarded update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, replace
from functools import partial

import msgspec
from sqlalchemy import Connection, and_, case, delete, func, select, text, update

from services.scheduler import charges, rows, sharing, tally
from services.scheduler import statements as sql
from services.scheduler.life import (
    Code,
    End,
    Refused,
    Request,
    Retry,
    Settlement,
    Standing,
    State,
    Submission,
    TierTerms,
    Turn,
    accepted,
)
from services.scheduler.rows import select_requests
from services.scheduler.tables import outbox, requests, tombstones
from services.sql import Database

_GIVEN = (
    "request_id", "user_id", "tier", "share", "pool", "model", "diagram_type", "max_tokens", "priority", "day",
    "accepted_ms", "deadline_ms", "estimated_input_tokens", "estimated_output_tokens", "traceparent", "work_hash",
    "cache_key",
)  # fmt: skip
"""What a new row is given; the rest are the table's defaults."""


Moves = list[tuple[TierTerms, list[Request]]]


class SqlRequests:
    """`ports.Requests` on a database; each method is one transaction."""

    def __init__(self, database: Database, *, cache_ttl_ms: int = 86_400_000) -> None:
        """An answer is given again for `cache_ttl_ms`."""
        self._database = database
        self._cache_ttl_ms = cache_ttl_ms

    async def submit(self, submission: Submission, now_ms: int, full: Refused | None = None) -> tuple[Request, bool]:
        fresh_ms = now_ms - self._cache_ttl_ms
        transaction = partial(_submit, s=submission, now_ms=now_ms, fresh_ms=fresh_ms, full=full)
        return await self._database.write(transaction, fold=submission.user_id)

    async def get(self, request_id: str, *, prompt: bool = False, svg: bool = False) -> Request | None:
        wanted = [n for n, yes in (("result", True), ("prompt", prompt), ("svg", svg)) if yes]
        return await self._database.read(partial(rows.one, request_id=request_id, heavy=wanted))

    async def get_many(self, request_ids: Sequence[str]) -> list[Request]:
        query = select_requests("result").where(requests.c.request_id.in_(request_ids))
        return await self._database.read(partial(rows.many, query=query))

    async def begin(self, request_id: str, attempts_so_far: int, now_ms: int) -> Request | None:
        fresh_ms = now_ms - self._cache_ttl_ms
        return await self._database.write(
            partial(_begin, request_id=request_id, attempts_so_far=attempts_so_far, now_ms=now_ms, fresh_ms=fresh_ms),
            fold=request_id,
        )

    async def deliver(self, request_id: str, attempt: int) -> bool:
        named = {"id": request_id, "of_attempt": attempt}
        return await self._database.write(
            lambda connection: connection.execute(sql.DELIVER, named).rowcount == 1, fold=request_id
        )

    async def finish(
        self, request_id: str, attempt: int, end: End, turns: Sequence[Turn], now_ms: int, parked: Sequence[str] = ()
    ) -> list[Request]:
        return await self._database.write(
            # Not folded: those that end with it are locked in no order.
            partial(_finish, request_id=request_id, attempt=attempt, end=end, turns=turns, now_ms=now_ms, parked=parked)
        )

    async def share(self, request: Request, end: End, now_ms: int) -> list[Request]:
        return await self._database.write(partial(sharing.share, request=request, end=end, parked=(), now_ms=now_ms))

    async def requeue(
        self, request_id: str, attempt: int, retry: Retry, turns: Sequence[Turn], now_ms: int
    ) -> Request | None:
        return await self._database.write(
            partial(_requeue, request_id=request_id, attempt=attempt, retry=retry, turns=turns), fold=request_id
        )

    async def charge(self, request_id: str, attempt: int, turns: Sequence[Turn]) -> None:
        transaction = partial(charges.charge, request_id=request_id, attempt=attempt, turns=turns)
        await self._database.write(transaction, fold=request_id)

    async def unpaid(self, many: int, ended_after_ms: int, ended_before_ms: int) -> list[Request]:
        query = select_requests().where(text("state = 'cancelled' AND charged_attempt < attempt"))
        query = query.where(requests.c.ended_ms.between(ended_after_ms, ended_before_ms))
        return await self._database.read(partial(rows.many, query=query.order_by(requests.c.ended_ms).limit(many)))

    async def cancel(self, request_id: str, user_id: str, *, erase: bool, now_ms: int) -> tuple[Request | None, bool]:
        return await self._database.write(
            partial(_cancel, request_id=request_id, user_id=user_id, erase=erase, now_ms=now_ms), fold=request_id
        )

    async def expire(self, now_ms: int, many: int) -> list[Request]:
        return await self._database.write(partial(_expire, now_ms=now_ms, many=many))

    async def account(self, items: Sequence[tuple[str, int]], now_ms: int) -> list[tuple[Standing, bool]]:
        return await self._database.write(partial(_account, items=items, now_ms=now_ms))

    async def of_user(self, user_id: str, many: int, before: int | None) -> list[Request]:
        query = select_requests("prompt").where(requests.c.user_id == user_id)
        if before is not None:
            query = query.where(requests.c.acceptance < before)
        return await self._database.read(
            partial(rows.many, query=query.order_by(requests.c.acceptance.desc()).limit(many))
        )

    async def unfinished(self, state: State, after: int, many: int) -> list[Request]:
        # The state is spelled out, not bound: only so does a partial index match.
        query = select_requests().where(text(f"state = '{State(state).value}'"), requests.c.acceptance > after)
        return await self._database.read(partial(rows.many, query=query.order_by(requests.c.acceptance).limit(many)))

    async def untold(self, many: int, ended_before_ms: int) -> list[Request]:
        query = select_requests().where(text("state NOT IN ('queued', 'running') AND NOT told"))
        query = query.where(requests.c.ended_ms <= ended_before_ms)
        return await self._database.read(partial(rows.many, query=query.order_by(requests.c.acceptance).limit(many)))

    async def tell(self, seqs: Sequence[tuple[str, int]]) -> None:
        fold = seqs[0][0] if len(seqs) == 1 else ""
        await self._database.write(partial(_tell, seqs=seqs), fold=fold)

    async def purge(self, ended_before_ms: int, many: int) -> int:
        return await self._database.write(partial(_purge, ended_before_ms=ended_before_ms, many=many))

    async def settlements(self, many: int) -> list[Settlement]:
        return await self._database.read(partial(_settlements, many=many))

    async def settled(self, outbox_ids: Sequence[int]) -> None:
        await self._database.write(partial(tally.take_from_outbox, outbox_ids=outbox_ids))

    async def set_aside(self, outbox_id: int) -> None:
        statement = update(outbox).where(outbox.c.outbox_id == outbox_id).values(refused=True)
        await self._database.write(lambda connection: connection.execute(statement).rowcount)

    async def apply_tiers(self, changes: Sequence[tuple[str, TierTerms]]) -> Moves:
        return await self._database.write(partial(_apply_tiers, changes=changes))

    async def outstanding(self, user_id: str) -> int:
        return await self._database.read(
            lambda connection: connection.execute(sql.OUTSTANDING, {"user": user_id}).scalar_one()
        )

    async def begun(self, pool: str, since_ms: int) -> int:
        # No index: it is asked once a rebuild, where a day's requests are limited and the table is small for it.
        query = select(func.sum(requests.c.attempt)).where(requests.c.pool == pool, requests.c.started_ms >= since_ms)
        return await self._database.read(lambda connection: int(connection.execute(query).scalar() or 0))

    async def queue(self) -> list[tuple[str, str, int, int]]:
        query = (
            select(requests.c.pool, requests.c.tier, func.count(), func.min(requests.c.accepted_ms))
            .where(text("state = 'queued'"))
            .group_by(requests.c.pool, requests.c.tier)
        )
        return await self._database.read(lambda connection: [tuple(row) for row in connection.execute(query)])


def _terms(connection: Connection, user_id: str, terms: TierTerms, request_id: str = "") -> TierTerms:
    """Keeps the newer of two tiers, and locks the user's row and the request's id until the transaction ends."""
    values = {"user_id": user_id, **dict(zip(sql.TERMS, astuple(terms), strict=False))}
    dialect = connection.dialect.name
    lock = {"id": request_id} if request_id and dialect == "postgresql" else {}
    statement = sql.keep_terms(dialect, lock_id=bool(lock))
    kept = TierTerms(*connection.execute(statement, values | lock).one()[: len(sql.TERMS)])
    return replace(kept, tier_spend_nano_usd_per_day=terms.tier_spend_nano_usd_per_day)


def _lock_ids(connection: Connection, request_ids: Sequence[str]) -> None:
    if connection.dialect.name == "postgresql":
        for request_id in sorted(request_ids):
            connection.execute(sql.LOCK_ID, {"id": request_id})


def _submit(
    connection: Connection, s: Submission, now_ms: int, fresh_ms: int, full: Refused | None
) -> tuple[Request, bool]:
    terms = _terms(connection, s.user_id, s.tier, s.request_id)
    named = {"id": s.request_id, "user": s.user_id, "key": s.cache_key, "fresh_ms": fresh_ms}
    exists, buried_generation, count, source = connection.execute(sql.STANDING, named).one()
    if exists:
        return _existing(connection, s), True
    if buried_generation is not None and s.generation <= buried_generation:
        raise Refused("RESERVATION_STALE", "This reservation was given back. Send the request again.")
    request = accepted(s, terms, now_ms)
    if source and (ended := sharing.answered(connection, request, source, now_ms)):
        # It takes no room and no turn: that there is none is no reason to refuse it.
        return _insert(connection, s, *ended), False
    if full:
        raise full
    if count >= terms.outstanding:
        figures = {"outstanding": str(count), "limit": str(terms.outstanding)}
        message = f"You have {count} requests waiting or running, the most your plan allows. Wait until one is done."
        raise Refused("CONCURRENCY_LIMIT_EXCEEDED", message, retry_after_ms=5000, figures=figures)
    return _insert(connection, s, request), False


def _insert(connection: Connection, s: Submission, request: Request, saved_nano_usd: int = 0) -> Request:
    row = {name: getattr(request, name) for name in _GIVEN}
    row |= {"prompt": s.prompt, "generation": s.generation, "state": request.state.value}
    if request.state.ended:
        row |= {name: getattr(request, name) for name in sharing.GIVEN} | {"counted": True}
        connection.execute(
            sql.TELL_QUOTA, rows.settlement(request, final=True, counted=True, saved_nano_usd=saved_nano_usd)
        )
    return replace(request, acceptance=connection.execute(sql.ACCEPT, row).scalar_one())


def _existing(connection: Connection, s: Submission) -> Request:
    request = rows.one(connection, s.request_id)
    if request is None or request.user_id != s.user_id:
        raise Refused("NOT_FOUND", "There is no such request.")
    if s.idempotent and request.work_hash != s.work_hash:
        raise Refused("IDEMPOTENCY_CONFLICT", "This Idempotency-Key was used for a different request.")
    return request


def _begin(connection: Connection, request_id: str, attempts_so_far: int, now_ms: int, fresh_ms: int) -> Request | None:
    named = {"id": request_id, "of_attempt": attempts_so_far, "now_ms": now_ms, "fresh_ms": fresh_ms}
    return rows.changed(connection, sql.BEGIN, named) or sharing.found(connection, named)


def _finish(
    connection: Connection, request_id: str, attempt: int, end: End, turns: Sequence[Turn], now_ms: int,
    parked: Sequence[str],
) -> list[Request]:  # fmt: skip
    new = {
        "state": end.state.value, "code": end.code.value if end.code else None, "error": end.error,
        "result": end.result, "svg": end.svg, "has_svg": bool(end.svg), "truncated": end.truncated,
    }  # fmt: skip
    named = {"id": request_id, "of_attempt": attempt, "now_ms": now_ms}
    request = rows.changed(connection, sql.FINISH, named | {f"new_{name}": value for name, value in new.items()})
    if request is None:
        return []
    if request.cache_key and not (end.state is State.COMPLETED and end.reusable):
        connection.execute(sharing.FORGET, {"row": request.acceptance})
    total = charges.settle(connection, request, turns)
    return [total, *sharing.share(connection, total, end, parked, now_ms)]


def _requeue(
    connection: Connection, request_id: str, attempt: int, retry: Retry, turns: Sequence[Turn]
) -> Request | None:
    counts = {"more_failures": int(retry.failed), "more_losses": int(retry.lost)}
    named = {"id": request_id, "of_attempt": attempt, "new_not_before_ms": retry.not_before_ms, **counts}
    request = rows.changed(connection, sql.REQUEUE, named)
    return charges.settle(connection, request, turns) if request and turns else request


def _cancel(
    connection: Connection, request_id: str, user_id: str, erase: bool, now_ms: int
) -> tuple[Request | None, bool]:
    mine = and_(requests.c.request_id == request_id, requests.c.user_id == user_id)
    values = {
        "state": State.CANCELLED.value, "code": Code.CANCELLED.value, "ended_ms": now_ms,
        "error": "You cancelled this request.", "cache_key": None,
        # What waited is paid, if by a release that did not mark it: only what ran can be unpaid.
        "charged_attempt": case((requests.c.state == "queued", requests.c.attempt), else_=requests.c.charged_attempt),
    }  # fmt: skip
    statement = update(requests).where(mine, sql.ALIVE).values(values).returning(*sql.LIGHT)
    request = rows.changed(connection, statement)
    did = request is not None
    if request:
        charges.settle(connection, request, ())
    if erase:
        erased = {"prompt": "", "result": "", "svg": "", "has_svg": False, "cache_key": None}
        connection.execute(update(requests).where(mine).values(erased))
    row = connection.execute(select_requests("result").where(mine)).mappings().first()
    return (rows.request(row) if row else None), did


def _expire(connection: Connection, now_ms: int, many: int) -> list[Request]:
    late = (
        select(requests.c.acceptance)
        .where(text("state = 'queued'"), requests.c.deadline_ms <= now_ms)
        .order_by(requests.c.deadline_ms)
        .limit(many)
        .with_for_update(skip_locked=True)
        # PostgreSQL runs a subquery that locks as often as it likes, and each run finds a batch of its own.
        .cte("late")
    )
    values = {
        "state": State.EXPIRED.value, "code": Code.EXPIRED.value, "ended_ms": now_ms,
        "error": "This request waited as long as it was allowed to and was not served. It does not count.",
        "cache_key": None,
    }  # fmt: skip
    guard = and_(requests.c.acceptance.in_(select(late.c.acceptance)), requests.c.state == State.QUEUED.value)
    expired = connection.execute(update(requests).where(guard).values(values).returning(*sql.LIGHT)).mappings().all()
    return [charges.settle(connection, rows.request(row), ()) for row in expired]


def _account(connection: Connection, items: Sequence[tuple[str, int]], now_ms: int) -> list[tuple[Standing, bool]]:
    _lock_ids(connection, [request_id for request_id, _ in items])
    query = select(requests.c.request_id, requests.c.state, requests.c.counted)
    rows = connection.execute(query.where(requests.c.request_id.in_([i for i, _ in items]))).all()
    known = {request_id: (State(state), bool(count)) for request_id, state, count in rows}
    answers = []
    for request_id, generation in items:
        if request_id in known:
            state, takes_place = known[request_id]
            answers.append((Standing.ENDED if state.ended else Standing.LIVE, takes_place))
        else:
            grave = {"request_id": request_id, "generation": generation, "made_ms": now_ms}
            connection.execute(sql.bury(connection.dialect.name), grave)
            answers.append((Standing.ABSENT, False))
    return answers


def _tell(connection: Connection, seqs: Sequence[tuple[str, int]]) -> None:
    for request_id, seq in sorted(seqs):
        connection.execute(sql.TELL, {"id": request_id, "seq": seq})


def _purge(connection: Connection, ended_before_ms: int, many: int) -> int:
    old = select(requests.c.acceptance).where(requests.c.ended_ms < ended_before_ms, requests.c.told)
    # In order of acceptance the oldest come first, so no index of ends is needed.
    oldest = old.order_by(requests.c.acceptance).limit(many)
    connection.execute(delete(tombstones).where(tombstones.c.made_ms < ended_before_ms))
    return connection.execute(delete(requests).where(requests.c.acceptance.in_(oldest))).rowcount


def _settlements(connection: Connection, many: int) -> list[Settlement]:
    told = [column for column in outbox.c if column.name not in ("refused", "cost_nano_usd", "spent_day")]
    query = select(*told).where(~outbox.c.refused).order_by(outbox.c.outbox_id).limit(many)
    rows = connection.execute(query).mappings()
    return [Settlement(**{**row, "turns": msgspec.json.decode(row["turns"], type=tuple[Turn, ...])}) for row in rows]


def _apply_tiers(connection: Connection, changes: Sequence[tuple[str, TierTerms]]) -> Moves:
    moves: Moves = []
    for user_id, terms in sorted(changes, key=lambda change: change[0]):
        newest = _terms(connection, user_id, terms)
        connection.execute(sql.RETIER, {"user": user_id, "new_tier": newest.name, "new_share": newest.share})
        moves.append((newest, rows.many(connection, sql.ALIVE_OF_USER, {"user": user_id})))
    return moves
