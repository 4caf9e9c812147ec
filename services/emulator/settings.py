"""What the emulator reads from its environment."""

from __future__ import annotations

from dataclasses import dataclass

from services.settings import integer, variable

_per_minute = integer(1, 1_000_000_000)


@dataclass(frozen=True)
class Settings:
    """One emulator process."""

    host: str = variable("HEADGATE_EMULATOR_HOST", str, default="127.0.0.1")
    port: int = variable("HEADGATE_EMULATOR_PORT", integer(0, 65535), default=0)
    """0 takes a free port."""
    requests_per_minute: int = variable("HEADGATE_EMULATOR_RPM", _per_minute, default=100)
    tokens_per_minute: int | None = variable("HEADGATE_EMULATOR_TPM", _per_minute, default=800_000)
    input_tokens_per_minute: int | None = variable("HEADGATE_EMULATOR_ITPM", _per_minute, default=None)
    output_tokens_per_minute: int | None = variable("HEADGATE_EMULATOR_OTPM", _per_minute, default=None)
    request_burst_ms: int = variable("HEADGATE_EMULATOR_REQUEST_BURST_MS", integer(0, 60_000), default=1_000)
    """Time whose worth of requests a full bucket holds (at least one): 1 s is the strictest that is documented."""
    token_burst_ms: int = variable("HEADGATE_EMULATOR_TOKEN_BURST_MS", integer(0, 60_000), default=60_000)
    first_token_ms: int = variable("HEADGATE_EMULATOR_FIRST_TOKEN_MS", integer(0, 600_000), default=300)
    tokens_per_second: int = variable("HEADGATE_EMULATOR_TOKENS_PER_SECOND", integer(1, 1_000_000), default=80)
    """Of one answer. From 20,000 on an answer is sent in one piece."""
    seed: str = variable("HEADGATE_EMULATOR_SEED", str, default="headgate")
