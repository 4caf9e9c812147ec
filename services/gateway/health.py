"""Whether this replica lives, and whether it can accept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import grpc
from grpc_health.v1 import health_pb2
from starlette.requests import Request
from starlette.responses import Response

from services.gateway.edge import json_response, trace_id
from services.gateway.errors import Problem

CHECK_DEADLINE_S = 1.0


class Health:
    """Asks the services this replica depends on; `degraded` names what works less well than it should."""

    def __init__(self, backends: Mapping[str, Any], degraded: Callable[[], list[str]]) -> None:
        """`backends` are health stubs by the name to show."""
        self._backends = backends
        self._degraded = degraded
        self.draining = False

    async def alive(self, request: Request) -> Response:
        """It answers, so it lives."""
        return json_response({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        """Problem 503 only when nothing can be accepted here."""
        serving = await asyncio.gather(*(_serves(stub) for stub in self._backends.values()))
        down = [name for name, good in zip(self._backends, serving, strict=True) if not good]
        if self.draining or down:
            message = "This replica is shutting down." if self.draining else f"Out of reach: {', '.join(down)}."
            problem = Problem(503, "UNAVAILABLE", message, unavailable=down)
            return json_response(problem.body(trace_id(request.scope)), 503)
        degraded = self._degraded()
        return json_response({"status": "degraded" if degraded else "ok", "degraded": degraded})


async def _serves(stub: Any) -> bool:
    try:
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=CHECK_DEADLINE_S)
    except grpc.aio.AioRpcError:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
