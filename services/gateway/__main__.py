"""The gateway's process: everything is put together here."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import re
import resource
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn
from grpc_health.v1 import health_pb2_grpc
from headgate.quota.v1.billing_pb2_grpc import BillingServiceStub
from headgate.quota.v1.ledger_pb2_grpc import LedgerServiceStub
from headgate.quota.v1.quota_pb2_grpc import QuotaServiceStub
from headgate.scheduler.v1.scheduler_pb2_grpc import SchedulerServiceStub
from starlette.types import ASGIApp, Receive, Scope, Send

from services import telemetry
from services.clock import SystemClock
from services.gateway.app import Backends, Gateway
from services.gateway.connections import HttpConnection, SocketConnection
from services.gateway.settings import GatewaySettings
from services.ids import random_id
from services.process import StartError, run
from services.rpc.channel import open_channel

SOCKET_FRAME_BYTES = 64 * 1024
PING_S = 20.0
BACKLOG = 2_048
DRAIN_S = 4
"""Of the five seconds a replica has to go; the rest is for leaving the process."""
REPEATABLE = (
    "headgate.quota.v1.QuotaService/Authenticate",
    "headgate.quota.v1.QuotaService/GetUsage",
    "headgate.quota.v1.QuotaService/ListTiers",
    "headgate.quota.v1.QuotaService/Reserve",
    "headgate.quota.v1.QuotaService/Resolve",
    "headgate.quota.v1.LedgerService/GetEconomics",
    "headgate.quota.v1.LedgerService/GetStatement",
    "headgate.quota.v1.BillingService/ReceiveStripeEvent",
    "headgate.quota.v1.LedgerService/GetUsageReport",
    "headgate.quota.v1.LedgerService/ListAudit",
    "headgate.quota.v1.LedgerService/ListUsers",
    "headgate.scheduler.v1.SchedulerService/Submit",
    "headgate.scheduler.v1.SchedulerService/Get",
    "headgate.scheduler.v1.SchedulerService/List",
    "headgate.scheduler.v1.SchedulerService/GetWait",
    "headgate.scheduler.v1.SchedulerService/Cancel",
)


class HttpServer(uvicorn.Server):
    """Serves an ASGI application; signals are left to services.process."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(_config(app))

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(settings: GatewaySettings, stopping: asyncio.Event) -> None:
    """Runs one replica until `stopping` is set. StartError if the port is in use."""
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    _allow_files()
    listener = listen(settings.host, settings.port)
    port = listener.getsockname()[1]
    if not settings.public_url:
        settings = dataclasses.replace(settings, public_url=f"http://127.0.0.1:{port}")
    tls = settings.tls()
    async with (
        open_channel(settings.quota_address, tls=tls, safe_to_repeat=REPEATABLE) as quota,
        open_channel(settings.scheduler_address, tls=tls, safe_to_repeat=REPEATABLE) as scheduler,
    ):
        backends = Backends(
            QuotaServiceStub(quota),
            SchedulerServiceStub(scheduler),
            health_pb2_grpc.HealthStub(quota),
            health_pb2_grpc.HealthStub(scheduler),
            LedgerServiceStub(quota),
            BillingServiceStub(quota),
        )
        web = Path(__file__).parent / "web"
        gateway = Gateway(settings, backends, SystemClock(), lambda: random_id("req_"), web)
        server = HttpServer(_traced(gateway.app))
        beside = [asyncio.create_task(gateway.hub.run()), asyncio.create_task(gateway.pulse.run())]
        logging.getLogger(__name__).info("listening http://%s:%d", settings.host, port)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        stop = asyncio.create_task(stopping.wait())
        try:
            await asyncio.wait([serving, stop, *beside], return_when=asyncio.FIRST_COMPLETED)
            gateway.drain()
            server.should_exit = True
            await serving
        finally:
            for task in (stop, *beside):
                task.cancel()
        # A task beside that ended by itself failed: that must not pass for a clean stop.
        for task in beside:
            if task.done() and not task.cancelled():
                task.result()


def _allow_files() -> None:
    """A watcher is a file: a shell's usual limit of 1,024 may be raised, and is, as far as the system lets us."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    # macOS says there is no limit, and then refuses to set none.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 takes a free one. StartError if it is in use."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        # Listening from here on: who was told the address may connect at once.
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise StartError(
            f"cannot listen on {host}:{port} ({error.strerror}): set HEADGATE_HTTP_PORT to a free port."
        ) from error
    return listener


def _config(app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        http=HttpConnection,
        ws=SocketConnection,
        ws_max_size=SOCKET_FRAME_BYTES,
        # Compression costs 90 KB a socket, three times the rest of it, for messages of 100 bytes.
        ws_per_message_deflate=False,
        ws_ping_interval=PING_S,
        ws_ping_timeout=PING_S,
        timeout_graceful_shutdown=DRAIN_S,
        backlog=BACKLOG,
    )


def _traced(app: ASGIApp) -> ASGIApp:
    if not telemetry.enabled():
        return app
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

    traced = OpenTelemetryMiddleware(
        app,
        # What stays open for as long as somebody watches is no part of a request's trace.
        excluded_urls="healthz,readyz,/events",
        exclude_spans=["receive", "send"],
        default_span_details=_span_details,
    )

    async def only_calls(scope: Scope, receive: Receive, send: Send) -> None:
        await (traced if scope["type"] == "http" else app)(scope, receive, send)

    return only_calls


def _span_details(scope: Scope) -> tuple[str, dict[str, Any]]:
    # Names with ids in them could not be counted together.
    path = re.sub(r"(?<=/diagram/)req_[^/]+|(?<=/users/)[^/]+|(?<=/keys/)[^/]+", "{id}", scope["path"])
    return f"{scope['method']} {path}", {"http.route": path}


def main() -> None:
    """Entry point."""
    run("gateway", GatewaySettings, serve)


if __name__ == "__main__":
    main()
