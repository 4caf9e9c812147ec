"""Use as administrators see it."""

from __future__ import annotations

import csv
import io

import pytest
from headgate.quota.v1 import ledger_pb2 as pb

from tests.servers.gateway import ADMIN_KEY, KEY, NOW, READ_KEY, Running

USERS, USAGE = "/api/admin/users", "/api/admin/usage"
ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}
USE = pb.Use(
    requests=3, completed=2, cached=1, input_tokens=10, output_tokens=20, cache_read_input_tokens=30,
    cache_write_input_tokens=40, cost_nano_usd=2**53 + 1, saved_by_equals_nano_usd=6, saved_by_prompt_cache_nano_usd=-7,
)  # fmt: skip
SHOWN = {
    "costNanoUsd": 2**53 + 1, "requests": 3, "completed": 2, "cached": 1, "tokens": 100, "inputTokens": 10,
    "outputTokens": 20, "cacheReadInputTokens": 30, "cacheWriteInputTokens": 40, "savedByEqualsNanoUsd": 6,
    "savedByPromptCacheNanoUsd": -7,
}  # fmt: skip
ANN = pb.UserUse(user_id="=ann", email="a@b", tier="pro", use=USE, revenue_nano_usd=9, suspended=True)
ANN_SHOWN = {"userId": "=ann", "email": "a@b", "tier": "pro", "status": "suspended", "revenueNanoUsd": 9, **SHOWN}


@pytest.mark.parametrize("key", [ADMIN_KEY, READ_KEY])
async def test_a_page_of_users(gateway: Running, key: str) -> None:
    gateway.ledger.users = pb.ListUsersResponse(users=[ANN], next_page_token="bmV4dA==")
    query = "sort=tokens&days=1&limit=1&cursor=x%3D&prefix=%3Da&tier=pro"
    answer = await gateway.http.get(f"{USERS}?{query}", headers={"Authorization": f"Bearer {key}"})
    assert answer.json() == {"items": [ANN_SHOWN], "nextCursor": "bmV4dA=="}
    assert gateway.ledger.named("ListUsers") == [
        pb.ListUsersRequest(sort=pb.USER_SORT_TOKENS, days=1, page_size=1, page_token="x=", prefix="=a", tier="pro")
    ]


async def test_what_is_left_out_is_usual(gateway: Running) -> None:
    assert (await gateway.http.get(USERS, headers=ADMIN)).json() == {"items": [], "nextCursor": None}
    assert gateway.ledger.named("ListUsers") == [pb.ListUsersRequest(sort=pb.USER_SORT_COST, days=30, page_size=100)]
    assert (await gateway.http.get(USAGE, headers=ADMIN)).json() == {"items": []}
    assert gateway.ledger.named("GetUsageReport") == [pb.GetUsageReportRequest(days=30)]


async def test_users_as_a_table_for_spreadsheets(gateway: Running) -> None:
    gateway.ledger.users = pb.ListUsersResponse(users=[ANN], next_page_token="bmV4dA==")
    answer = await gateway.http.get(f"{USERS}?format=csv&days=1&cursor=x", headers=ADMIN)
    heads, row = csv.reader(io.StringIO(answer.text))
    assert dict(zip(heads, row, strict=True)) == {k: str(v) for k, v in (ANN_SHOWN | {"userId": "'=ann"}).items()}
    assert answer.headers["content-type"].startswith("text/csv")
    assert answer.headers["link"] == '<?format=csv&days=1&cursor=bmV4dA%3D%3D>; rel="next"'


@pytest.mark.parametrize(("group", "number"), [("tier", 1), ("model", 2), ("kind", 3)])
async def test_use_by_hour_and_group(gateway: Running, group: str, number: int) -> None:
    gateway.ledger.report = pb.GetUsageReportResponse(rows=[pb.UsageRow(start_time=NOW, group="+x", use=USE)])
    address = f"{USAGE}?by=hour&days=31&group={group}"
    shown = {"time": "2026-01-01T12:00:00Z", group: "+x", **SHOWN}
    assert (await gateway.http.get(address, headers=ADMIN)).json() == {"items": [shown]}
    assert gateway.ledger.named("GetUsageReport") == [pb.GetUsageReportRequest(days=31, hourly=True, group=number)]
    heads, row = csv.reader(io.StringIO((await gateway.http.get(address + "&format=csv", headers=ADMIN)).text))
    assert dict(zip(heads, row, strict=True)) == {k: str(v) for k, v in (shown | {group: "'+x"}).items()}


@pytest.mark.parametrize(
    "address",
    [
        *(f"{USERS}?{query}" for query in (
            "sort=name", "days=0", "days=367", "days=x", "limit=0", "limit=1001", "prefix=%00", "tier=%0a",
            "cursor=%07", "format=xml", "prefix=" + "x" * 129, "cursor=" + "x" * 1001, "sort=",
        )),
        *(f"{USAGE}?{query}" for query in ("by=week", "days=0", "days=367", "group=user", "format=", "by=")),
    ],
)  # fmt: skip
async def test_wrong_parameters_are_named(gateway: Running, address: str) -> None:
    answer = await gateway.http.get(address, headers=ADMIN)
    named = address.split("?")[1].split("=")[0]
    assert (answer.status_code, answer.json()["fields"][0]["path"]) == (422, named)
    assert gateway.ledger.calls == []


async def test_an_hourly_report_has_a_month_at_most(gateway: Running) -> None:
    answer = await gateway.http.get(f"{USAGE}?by=hour&days=32", headers=ADMIN)
    assert (answer.status_code, answer.json()["fields"][0]["path"]) == (422, "days")


@pytest.mark.parametrize("address", [USERS, USAGE])
async def test_users_do_not_see_it(gateway: Running, address: str) -> None:
    assert (await gateway.http.get(address)).status_code == 401
    assert (await gateway.http.get(address, headers={"Authorization": f"Bearer {KEY}"})).status_code == 401
    assert gateway.ledger.calls == []
