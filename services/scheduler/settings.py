"""The scheduler's environment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from services import webhooks
from services.scheduler.alert_webhook import address
from services.settings import boolean, dollars, integer, one_of, variable, words


def webhook_secret(text: str) -> str:
    """Checks it and leaves it as it is written. ValueError if it is none."""
    webhooks.secret(text)
    return text


@dataclass(frozen=True)
class MigrateSettings:
    """What `migrate` needs."""

    database_url: str = variable("HEADGATE_DATABASE_URL", str)


@dataclass(frozen=True)
class Settings:
    """Read and checked before anything starts."""

    database_url: str = variable("HEADGATE_DATABASE_URL", str)
    redis_url: str = variable("HEADGATE_REDIS_URL", str)
    quota_address: str = variable("HEADGATE_QUOTA_ADDRESS", str)
    generator_addresses: tuple[str, ...] = variable("HEADGATE_GENERATOR_ADDRESSES", words)
    """host:port, dns:///name:port (all addresses of a name) or unix:path; comma-separated."""
    listen: str = variable("HEADGATE_LISTEN", str, default="0.0.0.0:50052")
    migrate_at_start: bool = variable("HEADGATE_MIGRATE_AT_START", boolean, default=False)
    provider_plan: str = variable("HEADGATE_PROVIDER_PLAN", str, default="auto")
    provider_rpm: int | None = variable("HEADGATE_PROVIDER_RPM", integer(1, 10_000_000), default=None)
    provider_itpm: int | None = variable("HEADGATE_PROVIDER_ITPM", integer(1, 10_000_000_000), default=None)
    provider_otpm: int | None = variable("HEADGATE_PROVIDER_OTPM", integer(1, 10_000_000_000), default=None)
    provider_tpm: int | None = variable("HEADGATE_PROVIDER_TPM", integer(1, 10_000_000_000), default=None)
    provider_rpd: int | None = variable("HEADGATE_PROVIDER_RPD", integer(1, 10_000_000_000), default=None)
    provider_concurrency: int | None = variable("HEADGATE_PROVIDER_CONCURRENCY", integer(1, 100_000), default=None)
    model: str | None = variable("HEADGATE_MODEL", str, default=None)
    generator_slots: int = variable("HEADGATE_GENERATOR_SLOTS", integer(1, 10_000), default=64)
    """Attempts one generator runs at once, at most."""
    attempt_timeout_ms: int = variable("HEADGATE_ATTEMPT_TIMEOUT_MS", integer(1_000, 3_600_000), default=600_000)
    account_probe_ms: int = variable("HEADGATE_ACCOUNT_PROBE_MS", integer(100, 3_600_000), default=60_000)
    """How often a provider that refuses the account is asked whether it still does."""
    queue_length: int = variable("HEADGATE_QUEUE_LENGTH", integer(1, 10_000_000), default=100_000)
    """Requests one tier of a pool may have queued."""
    cache_scope: str = variable("HEADGATE_CACHE_SCOPE", one_of("global", "user", "off"), default="global")
    """Who is given an answer that an equal request got: everybody, only the same user, nobody."""
    cache_ttl_ms: int = variable("HEADGATE_CACHE_TTL_MS", integer(0, 2_592_000_000), default=86_400_000)
    """How long an answer is given again; equal requests that wait at the same time share one in any case."""
    longest_wait_ms: int = variable("HEADGATE_LONGEST_WAIT_MS", integer(1_000, 604_800_000), default=86_400_000)
    """Nothing more is accepted while a request would wait longer."""
    max_spend_nano_usd_per_day: int | None = variable("HEADGATE_MAX_SPEND_PER_DAY", dollars(9_000_000), default=None)
    """In dollars, as 250 or 12.50: what the site may cost on a UTC day before requests wait. (The most is what a
    script's numbers hold exactly.)"""
    retention_days: int = variable("HEADGATE_RETENTION_DAYS", integer(1, 3_650), default=30)
    """How long ended requests are kept, prompt and answer included."""
    drain_ms: int = variable("HEADGATE_DRAIN_MS", integer(0, 3_600_000), default=25_000)
    """How long running attempts may go on after SIGTERM; what is left then is queued again."""
    alert_webhook_url: str | None = variable("HEADGATE_ALERT_WEBHOOK_URL", address, default=None)
    """Where alerts are sent as signed webhooks."""
    alert_webhook_secret: str | None = variable("HEADGATE_ALERT_WEBHOOK_SECRET", webhook_secret, default=None)
    """Its receiver knows it too: whsec_ and 24 to 64 bytes in base64."""
    tls_cert: Path | None = variable("HEADGATE_TLS_CERT", Path, default=None)
    tls_key: Path | None = variable("HEADGATE_TLS_KEY", Path, default=None)
    tls_ca: Path | None = variable("HEADGATE_TLS_CA", Path, default=None)

    @property
    def overrides(self) -> dict[str, int]:
        """Single limits set by the operator, by dimension of the scripts."""
        named = {
            "requests": self.provider_rpm,
            "tokens": self.provider_tpm,
            "input_tokens": self.provider_itpm,
            "output_tokens": self.provider_otpm,
            "requests_day": self.provider_rpd,
            "concurrency": self.provider_concurrency,
        }
        return {dimension: limit for dimension, limit in named.items() if limit is not None}
