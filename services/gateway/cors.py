"""Which pages of other sites may call: an exact list."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.responses import Response
from starlette.types import Scope

from services.gateway.errors import Problem

ALLOWED_HEADERS = ("x-api-key", "authorization", "content-type", "idempotency-key", "last-event-id", "traceparent")
ALLOWED_PREFIXES = ("anthropic-", "x-stainless-")
EXPOSED = b"Location, Retry-After, RateLimit, RateLimit-Policy, request-id"
METHODS = "GET, HEAD, POST, PUT, DELETE, OPTIONS"
PREFLIGHT_S = "600"
"""A browser may skip the next preflights for so long; more would delay a change of the list."""


class Cors:
    """The allow-list, for HTTP and for sockets."""

    def __init__(self, allowed_origins: Iterable[str]) -> None:
        self._allowed = frozenset(origin.rstrip("/") for origin in allowed_origins)

    def allows(self, scope: Scope) -> bool:
        """Whether this caller's page may be answered: no page, our own page, or a listed one."""
        origin = _header(scope, b"origin")
        return not origin or origin in self._allowed or _is_own(scope, origin)

    def headers(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        """What an answer to this caller carries."""
        headers = [(b"vary", b"Origin")]
        origin = _header(scope, b"origin")
        if origin and self.allows(scope):
            headers += [(b"access-control-allow-origin", origin.encode("latin-1"))]
            headers += [(b"access-control-expose-headers", EXPOSED)]
        return headers

    def is_preflight(self, scope: Scope) -> bool:
        """Whether a browser asks before it calls."""
        return bool(_header(scope, b"origin") and _header(scope, b"access-control-request-method"))

    def preflight(self, scope: Scope) -> Response:
        """The answer to it. Problem 403 for a page that is not listed."""
        if not self.allows(scope):
            raise Problem(403, "FORBIDDEN", "Pages of this origin may not call here.")
        asked = [name.strip() for name in _header(scope, b"access-control-request-headers").lower().split(",")]
        # Names by prefix cannot be listed in advance, so those that were asked for are named back.
        named = [name for name in asked if name.startswith(ALLOWED_PREFIXES)]
        headers = {
            "Access-Control-Allow-Methods": METHODS,
            "Access-Control-Allow-Headers": ", ".join([*ALLOWED_HEADERS, *named]),
            "Access-Control-Max-Age": PREFLIGHT_S,
        }
        return Response(status_code=204, headers=headers)


def _is_own(scope: Scope, origin: str) -> bool:
    # By host alone: behind a proxy that ends TLS the scheme seen here is not the page's.
    scheme, _, host = origin.partition("://")
    return scheme in ("http", "https") and host.lower() == _header(scope, b"host").lower() != ""


def _header(scope: Scope, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")
