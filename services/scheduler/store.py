"""The requests in SQL: one code path for PostgreSQL and SQLite, every transition a guarded update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from typing import Any

import msgspec
from sqlalchemy import Connection, Select, and_, case, delete, func, insert, literal, or_, select, text, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import RowMapping

from services.pricing import Tokens
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
    after,
    counted,
)
from services.scheduler.tables import outbox, requests, tombstones, users
from services.sql import Database

ALIVE = (State.QUEUED, State.RUNNING)
_TOKENS = ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h")
_HEAVY = ("prompt", "result", "svg")
_PLAIN = [
    f.name for f in fields(Request) if f.name not in (*_HEAVY, "state", "code", "tokens") and f.name in requests.c
]
_COLUMNS = [requests.c[name] for name in _PLAIN]
_COLUMNS += [requests.c.state, requests.c.code, *(requests.c[f"{name}_tokens"] for name in _TOKENS)]


class SqlRequests:
    """`life.Requests` on a database; each method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def submit(self, submission: Submission, now_ms: int) -> tuple[Request, bool]:
        return await self._database.write(partial(_submit, submission=submission, now_ms=now_ms))

    async def get(self, request_id: str, *, prompt: bool = False, svg: bool = False) -> Request | None:
        wanted = [n for n, yes in (("result", True), ("prompt", prompt), ("svg", svg)) if yes]
        return await self._database.read(partial(_one, request_id=request_id, heavy=wanted))

    async def get_many(self, request_ids: Sequence[str]) -> list[Request]:
        query = _select("result").where(requests.c.request_id.in_(request_ids))
        return await self._database.read(partial(_many, query=query))

    async def begin(self, request_id: str, attempts_so_far: int, now_ms: int) -> Request | None:
        return await self._database.write(
            partial(_begin, request_id=request_id, attempts_so_far=attempts_so_far, now_ms=now_ms)
        )

    async def deliver(self, request_id: str, attempt: int) -> bool:
        statement = update(requests).where(_attempt_runs(request_id, attempt)).values(delivered=True)
        return await self._database.write(lambda connection: connection.execute(statement).rowcount == 1)

    async def finish(
        self, request_id: str, attempt: int, end: End, turns: Sequence[Turn], now_ms: int
    ) -> Request | None:
        return await self._database.write(
            partial(_finish, request_id=request_id, attempt=attempt, end=end, turns=turns, now_ms=now_ms)
        )

    async def requeue(
        self, request_id: str, attempt: int, retry: Retry, turns: Sequence[Turn], now_ms: int
    ) -> Request | None:
        return await self._database.write(
            partial(_requeue, request_id=request_id, attempt=attempt, retry=retry, turns=turns)
        )

    async def charge(self, request_id: str, turns: Sequence[Turn]) -> None:
        await self._database.write(partial(_charge, request_id=request_id, turns=turns))

    async def cancel(self, request_id: str, user_id: str, *, erase: bool, now_ms: int) -> tuple[Request | None, bool]:
        return await self._database.write(
            partial(_cancel, request_id=request_id, user_id=user_id, erase=erase, now_ms=now_ms)
        )

    async def expire(self, now_ms: int, many: int) -> list[Request]:
        return await self._database.write(partial(_expire, now_ms=now_ms, many=many))

    async def account(self, items: Sequence[tuple[str, int]], now_ms: int) -> list[tuple[Standing, bool]]:
        return await self._database.write(partial(_account, items=items, now_ms=now_ms))

    async def of_user(self, user_id: str, many: int, before: int | None) -> list[Request]:
        query = _select("prompt").where(requests.c.user_id == user_id)
        if before is not None:
            query = query.where(requests.c.acceptance < before)
        return await self._database.read(partial(_many, query=query.order_by(requests.c.acceptance.desc()).limit(many)))

    async def unfinished(self, state: State, after: int, many: int) -> list[Request]:
        # The state is spelled out, not bound: only so does a partial index match.
        query = _select().where(text(f"state = '{State(state).value}'"), requests.c.acceptance > after)
        return await self._database.read(partial(_many, query=query.order_by(requests.c.acceptance).limit(many)))

    async def untold(self, many: int) -> list[Request]:
        query = _select().where(text("state NOT IN ('queued', 'running') AND NOT told"))
        return await self._database.read(partial(_many, query=query.order_by(requests.c.acceptance).limit(many)))

    async def tell(self, seqs: Sequence[tuple[str, int]]) -> None:
        await self._database.write(partial(_tell, seqs=seqs))

    async def settlements(self, many: int) -> list[Settlement]:
        return await self._database.read(partial(_settlements, many=many))

    async def settled(self, outbox_ids: Sequence[int]) -> None:
        statement = delete(outbox).where(outbox.c.outbox_id.in_(outbox_ids))
        await self._database.write(lambda connection: connection.execute(statement).rowcount)

    async def apply_tiers(self, changes: Sequence[tuple[str, TierTerms]]) -> None:
        await self._database.write(partial(_apply_tiers, changes=changes))

    async def queue(self) -> list[tuple[str, str, int, int]]:
        query = (
            select(requests.c.pool, requests.c.tier, func.count(), func.min(requests.c.accepted_ms))
            .where(text("state = 'queued'"))
            .group_by(requests.c.pool, requests.c.tier)
        )
        return await self._database.read(lambda connection: [tuple(row) for row in connection.execute(query)])


