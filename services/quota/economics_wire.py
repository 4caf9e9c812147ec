"""Economics and statements as messages; what asks for them, checked."""

from __future__ import annotations

import re
from collections.abc import Sequence

from headgate.quota.v1 import ledger_pb2 as pb

from services.quota import model
from services.quota.economics import DayMargin, Report, Statement
from services.quota.model import Invalid
from services.quota.reports_wire import use
from services.quota.revenue import month_bounds
from services.quota.wire import read_range, read_text


def read_report(message: pb.GetEconomicsRequest) -> tuple[int, int]:
    """How many days, and how many users."""
    return read_range("days", message.days, 366, usual=30), read_range("top_users", message.top_users, 100, usual=10)


def read_statement(message: pb.GetStatementRequest) -> tuple[str, int, str]:
    """The month, how many users, and behind which."""
    size = read_range("page_size", message.page_size, 1_000, usual=1_000)
    return _month("month", message.month), size, read_text("page_token", message.page_token, 128, least=0)


def _month(field: str, value: str) -> str:
    try:
        month_bounds(value)
    except ValueError:
        value = ""
    if not re.fullmatch(r"[0-9]{4}-[0-9]{2}", value):
        raise Invalid(field, "must be a month as YYYY-MM")
    return value


def report(value: Report) -> pb.GetEconomicsResponse:
    """The economics of some days."""
    return pb.GetEconomicsResponse(
        from_day=value.first,
        to_day=value.last,
        total=_margin(value.total),
        tiers=[pb.TierMargin(tier=row.tier, margin=_margin(row.margin), users=row.users) for row in value.tiers],
        days=_days(value.days),
        models=_groups(value.models),
        kinds=_groups(value.kinds),
        top_users=_users(value.top_users),
        unprofitable_users=_users(value.unprofitable_users),
    )


def statement(value: Statement) -> pb.GetStatementResponse:
    """One month."""
    return pb.GetStatementResponse(
        month=value.month,
        closed=value.closed,
        total=_margin(value.total),
        days=_days(value.days),
        users=_users(value.users),
        next_page_token=value.next_after,
    )


def _margin(value: model.Margin) -> pb.Margin:
    return pb.Margin(
        revenue_nano_usd=value.revenue_nano_usd,
        use=use(value.use),
        margin_nano_usd=value.margin_nano_usd,
        unsustainable=value.unsustainable,
    )


def _days(rows: Sequence[DayMargin]) -> list[pb.DayMargin]:
    return [pb.DayMargin(day=row.day, tier=row.tier, margin=_margin(row.margin)) for row in rows]


def _groups(rows: Sequence[tuple[str, model.Use]]) -> list[pb.GroupUse]:
    return [pb.GroupUse(name=name, use=use(used)) for name, used in rows]


def _users(rows: Sequence[model.UserMargin]) -> list[pb.UserMargin]:
    return [pb.UserMargin(user_id=row.user_id, tier=row.tier, margin=_margin(row.margin)) for row in rows]
