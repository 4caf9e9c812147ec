"""Users, keys and tiers for administrators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headgate.quota.v1 import quota_pb2
from starlette.requests import Request
from starlette.responses import Response

from services.gateway import limits, shapes
from services.gateway.callers import Callers
from services.gateway.edge import json_response, read_body
from services.gateway.errors import invalid, not_found
from services.gateway.messages import rfc3339

if TYPE_CHECKING:
    from headgate.quota.v1.quota_pb2_grpc import QuotaServiceAsyncStub

STATUSES = {quota_pb2.USER_STATUS_ACTIVE: "active", quota_pb2.USER_STATUS_SUSPENDED: "suspended"}


class Admin:
    """The administrator's calls; each authenticates before it looks at anything else."""

    def __init__(self, quota: QuotaServiceAsyncStub, callers: Callers) -> None:
        self._quota = quota
        self._callers = callers

    async def create_user(self, request: Request) -> Response:
        """Creates a user with a first key, shown in this answer only."""
        actor = self._callers.administrator(request)
        wanted = shapes.read(await read_body(request), shapes.NewUser)
        if not wanted.user_id.isprintable():
            raise invalid(("userId", "userId must have printable characters only."))
        created = await self._quota.CreateUser(
            quota_pb2.CreateUserRequest(user_id=wanted.user_id, email=wanted.email, tier=wanted.tier, actor=actor)
        )
        user = created.user
        body = {"userId": user.user_id, "tier": user.tier, "apiKey": created.api_key, "keyId": created.key.key_id}
        return json_response(body, 201)

    async def user(self, request: Request) -> Response:
        """One user."""
        self._callers.administrator(request)
        found = await self._quota.GetUser(quota_pb2.GetUserRequest(user_id=_user_id(request)))
        usage = {
            "used": found.usage.used,
            "limit": found.usage.limit,
            "resetTime": rfc3339(found.usage.reset_time),
        }
        return json_response(_user_fields(found.user) | usage)

    async def set_status(self, request: Request) -> Response:
        """Suspends a user or lets them in again."""
        actor, user_id = self._callers.administrator(request), _user_id(request)
        wanted = shapes.read(await read_body(request), shapes.StatusChange)
        status = quota_pb2.USER_STATUS_ACTIVE if wanted.status == "active" else quota_pb2.USER_STATUS_SUSPENDED
        changed = await self._quota.SetUserStatus(
            quota_pb2.SetUserStatusRequest(user_id=user_id, status=status, actor=actor)
        )
        return json_response(_user_fields(changed.user))

    async def set_limits(self, request: Request) -> Response:
        """Gives a user terms of their own, or takes them back."""
        actor, user_id = self._callers.administrator(request), _user_id(request)
        changes = shapes.read(await read_body(request), shapes.OwnTerms).changes()
        if not changes:
            raise invalid(("", f"Must have one of {', '.join(limits.OWN)}."))
        change = quota_pb2.SetUserLimitsRequest(user_id=user_id, actor=actor, fields=changes)
        change.limits.CopyFrom(quota_pb2.UserLimits(**changes))
        return json_response(_user_fields((await self._quota.SetUserLimits(change)).user))

    async def set_tier(self, request: Request) -> Response:
        """Moves a user to another tier, from the next call on."""
        actor, user_id = self._callers.administrator(request), _user_id(request)
        wanted = shapes.read(await read_body(request), shapes.TierChange)
        changed = await self._quota.SetUserTier(
            quota_pb2.SetUserTierRequest(user_id=user_id, tier=wanted.tier, actor=actor)
        )
        return json_response(_user_fields(changed.user) | {"previousTier": changed.previous_tier})

    async def keys(self, request: Request) -> Response:
        """A user's keys, newest first, without their secrets."""
        self._callers.administrator(request)
        listed = await self._quota.ListKeys(quota_pb2.ListKeysRequest(user_id=_user_id(request)))
        return json_response({"items": [_key_fields(key) for key in listed.keys]})

    async def create_key(self, request: Request) -> Response:
        """Issues a further key, shown in this answer only."""
        actor = self._callers.administrator(request)
        question = quota_pb2.CreateKeyRequest(user_id=_user_id(request), actor=actor)
        created = await self._quota.CreateKey(question)
        return json_response(_key_fields(created.key) | {"apiKey": created.api_key}, 201)

    async def revoke_key(self, request: Request) -> Response:
        """Revokes a key, at once and for good."""
        actor, key_id = self._callers.administrator(request), request.path_params["id"]
        if not shapes.KEY_ID.match(key_id):
            raise not_found("There is no such key.")
        revoked = await self._quota.RevokeKey(quota_pb2.RevokeKeyRequest(key_id=key_id, actor=actor))
        return json_response(_key_fields(revoked.key))


def _user_id(request: Request) -> str:
    user_id: str = request.path_params["id"]
    if not shapes.is_user_id(user_id):
        raise not_found("There is no such user.")
    return user_id


def _user_fields(user: quota_pb2.User) -> dict[str, Any]:
    fields: dict[str, Any] = {"userId": user.user_id, "tier": user.tier, "status": STATUSES.get(user.status, "active")}
    if user.email:
        fields["email"] = user.email
    return fields | {"createdAt": rfc3339(user.create_time), "limits": limits.own_fields(user)}


def _key_fields(key: quota_pb2.Key) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "keyId": key.key_id,
        "userId": key.user_id,
        "createdAt": rfc3339(key.create_time),
        "revoked": key.HasField("revoke_time"),
    }
    if key.HasField("revoke_time"):
        fields["revokedAt"] = rfc3339(key.revoke_time)
    return fields