def _select(*heavy: str) -> Select[Any]:
    return select(*_COLUMNS, *(requests.c[name] for name in heavy))


def _request(row: RowMapping) -> Request:
    tokens = Tokens(**{name: row[f"{name}_tokens"] for name in _TOKENS})
    heavy = {name: row[name] for name in _HEAVY if name in row}
    return Request(
        **{name: row[name] for name in _PLAIN},
        state=State(row["state"]),
        code=Code(row["code"]) if row["code"] else None,
        tokens=tokens,
        **heavy,
    )


def _one(connection: Connection, request_id: str, heavy: Sequence[str] = ("result",)) -> Request | None:
    row = connection.execute(_select(*heavy).where(requests.c.request_id == request_id)).mappings().first()
    return _request(row) if row else None


def _many(connection: Connection, query: Select[Any]) -> list[Request]:
    return [_request(row) for row in connection.execute(query).mappings()]


def _attempt_runs(request_id: str, attempt: int) -> Any:
    return and_(
        requests.c.request_id == request_id, requests.c.state == State.RUNNING.value, requests.c.attempt == attempt
    )


def _upsert(connection: Connection, table: Any) -> Any:
    return (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(table)


def _terms(connection: Connection, user_id: str, terms: TierTerms) -> TierTerms:
    """Keeps the newer of two tiers, and locks the user's row until the transaction ends."""
    statement = _upsert(connection, users).values(
        user_id=user_id, tier=terms.name, version=terms.version, share=terms.share, outstanding=terms.outstanding
    )
    newer, names = statement.excluded.version >= users.c.version, ("tier", "version", "share", "outstanding")
    # A WHERE would leave an older change without a row to return; a CASE always returns the one in force.
    chosen = {n: case((newer, statement.excluded[n]), else_=users.c[n]) for n in names}
    statement = statement.on_conflict_do_update(index_elements=["user_id"], set_=chosen)
    row = connection.execute(statement.returning(*(users.c[n] for n in names))).one()
    return TierTerms(*row)


def _lock_ids(connection: Connection, request_ids: Sequence[str]) -> None:
    """Submit and Account of one id take turns; on SQLite all writers do."""
    if connection.dialect.name == "postgresql":
        for request_id in sorted(request_ids):
            connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(request_id, 0))))


