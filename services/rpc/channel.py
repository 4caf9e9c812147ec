"""Channels to other services: deadlines, keepalive, and the one retry gRPC may do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc

from services import telemetry
from services.rpc.interceptors import with_deadline

DEFAULT_DEADLINE_S = 10.0
MESSAGE_BYTES = 36 * 1024 * 1024
"""Largest message: a 32 MB body (the provider's cap) and what surrounds it."""


@dataclass(frozen=True)
class Tls:
    """Files of a mutual-TLS identity; None in `Tls | None` means plain text."""

    certificate: Path
    key: Path
    authority: Path


def open_channel(
    target: str, *, tls: Tls | None = None, deadline_s: float = DEFAULT_DEADLINE_S, safe_to_repeat: Sequence[str] = ()
) -> grpc.aio.Channel:
    """A channel to `target` (host:port, dns:///name or unix:path).

    `safe_to_repeat` names methods ("package.Service/Method"); only those are retried, only on
    UNAVAILABLE, at most twice more.
    """
    options = [
        ("grpc.service_config", json.dumps(_service_config(safe_to_repeat))),
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 5_000),
        ("grpc.max_receive_message_length", MESSAGE_BYTES),
        ("grpc.max_send_message_length", MESSAGE_BYTES),
        # The default of up to 120 s between tries to connect outlives any restart of ours.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1_000),
    ]
    interceptors = telemetry.client_interceptors()
    if tls is None:
        channel = grpc.aio.insecure_channel(target, options=options, interceptors=interceptors)
    else:
        credentials = grpc.ssl_channel_credentials(
            tls.authority.read_bytes(), tls.key.read_bytes(), tls.certificate.read_bytes()
        )
        channel = grpc.aio.secure_channel(target, credentials, options=options, interceptors=interceptors)
    channel.unary_unary = with_deadline(channel.unary_unary, deadline_s)  # type: ignore[method-assign]
    return channel


def _service_config(safe_to_repeat: Sequence[str]) -> dict[str, object]:
    config: dict[str, object] = {"loadBalancingConfig": [{"round_robin": {}}]}
    if safe_to_repeat:
        names = [dict(zip(("service", "method"), name.split("/"), strict=True)) for name in safe_to_repeat]
        retry = {
            "maxAttempts": 3, "initialBackoff": "0.05s", "maxBackoff": "0.5s", "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE"],
        }  # fmt: skip
        config["methodConfig"] = [{"name": names, "retryPolicy": retry}]
        # At most one retry for ten successes: gRPC's own form of a retry budget.
        config["retryThrottling"] = {"maxTokens": 10, "tokenRatio": 0.1}
    return config
