"""Economics and statements as administrators see them, as JSON and as CSV."""

from __future__ import annotations

import csv
import io
from typing import Any

import grpc
import pytest
from headgate.quota.v1 import ledger_pb2 as pb

from services.gateway.csv_table import csv_response
from tests.servers.gateway import ADMIN_KEY, KEY, READ_KEY, Running, quota_refusal

ECONOMICS, STATEMENT = "/api/admin/economics", "/api/admin/statements/2026-06"
ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}
USE = pb.Use(
    requests=9, completed=8, cached=7, input_tokens=6, output_tokens=5, cache_read_input_tokens=4,
    cache_write_input_tokens=3, cost_nano_usd=2**62, saved_by_equals_nano_usd=2, saved_by_prompt_cache_nano_usd=-1,
)  # fmt: skip
LOSS = pb.Margin(revenue_nano_usd=7, use=USE, margin_nano_usd=7 - 2**62, unsustainable=True)
NOTHING = pb.Margin()
SHOWN = {
    "revenueNanoUsd": 7,
    "costNanoUsd": 2**62,
    "marginNanoUsd": 7 - 2**62,
    "unsustainable": True,
    "requests": 9,
    "completed": 8,
    "cached": 7,
    "tokens": 18,
    "inputTokens": 6,
    "outputTokens": 5,
    "cacheReadInputTokens": 4,
    "cacheWriteInputTokens": 3,
    "savedByEqualsNanoUsd": 2,
    "savedByPromptCacheNanoUsd": -1,
}
NO_USE = ("revenueNanoUsd", "marginNanoUsd", "unsustainable")
USED = {name: value for name, value in SHOWN.items() if name not in NO_USE}
REPORT = pb.GetEconomicsResponse(
    from_day="2026-06-01",
    to_day="2026-06-30",
    total=LOSS,
    tiers=[pb.TierMargin(tier="free", margin=NOTHING, users=3), pb.TierMargin(tier="pro", margin=LOSS, users=100)],
    days=[pb.DayMargin(day="2026-06-30", tier="pro", margin=LOSS)],
    models=[pb.GroupUse(name="claude-sonnet-5-5", use=USE)],
    kinds=[pb.GroupUse(name="er", use=USE)],
    top_users=[pb.UserMargin(user_id="u1", tier="pro", margin=LOSS)],
    unprofitable_users=[pb.UserMargin(user_id="u1", tier="pro", margin=LOSS)],
)
MONTH = pb.GetStatementResponse(
    month="2026-06",
    closed=True,
    total=LOSS,
    days=[pb.DayMargin(day="2026-06-30", tier="pro", margin=LOSS)],
    users=[pb.UserMargin(user_id="=cmd|'/c calc'!A1", tier="", margin=LOSS)],
    next_page_token="=cmd|'/c calc'!A1",
)


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.parametrize("key", [ADMIN_KEY, READ_KEY])
async def test_economics(gateway: Running, key: str) -> None:
    gateway.ledger.economics = REPORT
    answer = await gateway.http.get(f"{ECONOMICS}?days=7&top=3", headers={"Authorization": f"Bearer {key}"})
    body = answer.json()
    tiers = body.pop("tiers")
    assert [(row["tier"], row["users"], row["unsustainable"]) for row in tiers] == [
        ("free", 3, False),
        ("pro", 100, True),
    ]
    assert tiers[1] == {"tier": "pro", "users": 100, **SHOWN}
    assert body == {
        "from": "2026-06-01",
        "to": "2026-06-30",
        "total": SHOWN,
        "unsustainableTiers": ["pro"],
        "days": [{"day": "2026-06-30", "tier": "pro", **SHOWN}],
        "models": [{"model": "claude-sonnet-5-5", **USED}],
        "kinds": [{"kind": "er", **USED}],
        "topUsers": [{"userId": "u1", "tier": "pro", **SHOWN}],
        "unprofitableUsers": [{"userId": "u1", "tier": "pro", **SHOWN}],
    }
    assert gateway.ledger.named("GetEconomics") == [pb.GetEconomicsRequest(days=7, top_users=3)]
    await gateway.http.get(ECONOMICS, headers=ADMIN)
    assert gateway.ledger.named("GetEconomics")[1] == pb.GetEconomicsRequest(days=30, top_users=10)


