"""Use by user and by time, on both databases."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from headgate.quota.v1 import ledger_pb2 as pb
from headgate.quota.v1 import quota_pb2
from sqlalchemy import text

from services.clock import DAY_MS, utc_day
from services.quota.tables import SUMS
from tests.servers.quota import NOON_MS, Quota, refused

TODAY = utc_day(NOON_MS)
NOON_HOUR = NOON_MS // 3_600_000


async def put(quota: Quota, table: str, **values: Any) -> None:
    names = ", ".join(values)
    statement = text(f"INSERT INTO quota_{table} ({names}) VALUES ({', '.join(':' + name for name in values)})")
    await quota.database.write(lambda connection: connection.execute(statement, values).rowcount)


async def used(quota: Quota, user_id: str, days_ago: int = 0, **sums: int) -> None:
    await put(quota, "days", user_id=user_id, day=utc_day(NOON_MS - days_ago * DAY_MS), used=0, **sums)


async def users(quota: Quota, **query: Any) -> list[pb.UserUse]:
    """All pages, put together."""
    found: list[pb.UserUse] = []
    token = ""
    while True:
        page = await quota.ledger.ListUsers(pb.ListUsersRequest(**query, page_token=token))
        found += page.users
        token = page.next_page_token
        if not token:
            return found


async def test_a_user_with_all_that_is_told_of_them(quota: Quota) -> None:
    sums = {name: number for number, name in enumerate(SUMS, 1)}
    await quota.stub.CreateUser(quota_pb2.CreateUserRequest(user_id="ann", email="a@b", tier="pro", actor="a"))
    status = quota_pb2.USER_STATUS_SUSPENDED
    await quota.stub.SetUserStatus(quota_pb2.SetUserStatusRequest(user_id="ann", status=status, actor="a"))
    for days_ago in (0, 29, 30):
        await used(quota, "ann", days_ago, **sums)
        await put(
            quota, "revenue", user_id="ann", day=utc_day(NOON_MS - days_ago * DAY_MS), tier="x", revenue_nano_usd=7
        )
    use = pb.Use(**{name: 2 * number for name, number in sums.items()})
    assert await users(quota) == [
        pb.UserUse(user_id="ann", email="a@b", tier="pro", suspended=True, use=use, revenue_nano_usd=14)
    ]
    (today,) = await users(quota, days=1)
    assert (today.use, today.revenue_nano_usd) == (pb.Use(**sums), 7)
    (all_of_it,) = await users(quota, days=366)
    assert all_of_it.use.cost_nano_usd == 3 * sums["cost_nano_usd"]


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        (pb.USER_SORT_UNSPECIFIED, ["ben", "ann", "cy", "dan"]),
        (pb.USER_SORT_COST, ["ben", "ann", "cy", "dan"]),
        (pb.USER_SORT_REQUESTS, ["cy", "ann", "ben", "dan"]),
        (pb.USER_SORT_TOKENS, ["ann", "cy", "ben", "dan"]),
    ],
)
@pytest.mark.parametrize("page_size", [1, 3, 100])
async def test_the_highest_come_first_page_by_page(quota: Quota, sort: int, order: list[str], page_size: int) -> None:
    for name in ("dan", "cy", "ben", "ann"):
        await quota.user(user_id=name)
    await used(quota, "ann", requests=2, cost_nano_usd=5, cache_read_input_tokens=9)
    await used(quota, "ben", requests=2, cost_nano_usd=5, output_tokens=4)
    await used(quota, "ben", 5, cost_nano_usd=1)
    await used(quota, "cy", requests=3, cost_nano_usd=5, input_tokens=4, cache_write_input_tokens=1)
    assert [user.user_id for user in await users(quota, sort=sort, page_size=page_size)] == order


async def test_pages_keep_their_days_over_midnight(quota: Quota) -> None:
    for name, cost in (("ann", 9), ("ben", 5)):
        await quota.user(user_id=name)
        await used(quota, name, cost_nano_usd=cost)
    first = await quota.ledger.ListUsers(pb.ListUsersRequest(days=1, page_size=1))
    quota.clock.advance(DAY_MS)
    second = await quota.ledger.ListUsers(pb.ListUsersRequest(days=1, page_size=1, page_token=first.next_page_token))
    assert [(user.user_id, user.use.cost_nano_usd) for user in (*first.users, *second.users)] == [
        ("ann", 9),
        ("ben", 5),
    ]


async def test_users_are_found_by_the_beginning_of_id_or_address_and_by_tier(quota: Quota) -> None:
    for name, email, tier in (("a%1", "x@y", "free"), ("ab", "a%@z", "pro"), ("b", "B@z", "free")):
        await quota.stub.CreateUser(quota_pb2.CreateUserRequest(user_id=name, email=email, tier=tier, actor="a"))
    for query, found in (
        ({"prefix": "a%"}, ["a%1", "ab"]),
        ({"prefix": "a"}, ["a%1", "ab"]),
        ({"prefix": "x@"}, ["a%1"]),
        ({"prefix": "b@"}, []),
        ({"tier": "free"}, ["a%1", "b"]),
        ({"tier": "free", "prefix": "a"}, ["a%1"]),
        ({"tier": "gold"}, []),
    ):
        assert [user.user_id for user in await users(quota, **query)] == found, query


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"days": -1}, "days"), ({"days": 367}, "days"), ({"page_size": 1001}, "page_size"), ({"sort": 9}, "sort"),
        ({"page_size": -1}, "page_size"), ({"prefix": "x" * 129}, "prefix"), ({"prefix": "a\x00"}, "prefix"),
        ({"tier": "\n"}, "tier"), ({"page_token": "x"}, "page_token"), ({"page_token": "é"}, "page_token"),
        ({"page_token": base64.urlsafe_b64encode(b'["2026-01-01","2026-01-01","5","a"]').decode()}, "page_token"),
        ({"page_token": base64.urlsafe_b64encode(b"[1]").decode()}, "page_token"),
        ({"page_token": base64.urlsafe_b64encode(b'["\\u0000","",1,"a"]').decode()}, "page_token"),
        ({"page_token": base64.urlsafe_b64encode(b'["","",99999999999999999999,"a"]').decode()}, "page_token"),
    ],
)  # fmt: skip
async def test_wrong_questions_about_users(quota: Quota, fields: dict[str, Any], named: str) -> None:
    refusal = await refused(quota.ledger.ListUsers(pb.ListUsersRequest(**fields)))
    assert (refusal.reason, refusal.metadata["field"]) == ("INVALID_REQUEST", named)


async def hour(quota: Quota, hours_ago: int, tier: str, model: str, kind: str, cost: int) -> None:
    sums = {"cost_nano_usd": cost, "requests": 1}
    await put(quota, "hours", hour=NOON_HOUR - hours_ago, tier=tier, model=model, kind=kind, **sums)


async def report(quota: Quota, **query: Any) -> list[tuple[int, str, int, int]]:
    answer = await quota.ledger.GetUsageReport(pb.GetUsageReportRequest(**query))
    return [
        (NOON_HOUR - row.start_time.seconds // 3600, row.group, row.use.requests, row.use.cost_nano_usd)
        for row in answer.rows
    ]


async def test_use_by_hour_and_day(quota: Quota) -> None:
    for values in (
        (0, "pro", "m1", "pie", 1), (0, "free", "m1", "pie", 2), (1, "pro", "m2", "", 4), (12, "pro", "m1", "pie", 8),
        (13, "pro", "m1", "pie", 16), (12 + 24 * 29, "pro", "m1", "pie", 32), (13 + 24 * 29, "pro", "m1", "pie", 64),
    ):  # fmt: skip
        await hour(quota, *values)
    assert await report(quota) == [(12 + 24 * 29, "", 1, 32), (36, "", 1, 16), (12, "", 4, 15)]
    assert await report(quota, days=2, hourly=True) == [(13, "", 1, 16), (12, "", 1, 8), (1, "", 1, 4), (0, "", 2, 3)]
    assert await report(quota, days=1, group=pb.USAGE_GROUP_TIER) == [(12, "free", 1, 2), (12, "pro", 3, 13)]
    assert await report(quota, days=1, group=pb.USAGE_GROUP_MODEL) == [(12, "m1", 3, 11), (12, "m2", 1, 4)]
    assert await report(quota, days=1, group=pb.USAGE_GROUP_KIND) == [(12, "", 1, 4), (12, "pie", 3, 11)]
    by_hour = await report(quota, days=1, hourly=True, group=pb.USAGE_GROUP_TIER)
    assert by_hour == [(12, "pro", 1, 8), (1, "pro", 1, 4), (0, "free", 1, 2), (0, "pro", 1, 1)]


@pytest.mark.parametrize(
    ("fields", "named"),
    [({"days": 367}, "days"), ({"days": -1}, "days"), ({"days": 32, "hourly": True}, "days"), ({"group": 9}, "group")],
)
async def test_wrong_questions_about_use(quota: Quota, fields: dict[str, Any], named: str) -> None:
    refusal = await refused(quota.ledger.GetUsageReport(pb.GetUsageReportRequest(**fields)))
    assert (refusal.reason, refusal.metadata["field"]) == ("INVALID_REQUEST", named)