def _submit(connection: Connection, submission: Submission, now_ms: int) -> tuple[Request, bool]:
    s = submission
    terms = _terms(connection, s.user_id, s.tier)
    _lock_ids(connection, [s.request_id])
    outstanding = select(func.count()).select_from(requests).where(requests.c.user_id == s.user_id, _alive())
    grave = select(tombstones.c.generation).where(tombstones.c.request_id == s.request_id)
    known = select(literal(1)).where(requests.c.request_id == s.request_id)
    query = select(known.scalar_subquery(), grave.scalar_subquery(), outstanding.scalar_subquery())
    exists, buried_generation, count = connection.execute(query).one()
    if exists:
        return _existing(connection, s), True
    if buried_generation is not None and s.generation <= buried_generation:
        raise Refused("RESERVATION_STALE", "This reservation was given back. Send the request again.")
    if count >= terms.outstanding:
        figures = {"outstanding": str(count), "limit": str(terms.outstanding)}
        message = f"You have {count} requests waiting or running, the most your plan allows. Wait until one is done."
        raise Refused("CONCURRENCY_LIMIT_EXCEEDED", message, retry_after_ms=5000, figures=figures)
    values = {
        "request_id": s.request_id, "user_id": s.user_id, "tier": terms.name, "share": terms.share, "pool": s.pool,
        "model": s.model, "diagram_type": s.diagram_type, "prompt": s.prompt, "work_hash": s.work_hash,
        "max_tokens": s.max_tokens, "priority": s.priority, "generation": s.generation, "day": s.day,
        "state": State.QUEUED.value, "accepted_ms": now_ms, "deadline_ms": now_ms + s.max_wait_ms,
        "estimated_input_tokens": s.estimated_input_tokens, "estimated_output_tokens": s.estimated_output_tokens,
        "traceparent": s.traceparent,
    }  # fmt: skip
    row = connection.execute(insert(requests).values(values).returning(*_COLUMNS)).mappings().one()
    return _request(row), False


def _alive() -> Any:
    return text("state IN ('queued', 'running')")


def _existing(connection: Connection, s: Submission) -> Request:
    request = _one(connection, s.request_id)
    if request is None or request.user_id != s.user_id:
        raise Refused("NOT_FOUND", "There is no such request.")
    if s.idempotent and request.work_hash != s.work_hash:
        raise Refused("IDEMPOTENCY_CONFLICT", "This Idempotency-Key was used for a different request.")
    return request


def _begin(connection: Connection, request_id: str, attempts_so_far: int, now_ms: int) -> Request | None:
    statement = (
        update(requests)
        .where(
            requests.c.request_id == request_id,
            requests.c.state == State.QUEUED.value,
            requests.c.attempt == attempts_so_far,
        )
        .values(state=State.RUNNING.value, attempt=requests.c.attempt + 1, started_ms=now_ms)
        .returning(*_COLUMNS, requests.c.prompt)
    )
    row = connection.execute(statement).mappings().first()
    return _request(row) if row else None


def _changed(connection: Connection, guard: Any, values: dict[str, Any]) -> Request | None:
    statement = update(requests).where(guard).values(values).returning(*_COLUMNS)
    row = connection.execute(statement).mappings().first()
    return _request(row) if row else None


def _finish(
    connection: Connection, request_id: str, attempt: int, end: End, turns: Sequence[Turn], now_ms: int
) -> Request | None:
    values = {
        "state": end.state.value, "code": end.code.value if end.code else None, "error": end.error,
        "result": end.result, "svg": end.svg, "has_svg": bool(end.svg), "truncated": end.truncated, "ended_ms": now_ms,
    }  # fmt: skip
    request = _changed(connection, _attempt_runs(request_id, attempt), values)
    return _settle(connection, request, turns) if request else None


def _requeue(
    connection: Connection, request_id: str, attempt: int, retry: Retry, turns: Sequence[Turn]
) -> Request | None:
    values = {
        "state": State.QUEUED.value,
        "not_before_ms": retry.not_before_ms,
        "failures": requests.c.failures + (1 if retry.failed else 0),
        "losses": requests.c.losses + (1 if retry.lost else 0),
    }
    request = _changed(connection, _attempt_runs(request_id, attempt), values)
    if request and turns:
        return _settle(connection, request, turns)
    return request


