"""What came in and what went out, for administrators."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from headgate.quota.v1 import ledger_pb2 as pb
from starlette.requests import Request
from starlette.responses import Response

from services.gateway import shapes
from services.gateway.callers import Callers
from services.gateway.csv_table import csv_response
from services.gateway.edge import json_response
from services.gateway.errors import invalid
from services.gateway.ledger import use_fields, wants_csv

if TYPE_CHECKING:
    from headgate.quota.v1.ledger_pb2_grpc import LedgerServiceAsyncStub

CURSOR_CHARACTERS = 128


class Economics:
    """Margins of the days that end with today, and statements of months."""

    def __init__(self, ledger: LedgerServiceAsyncStub, callers: Callers) -> None:
        self._ledger = ledger
        self._callers = callers

    async def show(self, request: Request) -> Response:
        """Revenue, cost and margin; as CSV by day and tier."""
        self._callers.administrator(request)
        query = request.query_params
        days = shapes.whole_number("days", query.get("days", "30"), 1, 366)
        top = shapes.whole_number("top", query.get("top", "10"), 1, 100)
        as_csv = wants_csv(request)
        report = await self._ledger.GetEconomics(pb.GetEconomicsRequest(days=days, top_users=top))
        if as_csv:
            name = f"economics-{report.from_day}-{report.to_day}"
            rows: list[list[Any]] = [[day.day, day.tier, *_margin(day.margin).values()] for day in report.days]
            return csv_response(["day", "tier", *_margin(report.total)], rows, name=name)
        return json_response(
            {
                "from": report.from_day,
                "to": report.to_day,
                "total": _margin(report.total),
                "tiers": [{"tier": row.tier, "users": row.users, **_margin(row.margin)} for row in report.tiers],
                "unsustainableTiers": [row.tier for row in report.tiers if row.margin.unsustainable],
                "days": _days(report.days),
                "models": [{"model": row.name, **use_fields(row.use)} for row in report.models],
                "kinds": [{"kind": row.name, **use_fields(row.use)} for row in report.kinds],
                "topUsers": _users(report.top_users),
                "unprofitableUsers": _users(report.unprofitable_users),
            }
        )

    async def statement(self, request: Request) -> Response:
        """One month and a page of its users, which adds up to the ledger to the nano-dollar."""
        self._callers.administrator(request)
        month, cursor = request.path_params["month"], request.query_params.get("cursor", "")
        if not (len(cursor) <= CURSOR_CHARACTERS and cursor.isprintable()):
            raise invalid(("cursor", "cursor must be the nextCursor of the page before."))
        as_csv = wants_csv(request)
        page = await self._ledger.GetStatement(pb.GetStatementRequest(month=month, page_token=cursor))
        if as_csv:
            return _statement_table(page, is_first=not cursor)
        return json_response(
            {
                "month": page.month,
                "closed": page.closed,
                "total": _margin(page.total),
                "days": _days(page.days),
                "users": _users(page.users),
                "nextCursor": page.next_page_token or None,
            }
        )


def _statement_table(page: pb.GetStatementResponse, *, is_first: bool) -> Response:
    # Only the first page has total and days, so that pages put together are the whole.
    rows: list[list[Any]] = []
    if is_first:
        rows = [["total", "", "", "", *_margin(page.total).values()]]
        rows += [["day", row.day, row.tier, "", *_margin(row.margin).values()] for row in page.days]
    rows += [["user", "", row.tier, row.user_id, *_margin(row.margin).values()] for row in page.users]
    following = urlencode({"format": "csv", "cursor": page.next_page_token})
    headers = {"link": f'<?{following}>; rel="next"'} if page.next_page_token else {}
    heads = ["row", "day", "tier", "userId", *_margin(page.total)]
    return csv_response(heads, rows, name=f"statement-{page.month}", headers=headers)


def _margin(margin: pb.Margin) -> dict[str, int | bool]:
    return {
        "revenueNanoUsd": margin.revenue_nano_usd,
        "costNanoUsd": margin.use.cost_nano_usd,
        "marginNanoUsd": margin.margin_nano_usd,
        "unsustainable": margin.unsustainable,
        **{name: value for name, value in use_fields(margin.use).items() if name != "costNanoUsd"},
    }


def _days(rows: Iterable[pb.DayMargin]) -> list[dict[str, Any]]:
    return [{"day": row.day, "tier": row.tier, **_margin(row.margin)} for row in rows]


def _users(rows: Iterable[pb.UserMargin]) -> list[dict[str, Any]]:
    return [{"userId": row.user_id, "tier": row.tier, **_margin(row.margin)} for row in rows]
