"""Messages of the audit to the domain's words and back."""

from __future__ import annotations

from headgate.quota.v1 import ledger_pb2 as pb

from services.quota.audit_log import NEWEST, Page
from services.quota.model import AuditEntry, Invalid
from services.quota.wire import read_text, read_time_ms, timestamp

MAX_RECORDS = MAX_PAGE = 100
PAGE = 50
_VALUE_CHARACTERS = 1000
"""Of what was changed; a provider plan with all its limits written out has some 300."""


def read_records(message: pb.RecordAuditRequest) -> list[tuple[str, AuditEntry]]:
    """All entries of a call with their ids; one that is wrong refuses them all."""
    if len(message.records) > MAX_RECORDS:
        raise Invalid("records", f"must be at most {MAX_RECORDS}")
    return [_record(f"records[{i}]", item) for i, item in enumerate(message.records)]


def _record(path: str, message: pb.AuditRecord) -> tuple[str, AuditEntry]:
    audit_id, entry, path = read_text(f"{path}.audit_id", message.audit_id, 200), message.entry, f"{path}.entry"
    return audit_id, AuditEntry(
        read_time_ms(f"{path}.time", entry, "time"),
        read_text(f"{path}.actor", entry.actor, 200),
        read_text(f"{path}.action", entry.action, 100),
        read_text(f"{path}.subject", entry.subject, 255),
        read_text(f"{path}.old", entry.old, _VALUE_CHARACTERS, least=0),
        read_text(f"{path}.new", entry.new, _VALUE_CHARACTERS, least=0),
    )


def read_page(message: pb.ListAuditRequest) -> tuple[int, int, str]:
    """How many entries, below which number, of which subject."""
    if not 0 <= message.page_size <= MAX_PAGE:
        raise Invalid("page_size", f"must be from 1 to {MAX_PAGE}")
    token = message.page_token
    if token and not (token.isascii() and token.isdecimal() and len(token) <= 19 and 0 < int(token) <= NEWEST):
        raise Invalid("page_token", "must be the next_page_token of the page before")
    subject = read_text("subject", message.subject, 255, least=0)
    return message.page_size or PAGE, int(token or NEWEST), subject


def page(value: Page) -> pb.ListAuditResponse:
    """A page."""
    entries = [
        pb.AuditEntry(
            time=timestamp(e.time_ms), actor=e.actor, action=e.action, subject=e.subject, old=e.old, new=e.new
        )
        for e in value.entries
    ]
    return pb.ListAuditResponse(entries=entries, next_page_token=str(value.next_below or ""))
