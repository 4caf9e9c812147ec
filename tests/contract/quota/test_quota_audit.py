"""The audit: what this service and others have changed, on both databases."""

from __future__ import annotations

import asyncio
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from headgate.quota.v1 import ledger_pb2 as pb
from headgate.quota.v1 import quota_pb2

from tests.servers.quota import NOON_MS, Quota, refused


def record(audit_id: str, **fields: Any) -> pb.AuditRecord:
    entry = {"actor": "admin:1", "action": "provider.plan", "subject": "haiku", "old": "5x", "new": "20x", **fields}
    return pb.AuditRecord(audit_id=audit_id, entry=pb.AuditEntry(time=Timestamp(seconds=NOON_MS // 1000), **entry))


async def keep(quota: Quota, *records: pb.AuditRecord) -> None:
    await quota.ledger.RecordAudit(pb.RecordAuditRequest(records=records))


async def page(quota: Quota, **question: Any) -> pb.ListAuditResponse:
    return await quota.ledger.ListAudit(pb.ListAuditRequest(**question))


async def test_a_change_is_kept_once_however_often_it_is_told(quota: Quota) -> None:
    first, second = record("a"), record("b", new="custom")
    await keep(quota, first, second, first)
    await asyncio.gather(*(keep(quota, *pair) for pair in [(second, first), (first, second)] * 5))
    await keep(quota, record("a", new="another"))
    entries = (await page(quota)).entries
    assert sorted(entry.new for entry in entries) == ["20x", "custom"]
    assert next(entry for entry in entries if entry.new == "20x") == first.entry


async def test_pages_are_newest_first_and_miss_nothing(quota: Quota) -> None:
    await keep(quota, *(record(f"{i:03}", new=f"{i:03}", subject="odd" if i % 2 else "even") for i in range(100)))
    for subject, expected in (("", 100), ("odd", 50), ("nobody", 0)):
        seen: list[str] = []
        token = "start"
        while token:
            answer = await page(quota, page_size=7, page_token=token.replace("start", ""), subject=subject)
            assert len(answer.entries) <= 7
            seen += [entry.new for entry in answer.entries]
            token = answer.next_page_token
        assert len(seen) == expected
        assert seen == sorted(seen, reverse=True)
    assert len((await page(quota)).entries) == 50


async def test_an_own_change_is_in_the_same_list(quota: Quota) -> None:
    user_id, _ = await quota.user("free")
    await quota.stub.SetUserTier(quota_pb2.SetUserTierRequest(user_id=user_id, tier="pro", actor="admin:2"))
    (newest, *_) = (await page(quota, subject=user_id)).entries
    assert (newest.actor, newest.action, newest.old, newest.new) == ("admin:2", "user.tier", "free", "pro")
    assert newest.time.ToMilliseconds() == NOON_MS


async def test_what_is_wrong_is_named_and_changes_nothing(quota: Quota) -> None:
    before = await quota.dump()
    no_time = pb.AuditRecord(audit_id="a", entry=pb.AuditEntry(actor="a", action="b", subject="c"))
    for wrong, field in (
        (record(""), "records[1].audit_id"),
        (record("a\nb"), "records[1].audit_id"),
        (record("x", actor=""), "records[1].entry.actor"),
        (record("x", action="a\0"), "records[1].entry.action"),
        (record("x", subject=""), "records[1].entry.subject"),
        (record("x", new="n" * 1001), "records[1].entry.new"),
        (no_time, "records[1].entry.time"),
    ):
        call = quota.ledger.RecordAudit(pb.RecordAuditRequest(records=[record("good"), wrong]))
        assert (await refused(call)).metadata == {"field": field}
    many = quota.ledger.RecordAudit(pb.RecordAuditRequest(records=[record(str(i)) for i in range(101)]))
    assert (await refused(many)).metadata == {"field": "records"}
    for question, field in (
        ({"page_size": 101}, "page_size"),
        ({"page_size": -1}, "page_size"),
        ({"page_token": "x"}, "page_token"),
        ({"page_token": "0"}, "page_token"),
        ({"page_token": "9" * 19}, "page_token"),
        ({"subject": "s" * 256}, "subject"),
    ):
        assert (await refused(quota.ledger.ListAudit(pb.ListAuditRequest(**question)))).metadata == {"field": field}
    assert await quota.dump() == before
