"""Who used how much, and what was used when, for administrators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from headgate.quota.v1 import ledger_pb2 as pb
from starlette.requests import Request
from starlette.responses import Response

from services.gateway import shapes
from services.gateway.callers import Callers
from services.gateway.csv_table import csv_response
from services.gateway.edge import json_response
from services.gateway.messages import rfc3339

if TYPE_CHECKING:
    from headgate.quota.v1.ledger_pb2_grpc import LedgerServiceAsyncStub

SORTS = {"cost": pb.USER_SORT_COST, "requests": pb.USER_SORT_REQUESTS, "tokens": pb.USER_SORT_TOKENS}
GROUPS = {
    "": pb.USAGE_GROUP_UNSPECIFIED,
    "tier": pb.USAGE_GROUP_TIER,
    "model": pb.USAGE_GROUP_MODEL,
    "kind": pb.USAGE_GROUP_KIND,
}
STEPS = {"day": 366, "hour": 31}
"""Most days, by what a report's rows are."""


class Ledger:
    """Lists of use, as JSON and as CSV."""

    def __init__(self, ledger: LedgerServiceAsyncStub, callers: Callers) -> None:
        self._ledger = ledger
        self._callers = callers

    async def users(self, request: Request) -> Response:
        """A page of users, highest first."""
        self._callers.administrator(request)
        query = request.query_params
        question = pb.ListUsersRequest(
            sort=SORTS[shapes.one_of("sort", query.get("sort", "cost"), SORTS)],
            days=shapes.whole_number("days", query.get("days", "30"), 1, 366),
            page_size=shapes.whole_number("limit", query.get("limit", "100"), 1, 1000),
            page_token=shapes.printable("cursor", query.get("cursor", ""), 1000),
            prefix=shapes.printable("prefix", query.get("prefix", ""), 128),
            tier=shapes.printable("tier", query.get("tier", ""), 64),
        )
        as_csv = wants_csv(request)
        page = await self._ledger.ListUsers(question)
        items = [_user(user) for user in page.users]
        if as_csv:
            following = urlencode({**query, "cursor": page.next_page_token})
            headers = {"link": f'<?{following}>; rel="next"'} if page.next_page_token else {}
            rows = [list(item.values()) for item in items]
            return csv_response(list(_user(pb.UserUse())), rows, name="users", headers=headers)
        return json_response({"items": items, "nextCursor": page.next_page_token or None})

    async def usage(self, request: Request) -> Response:
        """Use by hour or day, oldest first, undivided or by tier, model or kind."""
        self._callers.administrator(request)
        query = request.query_params
        by = shapes.one_of("by", query.get("by", "day"), STEPS)
        group = shapes.one_of("group", query.get("group", ""), GROUPS)
        days = shapes.whole_number("days", query.get("days", str(min(30, STEPS[by]))), 1, STEPS[by])
        question = pb.GetUsageReportRequest(days=days, hourly=by == "hour", group=GROUPS[group])
        as_csv = wants_csv(request)
        report = await self._ledger.GetUsageReport(question)
        divided = [group] if group else []
        items: list[dict[str, Any]] = [
            {"time": rfc3339(row.start_time), **dict.fromkeys(divided, row.group), **use_fields(row.use)}
            for row in report.rows
        ]
        if as_csv:
            heads = ["time", *divided, *use_fields(pb.Use())]
            return csv_response(heads, [list(item.values()) for item in items], name=f"usage-by-{by}")
        return json_response({"items": items})


def use_fields(use: pb.Use) -> dict[str, int]:
    """What was used and what it cost."""
    return {
        "costNanoUsd": use.cost_nano_usd,
        "requests": use.requests,
        "completed": use.completed,
        "cached": use.cached,
        "tokens": use.input_tokens + use.output_tokens + use.cache_read_input_tokens + use.cache_write_input_tokens,
        "inputTokens": use.input_tokens,
        "outputTokens": use.output_tokens,
        "cacheReadInputTokens": use.cache_read_input_tokens,
        "cacheWriteInputTokens": use.cache_write_input_tokens,
        "savedByEqualsNanoUsd": use.saved_by_equals_nano_usd,
        "savedByPromptCacheNanoUsd": use.saved_by_prompt_cache_nano_usd,
    }


def wants_csv(request: Request) -> bool:
    """Whether the answer is to be a table for spreadsheets."""
    return shapes.one_of("format", request.query_params.get("format", "json"), ("json", "csv")) == "csv"


def _user(user: pb.UserUse) -> dict[str, Any]:
    return {
        "userId": user.user_id,
        "email": user.email,
        "tier": user.tier,
        "status": "suspended" if user.suspended else "active",
        "revenueNanoUsd": user.revenue_nano_usd,
        **use_fields(user.use),
    }