def _settle(connection: Connection, request: Request, turns: Sequence[Turn], *, final: bool = True) -> Request:
    """Adds what the turns used, and writes what quota must hear into the outbox."""
    ends = final and request.state.ended
    total, takes_place = after(request, turns), ends and counted(request, request.state)
    values: dict[str, Any] = {"counted": takes_place} if ends else {}
    if turns:
        values |= {f"{name}_tokens": getattr(total.tokens, name) for name in _TOKENS}
        values |= {"cost_nano_usd": total.cost_nano_usd, "cost_estimated": total.cost_estimated}
        values |= {"charged_attempt": total.charged_attempt}
    connection.execute(update(requests).where(requests.c.acceptance == request.acceptance).values(values))
    settlement = {
        "request_id": request.request_id, "user_id": request.user_id, "final": ends, "counted": takes_place,
        "kind": request.diagram_type, "turns": msgspec.json.encode(list(turns)).decode(),
        "pool": request.pool, "traceparent": request.traceparent,
    }  # fmt: skip
    connection.execute(insert(outbox).values(settlement))
    return total


def _charge(connection: Connection, request_id: str, turns: Sequence[Turn]) -> None:
    # FOR UPDATE: the totals are read and written back.
    query = _select().where(requests.c.request_id == request_id).with_for_update()
    row = connection.execute(query).mappings().first()
    if row and turns and row["charged_attempt"] < turns[0].attempt:
        _settle(connection, _request(row), turns, final=False)


def _cancel(
    connection: Connection, request_id: str, user_id: str, erase: bool, now_ms: int
) -> tuple[Request | None, bool]:
    mine = and_(requests.c.request_id == request_id, requests.c.user_id == user_id)
    alive = or_(*(requests.c.state == state.value for state in ALIVE))
    values = {
        "state": State.CANCELLED.value, "code": Code.CANCELLED.value, "ended_ms": now_ms,
        "error": "You cancelled this request.",
    }  # fmt: skip
    request = _changed(connection, and_(mine, alive), values)
    did = request is not None
    if request:
        _settle(connection, request, ())
    if erase:
        erased = {"prompt": "", "result": "", "svg": "", "has_svg": False}
        connection.execute(update(requests).where(mine).values(erased))
    row = connection.execute(_select("result").where(mine)).mappings().first()
    return (_request(row) if row else None), did


def _expire(connection: Connection, now_ms: int, many: int) -> list[Request]:
    late = (
        select(requests.c.acceptance)
        .where(text("state = 'queued'"), requests.c.deadline_ms <= now_ms)
        .order_by(requests.c.deadline_ms)
        .limit(many)
        .with_for_update(skip_locked=True)
    )
    values = {
        "state": State.EXPIRED.value, "code": Code.EXPIRED.value, "ended_ms": now_ms,
        "error": "This request waited as long as it was allowed to and was not served. It does not count.",
    }  # fmt: skip
    guard = and_(requests.c.acceptance.in_(late), requests.c.state == State.QUEUED.value)
    expired = connection.execute(update(requests).where(guard).values(values).returning(*_COLUMNS)).mappings().all()
    return [_settle(connection, _request(row), ()) for row in expired]


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
            _bury(connection, request_id, generation, now_ms)
            answers.append((Standing.ABSENT, False))
    return answers


def _bury(connection: Connection, request_id: str, generation: int, now_ms: int) -> None:
    statement = _upsert(connection, tombstones).values(request_id=request_id, generation=generation, made_ms=now_ms)
    buried, asked = tombstones.c.generation, statement.excluded.generation
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["request_id"],
            set_={"generation": case((asked > buried, asked), else_=buried), "made_ms": now_ms},
        )
    )


def _tell(connection: Connection, seqs: Sequence[tuple[str, int]]) -> None:
    for request_id, seq in sorted(seqs):
        statement = update(requests).where(requests.c.request_id == request_id, requests.c.final_seq.is_(None))
        connection.execute(statement.values(told=True, final_seq=seq))


def _settlements(connection: Connection, many: int) -> list[Settlement]:
    rows = connection.execute(select(outbox).order_by(outbox.c.outbox_id).limit(many)).mappings()
    return [Settlement(**{**row, "turns": msgspec.json.decode(row["turns"], type=tuple[Turn, ...])}) for row in rows]


def _apply_tiers(connection: Connection, changes: Sequence[tuple[str, TierTerms]]) -> None:
    for user_id, terms in sorted(changes, key=lambda change: change[0]):
        _terms(connection, user_id, terms)
