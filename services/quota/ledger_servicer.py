"""Calls of the ledger to the domain's words and back; decides nothing."""

from __future__ import annotations

from typing import Any

from headgate.quota.v1 import ledger_pb2 as pb
from headgate.quota.v1 import ledger_pb2_grpc

from services.quota import audit_wire, economics_wire, reports_wire
from services.quota.audit_log import AuditLog
from services.quota.economics import Economics
from services.quota.reports import Reports

NAME = pb.DESCRIPTOR.services_by_name["LedgerService"].full_name
Context = Any
"""A call's context, which nothing here needs."""


class LedgerServicer(ledger_pb2_grpc.LedgerServiceServicer):
    """Serves headgate.quota.v1.LedgerService."""

    def __init__(self, audit: AuditLog, economics: Economics, reports: Reports) -> None:
        self._audit = audit
        self._economics = economics
        self._reports = reports

    async def ListAudit(self, request: pb.ListAuditRequest, context: Context) -> pb.ListAuditResponse:
        return audit_wire.page(await self._audit.page(*audit_wire.read_page(request)))

    async def RecordAudit(self, request: pb.RecordAuditRequest, context: Context) -> pb.RecordAuditResponse:
        await self._audit.record(audit_wire.read_records(request))
        return pb.RecordAuditResponse()

    async def GetEconomics(self, request: pb.GetEconomicsRequest, context: Context) -> pb.GetEconomicsResponse:
        return economics_wire.report(await self._economics.report(*economics_wire.read_report(request)))

    async def GetStatement(self, request: pb.GetStatementRequest, context: Context) -> pb.GetStatementResponse:
        return economics_wire.statement(await self._economics.statement(*economics_wire.read_statement(request)))

    async def ListUsers(self, request: pb.ListUsersRequest, context: Context) -> pb.ListUsersResponse:
        return reports_wire.page(*await self._reports.users(*reports_wire.read_users(request)))

    async def GetUsageReport(self, request: pb.GetUsageReportRequest, context: Context) -> pb.GetUsageReportResponse:
        return reports_wire.report(await self._reports.usage(reports_wire.read_usage(request)))
