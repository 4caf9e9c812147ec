"""Use of users and of times as messages; what asks for it, checked."""

from __future__ import annotations

from collections.abc import Sequence

from headgate.quota.v1 import ledger_pb2 as pb

from services.quota.ledger import HOUR_MS
from services.quota.model import Invalid, UsageQuery, UsageRow, Use, UserRow, UsersQuery, UserStatus
from services.quota.wire import read_range, read_text, timestamp

MAX_DAYS = 366
MAX_HOURLY_DAYS = 31
_SORTS = {
    pb.USER_SORT_UNSPECIFIED: "cost",
    pb.USER_SORT_COST: "cost",
    pb.USER_SORT_REQUESTS: "requests",
    pb.USER_SORT_TOKENS: "tokens",
}
_GROUPS = {
    pb.USAGE_GROUP_UNSPECIFIED: "",
    pb.USAGE_GROUP_TIER: "tier",
    pb.USAGE_GROUP_MODEL: "model",
    pb.USAGE_GROUP_KIND: "kind",
}


def read_users(message: pb.ListUsersRequest) -> tuple[UsersQuery, str]:
    """Which users, and behind which."""
    if message.sort not in _SORTS:
        raise Invalid("sort", "must be USER_SORT_COST, USER_SORT_REQUESTS or USER_SORT_TOKENS")
    query = UsersQuery(
        sort=_SORTS[message.sort],
        days=read_range("days", message.days, MAX_DAYS, usual=30),
        page_size=read_range("page_size", message.page_size, 1_000, usual=100),
        prefix=read_text("prefix", message.prefix, 128, least=0),
        tier=read_text("tier", message.tier, 64, least=0),
    )
    return query, read_text("page_token", message.page_token, 1_000, least=0)


def read_usage(message: pb.GetUsageReportRequest) -> UsageQuery:
    """Which report."""
    if message.group not in _GROUPS:
        raise Invalid("group", "must be USAGE_GROUP_TIER, USAGE_GROUP_MODEL or USAGE_GROUP_KIND")
    days = read_range("days", message.days, MAX_HOURLY_DAYS if message.hourly else MAX_DAYS, usual=30)
    return UsageQuery(days, message.hourly, _GROUPS[message.group])


def use(value: Use) -> pb.Use:
    """What was used and what it cost."""
    return pb.Use(**vars(value))


def page(users: Sequence[UserRow], token: str) -> pb.ListUsersResponse:
    """A page of users."""
    return pb.ListUsersResponse(users=map(_user, users), next_page_token=token)


def report(rows: Sequence[UsageRow]) -> pb.GetUsageReportResponse:
    """A report of use."""
    return pb.GetUsageReportResponse(
        rows=[pb.UsageRow(start_time=timestamp(row.hour * HOUR_MS), group=row.group, use=use(row.use)) for row in rows]
    )


def _user(value: UserRow) -> pb.UserUse:
    return pb.UserUse(
        user_id=value.user_id,
        tier=value.tier,
        use=use(value.use),
        revenue_nano_usd=value.revenue_nano_usd,
        email=value.email,
        suspended=value.status is UserStatus.SUSPENDED,
    )
