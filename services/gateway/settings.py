"""What the gateway reads from its environment."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from services.rpc.channel import Tls
from services.settings import SettingsError, boolean, integer, variable, words


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError(f"'{text}' is not an http or https address")
    return text.rstrip("/")


def _https_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme != "https" or not parts.hostname or not text.isprintable() or " " in text:
        raise ValueError(f"'{text}' is not an https address")
    return text


def _demo_keys(text: str) -> dict[str, str]:
    keys = json.loads(text)
    if not isinstance(keys, dict) or not all(isinstance(key, str) for key in keys.values()):
        raise ValueError("it must be a JSON object of tier names and keys")
    return keys


@dataclass(frozen=True)
class GatewaySettings:
    """One replica's settings."""

    quota_address: str = variable("HEADGATE_QUOTA_ADDRESS", str)
    scheduler_address: str = variable("HEADGATE_SCHEDULER_ADDRESS", str)
    host: str = variable("HEADGATE_HTTP_HOST", str, default="0.0.0.0")  # noqa: S104 (a container must listen on all)
    port: int = variable("HEADGATE_HTTP_PORT", integer(0, 65_535), default=8080)
    public_url: str = variable("HEADGATE_PUBLIC_URL", _url, default="")
    allowed_origins: tuple[str, ...] = variable("HEADGATE_ALLOWED_ORIGINS", words, default=())
    admin_keys: tuple[str, ...] = variable("HEADGATE_ADMIN_KEY", words, default=())
    admin_read_keys: tuple[str, ...] = variable("HEADGATE_ADMIN_READ_KEY", words, default=())
    emulated: bool = variable("HEADGATE_EMULATED", boolean, default=False)
    demo_keys: dict[str, str] | None = variable("HEADGATE_DEMO_KEYS", _demo_keys, default=None)
    billing_portal_url: str = variable("HEADGATE_BILLING_PORTAL_URL", _https_url, default="")
    tls_certificate: Path | None = variable("HEADGATE_TLS_CERT", Path, default=None)
    tls_key: Path | None = variable("HEADGATE_TLS_KEY", Path, default=None)
    tls_authority: Path | None = variable("HEADGATE_TLS_CA", Path, default=None)

    def tls(self) -> Tls | None:
        """The identity for calls to the other services; SettingsError if only a part of it is named."""
        if self.tls_certificate and self.tls_key and self.tls_authority:
            return Tls(self.tls_certificate, self.tls_key, self.tls_authority)
        if self.tls_certificate or self.tls_key or self.tls_authority:
            raise SettingsError("HEADGATE_TLS_CERT, HEADGATE_TLS_KEY and HEADGATE_TLS_CA must be set together.")
        return None
