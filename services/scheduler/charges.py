"""What attempts used, as it is written down: in a request's totals, and for quota."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, replace

from sqlalchemy import Connection

from services.pricing import Tokens
from services.scheduler import rows
from services.scheduler import statements as sql
from services.scheduler.life import Request, Turn, after, counted
from services.scheduler.tables import requests


def settle(connection: Connection, request: Request, turns: Sequence[Turn], *, final: bool = True) -> Request:
    """Adds what the turns used, and writes what quota must hear into the outbox."""
    ends = final and request.state.ended
    total, takes_place = after(request, turns), ends and counted(request, request.state)
    if takes_place:
        connection.execute(sql.COUNT, {"row": request.acceptance, "takes_place": True})
    if turns:
        _write_totals(connection, total)
    connection.execute(sql.TELL_QUOTA, rows.settlement(request, turns, final=ends, counted=takes_place))
    return total


def _write_totals(connection: Connection, total: Request) -> None:
    new = dict(zip(sql.TOKENS, astuple(total.tokens), strict=True))
    new |= {n: getattr(total, n) for n in ("cost_nano_usd", "cost_estimated", "charged_attempt")}
    connection.execute(sql.ADD_TURNS, {"row": total.acceptance, **{f"new_{n}": v for n, v in new.items()}})


def charge(connection: Connection, request_id: str, attempt: int, turns: Sequence[Turn]) -> None:
    """`life.Requests.charge`: what an attempt used, whatever became of it, once; a guess only until it is known."""
    # FOR UPDATE: the totals are read and written back.
    query = rows.select_requests().where(requests.c.request_id == request_id).with_for_update()
    request = rows.changed(connection, query)
    if request is None:
        return
    if request.charged_attempt >= attempt:
        _correct(connection, request, turns)
    elif turns:
        settle(connection, request, turns, final=False)
    else:
        connection.execute(sql.CHARGED, {"row": request.acceptance, "of_attempt": attempt})


def _correct(connection: Connection, request: Request, turns: Sequence[Turn]) -> None:
    """Tells quota, which replaces estimates, what an attempt used that was charged already.

    While nothing but the first attempt was charged, the totals are that attempt's, so they and the day's spend are put
    right. After that nobody knows what its estimate was: they keep it, and only the ledger is the bill.
    """
    if not request.cost_estimated or all(turn.estimated for turn in turns):
        return
    total = request
    if request.charged_attempt == 1:
        total = after(replace(request, tokens=Tokens(), cost_nano_usd=0, cost_estimated=False), turns)
        if total == request:
            return
        _write_totals(connection, total)
    told = rows.settlement(request, turns, final=False, counted=False)
    # On the day of the truth: an estimate that was charged before midnight is put right after it.
    connection.execute(sql.TELL_QUOTA, told | {"cost_nano_usd": total.cost_nano_usd - request.cost_nano_usd})
