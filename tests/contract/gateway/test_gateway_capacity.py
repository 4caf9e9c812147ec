"""Capacity, the provider plan, the queue, pools and alerts over HTTP."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from headgate.scheduler.v1 import scheduler_pb2 as sched

from tests.servers.gateway import ADMIN_KEY, KEY, READ_KEY, Running, scheduler_refusal

ADMIN, READER = {"Authorization": f"Bearer {ADMIN_KEY}"}, {"Authorization": f"Bearer {READ_KEY}"}
PLAN = "/api/admin/provider-plan"
READS = ["/api/admin/capacity", PLAN, "/api/admin/queue", "/api/admin/alerts"]
WRITES = [("PUT", PLAN), ("POST", "/api/admin/pools/opus/pause"), ("POST", "/api/admin/pools/opus/resume")]


async def test_capacity_is_told_by_pool_and_limit(gateway: Running) -> None:
    answer = await gateway.http.get("/api/admin/capacity", headers=READER)
    opus, sonnet = answer.json()["pools"]
    assert (opus["pool"], opus["advice"]) == ("opus", None)
    assert opus["limits"] == [
        {"dimension": "tokensPerMinute", "limit": 10, "source": "header", "used": 0, "peak": 0, "refusals": 0,
         "exhaustedAt": None}
    ]  # fmt: skip
    assert sonnet["limits"][0] == {
        "dimension": "requestsPerMinute", "limit": 100, "source": "plan", "used": 85, "peak": 92, "refusals": 3,
        "exhaustedAt": "2026-01-01T12:00:00Z",
    }  # fmt: skip
    assert sonnet["limits"][1]["dimension"] == "requestsPerDay"
    assert (sonnet["advice"], answer.json()["advice"]) == ("Go to plan start.", "Go to plan start.")


async def test_the_queue_says_what_waits_and_why(gateway: Running) -> None:
    answer = await gateway.http.get("/api/admin/queue", headers=READER)
    assert answer.json()["pools"] == [
        {"pool": "opus", "running": 0, "tiers": [], "paused": "operator"},
        {"pool": "sonnet", "running": 4, "paused": "provider_limit", "pausedUntil": "2026-01-01T12:00:00Z",
         "tiers": [{"tier": "free", "queued": 3, "oldestAcceptedAt": "2026-01-01T12:00:00Z"},
                   {"tier": "pro", "queued": 0}]},
    ]  # fmt: skip


async def test_alerts_are_listed(gateway: Running) -> None:
    answer = await gateway.http.get("/api/admin/alerts", headers=READER)
    assert answer.json() == {
        "items": [{"subject": "spend/site", "message": "Enough.", "raisedAt": "2026-01-01T12:00:00Z"}]
    }


async def test_the_plan_is_shown_and_switched(gateway: Running) -> None:
    shown = await gateway.http.get(PLAN, headers=READER)
    assert shown.json() == {"plan": "20x", "version": 0, "overrides": [], "plans": ["5x", "20x"]}
    body = {"plan": "5x", "pool": "opus", "requestsPerMinute": 7, "tokensPerMinute": None}
    answer = await gateway.http.put(PLAN, headers=ADMIN, json=body)
    assert answer.json() == {
        "plan": "5x", "version": 2, "overrides": [{"pool": "opus", "requestsPerMinute": 7}], "changedBy": "admin:1",
        "changedAt": "2026-01-01T12:00:00Z", "previousPlan": "20x",
    }  # fmt: skip
    (sent,) = gateway.scheduler.named("SetProviderPlan")
    assert (sent.name, sent.keep_overrides, sent.actor[:6]) == ("5x", True, "admin:")
    assert [(one.pool, one.dimension, one.limit) for one in sent.overrides] == [
        ("opus", "requests", 7), ("opus", "tokens", 0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, "plan"),
        ({"pool": "opus"}, "plan"),
        ({"plan": "5x", "pool": "opus"}, "pool"),
        ({"plan": 5}, "plan"),
        ({"plan": ""}, "plan"),
        ({"plan": "a b"}, "plan"),
        ({"requestsPerMinute": 0}, "requestsPerMinute"),
        ({"requestsPerMinute": -1}, "requestsPerMinute"),
        ({"requestsPerMinute": "7"}, "requestsPerMinute"),
        ({"requestsPerDay": 1.5}, "requestsPerDay"),
        ({"requestsPerDay": True}, "requestsPerDay"),
        ({"concurrency": 10**11}, "concurrency"),
        ({"inputTokensPerMinute": []}, "inputTokensPerMinute"),
        ({"requestsPerMinute": 5, "pool": 3}, "pool"),
    ],
)
async def test_what_makes_no_sense_goes_no_further(gateway: Running, body: Any, path: str) -> None:
    answer = await gateway.http.put(PLAN, headers=ADMIN, json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_REQUEST")
    assert [field["path"] for field in answer.json()["fields"]] == [path]
    assert gateway.scheduler.named("SetProviderPlan") == []


async def test_what_the_scheduler_refuses_names_the_field(gateway: Running) -> None:
    gateway.scheduler.refusals["SetProviderPlan"] = scheduler_refusal(
        "INVALID_REQUEST", grpc.StatusCode.INVALID_ARGUMENT, "There is no provider plan 'huge'.",
        metadata={"field": "plan"},
    )  # fmt: skip
    answer = await gateway.http.put(PLAN, headers=ADMIN, json={"plan": "huge"})
    assert answer.status_code == 422
    assert answer.json()["fields"] == [{"path": "plan", "message": "There is no provider plan 'huge'."}]


async def test_pools_are_stopped_and_resumed(gateway: Running) -> None:
    paused = await gateway.http.post("/api/admin/pools/opus/pause", headers=ADMIN)
    resumed = await gateway.http.post("/api/admin/pools/opus/resume", headers=ADMIN)
    assert (paused.json(), resumed.json()) == ({"pool": "opus", "paused": "operator"}, {"pool": "opus"})
    (stop,), (go,) = gateway.scheduler.named("PausePool"), gateway.scheduler.named("ResumePool")
    assert isinstance(stop, sched.PausePoolRequest)
    assert (stop.pool, go.pool, stop.actor == go.actor != "") == ("opus", "opus", True)
    gateway.scheduler.refusals["PausePool"] = scheduler_refusal("NOT_FOUND", grpc.StatusCode.NOT_FOUND)
    assert (await gateway.http.post("/api/admin/pools/gpt/pause", headers=ADMIN)).status_code == 404


@pytest.mark.parametrize("path", READS)
async def test_reading_needs_an_administrators_key(gateway: Running, path: str) -> None:
    for headers in ({}, {"X-API-Key": KEY}, {"Authorization": f"Bearer {KEY}"}):
        assert (await gateway.http.get(path, headers=headers)).status_code == 401
    assert (await gateway.http.get(path, headers=ADMIN)).status_code == 200


@pytest.mark.parametrize(("method", "path"), WRITES)
async def test_who_may_only_read_changes_nothing(gateway: Running, method: str, path: str) -> None:
    for headers, status in (({}, 401), ({"X-API-Key": KEY}, 401), (READER, 403)):
        answer = await gateway.http.request(method, path, headers=headers, json={"plan": "5x"})
        assert answer.status_code == status
    assert gateway.scheduler.named("SetProviderPlan", "PausePool", "ResumePool") == []
