"""Who changed what, for administrators."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headgate.quota.v1 import ledger_pb2
from starlette.requests import Request
from starlette.responses import Response

from services.gateway import shapes
from services.gateway.callers import Callers
from services.gateway.edge import json_response
from services.gateway.messages import rfc3339

if TYPE_CHECKING:
    from headgate.quota.v1.ledger_pb2_grpc import LedgerServiceAsyncStub


class Audit:
    """The list of what was changed."""

    def __init__(self, ledger: LedgerServiceAsyncStub, callers: Callers) -> None:
        self._ledger = ledger
        self._callers = callers

    async def list(self, request: Request) -> Response:
        """A page, newest first; `subject` narrows it to one user, key, pool or event."""
        self._callers.administrator(request)
        limit = shapes.whole_number("limit", request.query_params.get("limit", "50"), 1, 100)
        cursor, subject = request.query_params.get("cursor", ""), request.query_params.get("subject", "")
        if cursor:
            shapes.whole_number("cursor", cursor, 1, 2**63 - 1)
        shapes.printable("subject", subject, 255)
        question = ledger_pb2.ListAuditRequest(page_size=limit, page_token=cursor, subject=subject)
        page = await self._ledger.ListAudit(question)
        items = [
            {
                "time": rfc3339(entry.time),
                "actor": entry.actor,
                "action": entry.action,
                "subject": entry.subject,
                "old": entry.old,
                "new": entry.new,
            }
            for entry in page.entries
        ]
        return json_response({"items": items, "nextCursor": page.next_page_token or None})