async def test_economics_as_a_table(gateway: Running) -> None:
    gateway.ledger.economics = REPORT
    answer = await gateway.http.get(f"{ECONOMICS}?format=csv", headers=ADMIN)
    assert answer.headers["content-type"].startswith("text/csv")
    assert answer.headers["content-disposition"] == 'attachment; filename="economics-2026-06-01-2026-06-30.csv"'
    assert answer.headers["cache-control"] == "no-store"
    shown = {name: str(value) for name, value in SHOWN.items()} | {"unsustainable": "true"}
    assert table(answer.text) == [{"day": "2026-06-30", "tier": "pro", **shown}]


async def test_a_statement(gateway: Running) -> None:
    gateway.ledger.statement = MONTH
    answer = await gateway.http.get(f"{STATEMENT}?cursor=u0", headers=ADMIN)
    assert answer.json() == {
        "month": "2026-06",
        "closed": True,
        "total": SHOWN,
        "days": [{"day": "2026-06-30", "tier": "pro", **SHOWN}],
        "users": [{"userId": "=cmd|'/c calc'!A1", "tier": "", **SHOWN}],
        "nextCursor": "=cmd|'/c calc'!A1",
    }
    assert gateway.ledger.named("GetStatement") == [pb.GetStatementRequest(month="2026-06", page_token="u0")]
    gateway.ledger.statement = pb.GetStatementResponse(month="2026-06")
    assert (await gateway.http.get(STATEMENT, headers=ADMIN)).json()["nextCursor"] is None


async def test_pages_of_a_statement_as_tables_are_one_table_that_runs_nothing(gateway: Running) -> None:
    gateway.ledger.statement = MONTH
    first = await gateway.http.get(f"{STATEMENT}?format=csv", headers=ADMIN)
    following = first.links["next"]["url"]
    second = await gateway.http.get(STATEMENT + following, headers=ADMIN)
    assert gateway.ledger.named("GetStatement")[1].page_token == MONTH.next_page_token
    rows = [*table(first.text), *table(second.text)]
    assert [(row["row"], row["day"], row["tier"], row["userId"]) for row in rows] == [
        ("total", "", "", ""),
        ("day", "2026-06-30", "pro", ""),
        ("user", "", "", "'=cmd|'/c calc'!A1"),
        ("user", "", "", "'=cmd|'/c calc'!A1"),
    ]
    assert {row["marginNanoUsd"] for row in rows} == {str(7 - 2**62)}


@pytest.mark.parametrize(
    ("address", "field"),
    [
        *((f"{ECONOMICS}?days={days}", "days") for days in ("0", "367", "-1", "x", "1e2", "", "\uff13")),
        *((f"{ECONOMICS}?top={top}", "top") for top in ("0", "101")),
        *((f"{address}?format=xml", "format") for address in (ECONOMICS, STATEMENT)),
        (f"{STATEMENT}?cursor={'x' * 129}", "cursor"),
        (f"{STATEMENT}?cursor=%00", "cursor"),
    ],
)
async def test_wrong_parameters_are_named(gateway: Running, address: str, field: str) -> None:
    answer = await gateway.http.get(address, headers=ADMIN)
    assert (answer.status_code, answer.json()["fields"][0]["path"]) == (422, field)
    assert gateway.ledger.calls == []


async def test_a_month_that_quota_refuses_is_named(gateway: Running) -> None:
    gateway.ledger.refusals["GetStatement"] = quota_refusal(
        "INVALID_REQUEST", grpc.StatusCode.INVALID_ARGUMENT, "month has not begun yet.", metadata={"field": "month"}
    )
    answer = await gateway.http.get("/api/admin/statements/2999-01", headers=ADMIN)
    assert (answer.status_code, answer.json()["fields"]) == (
        422,
        [{"path": "month", "message": "month has not begun yet."}],
    )


@pytest.mark.parametrize("address", [ECONOMICS, STATEMENT])
async def test_users_do_not_see_it(gateway: Running, address: str) -> None:
    for headers in ({}, {"Authorization": f"Bearer {KEY}"}, {"X-API-Key": ADMIN_KEY}):
        assert (await gateway.http.get(address, headers=headers)).status_code == 401
    assert gateway.ledger.calls == []


def test_no_text_of_a_table_is_a_formula() -> None:
    cells: list[Any] = ["=1+1", "+1", "-1", "@a", "\tb", "\r", " =1", "\uff1d1", "plain", 'a"b,c\nd', -5, True, ""]
    text = bytes(csv_response([f"h{i}" for i in range(len(cells))], [cells]).body).decode()
    assert list(csv.reader(io.StringIO(text, newline="")))[1] == [
        "'=1+1", "'+1", "'-1", "'@a", "'\tb", "'\r", "' =1", "'\uff1d1", "plain", 'a"b,c\nd', "-5", "true", "",
    ]  # fmt: skip
