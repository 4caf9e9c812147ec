"""A gRPC server with health, reflection and a drain."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services import telemetry
from services.rpc.channel import MESSAGE_BYTES, Tls
from services.rpc.interceptors import ServerInterceptor
from services.rpc.status import Refusal

LAST_WORDS_S = 0.2
"""For answers that are on their way out when the last call ends."""
SERVING = health_pb2.HealthCheckResponse.SERVING


class Server:
    """Serves the given services and health on one address."""

    def __init__(
        self,
        names: Sequence[str],
        refusal_for: Callable[[Exception], Refusal | None],
        *,
        tls: Tls | None = None,
        max_connection_age_s: int = 300,
        grace_s: int = 660,
    ) -> None:
        """`refusal_for` maps this service's errors, `grace_s` bounds the longest stream (an attempt)."""
        self._names = [*names, ""]
        self._tls = tls
        self._calls = ServerInterceptor(refusal_for)
        self.grpc = grpc.aio.server(
            interceptors=[*telemetry.server_interceptors(), self._calls],
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.max_receive_message_length", MESSAGE_BYTES),
                ("grpc.max_send_message_length", MESSAGE_BYTES),
                # Long-lived channels pin to one replica: make them look again.
                ("grpc.max_connection_age_ms", max_connection_age_s * 1000),
                ("grpc.max_connection_age_grace_ms", grace_s * 1000),
            ],
        )
        self.health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self.grpc)
        reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], self.grpc)

    async def start(self, address: str) -> int:
        """Listens and reports SERVING; returns the port (0 for a socket file). OSError if it is in use."""
        try:
            if self._tls is None:
                port = self.grpc.add_insecure_port(address)
            else:
                port = self.grpc.add_secure_port(address, _credentials(self._tls))
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}") from error
        await self.grpc.start()
        await self._report(SERVING)
        return int(port)

    async def drain(self, *, settle_s: float = 0.0, grace_s: float = 5.0) -> None:
        """Reports NOT_SERVING, gives clients `settle_s` to notice, then lets calls finish for `grace_s`."""
        await self.health.enter_graceful_shutdown()
        await asyncio.sleep(settle_s)
        # gRPC's own grace would also wait for whoever watches our health, which they do for as long as they live.
        with suppress(TimeoutError):
            await asyncio.wait_for(self._calls.idle.wait(), grace_s)
        await self.grpc.stop(LAST_WORDS_S)

    async def _report(self, status: int) -> None:
        for name in self._names:
            await self.health.set(name, status)


def _credentials(tls: Tls) -> grpc.ServerCredentials:
    return grpc.ssl_server_credentials(
        [(tls.key.read_bytes(), tls.certificate.read_bytes())],
        root_certificates=tls.authority.read_bytes(),
        require_client_auth=True,
    )
