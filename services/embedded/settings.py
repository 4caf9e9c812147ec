"""What embedded mode itself reads; every other variable is passed on to the service that reads it."""

from __future__ import annotations

from dataclasses import dataclass

from services.settings import integer, secret, variable


@dataclass(frozen=True)
class Settings:
    """One stack on one machine."""

    http_host: str = variable("HEADGATE_HTTP_HOST", str, default="127.0.0.1")
    """Only this machine, unless said otherwise: elsewhere the gateway's own default is every interface."""
    http_port: int = variable("HEADGATE_HTTP_PORT", integer(1, 65535), default=8080)
    data_dir: str = variable("HEADGATE_DATA_DIR", str, default=".headgate")
    admin_key: str = variable("HEADGATE_ADMIN_KEY", str, default="")
    """Empty: one is made and kept in the data folder."""
    secret: bytes = variable("HEADGATE_SECRET", secret, default=b"")
    """Empty: one is made and kept in the data folder."""
    generators: int = variable("HEADGATE_GENERATORS", integer(1, 64), default=1)
    database_url: str = variable("HEADGATE_DATABASE_URL", str, default="")
    """Empty: an SQLite file for each service in the data folder."""
    redis_url: str = variable("HEADGATE_REDIS_URL", str, default="")
    """Empty: a private Valkey."""
    anthropic_api_key: str = variable("ANTHROPIC_API_KEY", str, default="")
    anthropic_base_url: str = variable("ANTHROPIC_BASE_URL", str, default="")
    emulator_port: int = variable("HEADGATE_EMULATOR_PORT", integer(0, 65535), default=0)
    """0: a free one."""
    provider_plan: str = variable("HEADGATE_PROVIDER_PLAN", str, default="")

    @property
    def emulated(self) -> bool:
        """Whether the emulator answers instead of the Claude API."""
        return not self.anthropic_api_key and not self.anthropic_base_url

    @property
    def url(self) -> str:
        """Where a browser on this machine finds the gateway."""
        everywhere = self.http_host in ("0.0.0.0", "::", "")  # noqa: S104
        return f"http://{'127.0.0.1' if everywhere else self.http_host}:{self.http_port}"
