"""Who calls: users by key, administrators by theirs, and administrators acting for a user."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from typing import TYPE_CHECKING

from headgate.quota.v1 import quota_pb2
from starlette.requests import HTTPConnection

from services.gateway import rates
from services.gateway.errors import Problem, invalid, unauthenticated
from services.gateway.shapes import is_user_id

if TYPE_CHECKING:
    from headgate.quota.v1.quota_pb2_grpc import QuotaServiceAsyncStub

KEY_LIMIT = 512
"""Characters of anything that could be a key."""
READING = ("GET", "HEAD")


class Callers:
    """Reads credentials from headers; no cookie ever counts."""

    def __init__(
        self, quota: QuotaServiceAsyncStub, admin_keys: Iterable[str] = (), admin_read_keys: Iterable[str] = ()
    ) -> None:
        self._quota = quota
        self._admin_keys = [key.encode() for key in admin_keys]
        self._read_keys = [key.encode() for key in admin_read_keys]

    def has_key(self, connection: HTTPConnection) -> bool:
        """Whether the caller shows any key."""
        return bool(connection.headers.get("x-api-key") or _bearer(connection))

    def caller(self, connection: HTTPConnection) -> quota_pb2.Caller:
        """How quota is to know the caller. Problem 401 without a key, 403 for acting without the right to."""
        bearer = _bearer(connection)
        acting_for = connection.headers.get("x-headgate-user")
        if acting_for is not None and self.has_key(connection):
            return self._acting(connection, bearer, acting_for)
        key = connection.headers.get("x-api-key") or bearer
        if not key or len(key) > KEY_LIMIT:
            raise unauthenticated()
        if self._is_admin(key, self._admin_keys + self._read_keys):
            raise unauthenticated("An administrator's key calls here only for a user: add X-Headgate-User.")
        return quota_pb2.Caller(api_key=key)

    async def usage(self, connection: HTTPConnection) -> quota_pb2.GetUsageResponse:
        """The caller with tier and day, whose figures go into the answer's headers."""
        answer = await self._quota.GetUsage(quota_pb2.GetUsageRequest(caller=self.caller(connection)))
        note(connection, answer.usage)
        return answer

    async def user_of(self, api_key: str) -> quota_pb2.AuthenticateResponse:
        """Whose key that is. Problem 401 for what can be none."""
        if not api_key or len(api_key) > KEY_LIMIT:
            raise unauthenticated()
        caller = quota_pb2.Caller(api_key=api_key)
        return await self._quota.Authenticate(quota_pb2.AuthenticateRequest(caller=caller))

    async def viewer(self, connection: HTTPConnection) -> str:
        """The user who watches; empty without a key, for watching works by id alone."""
        if not self.has_key(connection):
            return ""
        return (await self.usage(connection)).user.user_id

    def administrator(self, connection: HTTPConnection) -> str:
        """The administrator's name for the audit. Problem 401, or 403 for writing with a key that may only read."""
        bearer = _bearer(connection)
        if not self._is_admin(bearer, self._admin_keys):
            if not self._is_admin(bearer, self._read_keys):
                raise unauthenticated("This needs an administrator's key as Authorization: Bearer.")
            if connection.scope["method"] not in READING:
                raise Problem(403, "FORBIDDEN", "This key may only read.")
        return "admin:" + hashlib.sha256(bearer.encode()).hexdigest()[:8]

    def _acting(self, connection: HTTPConnection, bearer: str, header: str) -> quota_pb2.Caller:
        reading = connection.scope.get("method", "GET") in READING
        if not self._is_admin(bearer, self._admin_keys):
            if not self._is_admin(bearer, self._read_keys):
                raise Problem(403, "FORBIDDEN", "Only an administrator's key may act for a user.")
            if not reading:
                raise Problem(403, "FORBIDDEN", "This key may only read.")
        user_id = _utf8(header)
        if not is_user_id(user_id):
            raise invalid(
                ("X-Headgate-User", "X-Headgate-User must be 1 to 128 printable characters without blanks and slashes.")
            )
        may_create = self._is_admin(bearer, self._admin_keys)
        return quota_pb2.Caller(user_id=user_id, create_if_missing=may_create)

    def _is_admin(self, key: str, keys: list[bytes]) -> bool:
        # Every key is compared, each in constant time: the time taken tells nothing about them.
        return sum(hmac.compare_digest(key.encode(), known) for known in keys) > 0


def _utf8(header: str) -> str:
    """The text that a header's bytes are; empty if they are not UTF-8. (Starlette reads them as Latin-1.)"""
    try:
        return header.encode("latin-1").decode()
    except UnicodeDecodeError:
        return ""


def note(connection: HTTPConnection, usage: quota_pb2.DayUsage, *, given_back: int = 0) -> None:
    """Puts the caller's day into the headers of this call's answer, be it a success or an error."""
    connection.scope.setdefault("headgate.headers", {}).update(rates.headers(usage, given_back=given_back))


def _bearer(connection: HTTPConnection) -> str:
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""
