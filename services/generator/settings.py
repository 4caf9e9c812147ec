"""What the generator reads from its environment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from services.settings import integer, variable


@dataclass(frozen=True)
class Settings:
    """One generator process."""

    listen: str = variable("HEADGATE_LISTEN", str, default="0.0.0.0:50053")
    api_key: str | None = variable("ANTHROPIC_API_KEY", str, default=None)
    base_url: str | None = variable("ANTHROPIC_BASE_URL", str, default=None)
    slots: int = variable("HEADGATE_GENERATOR_SLOTS", integer(1, 10_000), default=64)
    """Attempts at a time."""
    upstream_silence_ms: int = variable("HEADGATE_UPSTREAM_SILENCE_MS", integer(10, 600_000), default=60_000)
    """An upstream call that says nothing for so long (the provider pings while it works) is given up."""
    heartbeat_ms: int = variable("HEADGATE_HEARTBEAT_MS", integer(10, 3_000), default=2_000)
    """The contract promises a message every 3 s; a second is for a busy machine."""
    drain_ms: int = variable("HEADGATE_DRAIN_MS", integer(0, 3_600_000), default=600_000)
    """How long running attempts may go on after SIGTERM: the longest that an attempt may take."""
    tls_certificate: Path | None = variable("HEADGATE_TLS_CERT", Path, default=None)
    tls_key: Path | None = variable("HEADGATE_TLS_KEY", Path, default=None)
    tls_authority: Path | None = variable("HEADGATE_TLS_CA", Path, default=None)
