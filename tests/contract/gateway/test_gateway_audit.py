"""The audit as administrators see it."""

from __future__ import annotations

import pytest
from headgate.quota.v1 import ledger_pb2 as pb

from tests.servers.gateway import ADMIN_KEY, KEY, NOW, READ_KEY, Running

AUDIT = "/api/admin/audit"
ENTRY = pb.AuditEntry(time=NOW, actor="stripe", action="billing.event", subject="u1", old="", new="applied")


@pytest.mark.parametrize("key", [ADMIN_KEY, READ_KEY])
async def test_a_page_of_the_audit(gateway: Running, key: str) -> None:
    gateway.ledger.audit = pb.ListAuditResponse(entries=[ENTRY], next_page_token="41")
    headers = {"Authorization": f"Bearer {key}"}
    answer = await gateway.http.get(f"{AUDIT}?limit=1&cursor=42&subject=u1", headers=headers)
    shown = {"actor": "stripe", "action": "billing.event", "subject": "u1", "old": "", "new": "applied"}
    assert answer.json() == {"items": [{"time": "2026-01-01T12:00:00Z", **shown}], "nextCursor": "41"}
    assert gateway.ledger.named("ListAudit") == [pb.ListAuditRequest(page_size=1, page_token="42", subject="u1")]


async def test_the_last_page_has_no_cursor(gateway: Running) -> None:
    answer = await gateway.http.get(AUDIT, headers={"Authorization": f"Bearer {ADMIN_KEY}"})
    assert answer.json() == {"items": [], "nextCursor": None}
    assert gateway.ledger.named("ListAudit") == [pb.ListAuditRequest(page_size=50)]


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "cursor=0", "cursor=x", "subject=%00"])
async def test_wrong_parameters_are_named(gateway: Running, query: str) -> None:
    answer = await gateway.http.get(f"{AUDIT}?{query}", headers={"Authorization": f"Bearer {ADMIN_KEY}"})
    assert (answer.status_code, answer.json()["fields"][0]["path"]) == (422, query.split("=")[0])
    assert gateway.ledger.calls == []


async def test_users_do_not_see_it(gateway: Running) -> None:
    assert (await gateway.http.get(AUDIT)).status_code == 401
    assert (await gateway.http.get(AUDIT, headers={"Authorization": f"Bearer {KEY}"})).status_code == 401
    assert gateway.ledger.calls == []
