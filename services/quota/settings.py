"""What the quota service reads from its environment."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from services.rpc.channel import Tls
from services.settings import SettingsError, boolean, config_dir, secret, variable, words


def database_url(text: str) -> str:
    """Parses the URL of a PostgreSQL or SQLite database; the error never shows it, for it may hold a password."""
    try:
        backend = make_url(text).get_backend_name()
    except ArgumentError:
        raise ValueError("it is not a database URL such as postgresql://user@host/name") from None
    if backend not in ("postgresql", "sqlite"):
        raise ValueError(f"{backend} is not supported, only postgresql and sqlite are")
    return text


def existing_file(text: str) -> str:
    """Parses the path of a file that is there."""
    if not Path(text).is_file():
        raise ValueError(f"there is no file {text}")
    return text


def stripe_secrets(text: str) -> tuple[str, ...]:
    """Parses one or two of Stripe's signing secrets; the error never shows them."""
    secrets = words(text)
    if not 1 <= len(secrets) <= 2 or not all(re.fullmatch(r"whsec_[!-~]+", secret) for secret in secrets):
        raise ValueError("it must be a signing secret of Stripe (whsec_…), or two with a comma between them")
    return secrets


@dataclass(frozen=True)
class MigrateSettings:
    """What `migrate` needs."""

    database_url: str = variable("HEADGATE_DATABASE_URL", database_url)


@dataclass(frozen=True)
class Settings:
    """What the service needs."""

    database_url: str = variable("HEADGATE_DATABASE_URL", database_url)
    secret: bytes = variable("HEADGATE_SECRET", secret)
    scheduler_address: str = variable("HEADGATE_SCHEDULER_ADDRESS", str)
    listen: str = variable("HEADGATE_LISTEN", str, default="0.0.0.0:50051")
    migrate_at_start: bool = variable("HEADGATE_MIGRATE_AT_START", boolean, default=False)
    plans_file: str = variable("HEADGATE_PLANS_FILE", existing_file, default=str(config_dir() / "plans.yaml"))
    stripe_secrets: tuple[str, ...] = variable("HEADGATE_STRIPE_WEBHOOK_SECRET", stripe_secrets, default=())
    tls_certificate: str = variable("HEADGATE_TLS_CERT", existing_file, default="")
    tls_key: str = variable("HEADGATE_TLS_KEY", existing_file, default="")
    tls_authority: str = variable("HEADGATE_TLS_CA", existing_file, default="")

    def __post_init__(self) -> None:
        given = [self.tls_certificate, self.tls_key, self.tls_authority]
        if any(given) and not all(given):
            raise SettingsError("HEADGATE_TLS_CERT, HEADGATE_TLS_KEY and HEADGATE_TLS_CA go together: set all or none.")

    @property
    def tls(self) -> Tls | None:
        """The identity of this service, None for plain text."""
        if not self.tls_certificate:
            return None
        return Tls(Path(self.tls_certificate), Path(self.tls_key), Path(self.tls_authority))
