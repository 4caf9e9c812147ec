"""Calls to the domain's words and back; decides nothing."""

from __future__ import annotations

from typing import Any

from headgate.quota.v1 import quota_pb2 as pb
from headgate.quota.v1 import quota_pb2_grpc

from services.quota import wire
from services.quota.accounts import Accounts
from services.quota.ledger import Ledger
from services.quota.model import Invalid
from services.quota.places import Places
from services.quota.plans import Plans

NAME = pb.DESCRIPTOR.services_by_name["QuotaService"].full_name
Context = Any
"""A call's context, which nothing here needs."""


class QuotaServicer(quota_pb2_grpc.QuotaServiceServicer):
    """Serves headgate.quota.v1.QuotaService."""

    def __init__(self, accounts: Accounts, places: Places, ledger: Ledger, plans: Plans) -> None:
        self._accounts = accounts
        self._places = places
        self._ledger = ledger
        self._plans = plans

    async def Authenticate(self, request: pb.AuthenticateRequest, context: Context) -> pb.AuthenticateResponse:
        who = await self._accounts.authenticate(wire.read_caller(request.caller))
        tier = self._accounts.tier_of(who.user)
        return pb.AuthenticateResponse(user=wire.user(who.user), tier=wire.tier(tier), key_id=who.key_id)

    async def Reserve(self, request: pb.ReserveRequest, context: Context) -> pb.ReserveResponse:
        caller = wire.read_caller(request.caller)
        key = request.idempotency_key
        if key:
            wire.read_text("idempotency_key", key, 255)
            if request.request_id:
                raise Invalid("request_id", "must be empty where an idempotency_key is given")
        else:
            wire.read_request_id("request_id", request.request_id)
        reserved = await self._places.reserve(caller, request.request_id, key)
        return pb.ReserveResponse(
            request_id=reserved.reservation.request_id,
            user=wire.user(reserved.user),
            tier=wire.tier(reserved.tier),
            reservation=wire.reservation(reserved.reservation),
            usage=wire.usage(reserved.usage),
        )

    async def Resolve(self, request: pb.ResolveRequest, context: Context) -> pb.ResolveResponse:
        row = await self._places.resolve(
            wire.read_request_id("request_id", request.request_id),
            wire.read_generation("generation", request.generation),
        )
        return pb.ResolveResponse(reservation=wire.reservation(row))

    async def Settle(self, request: pb.SettleRequest, context: Context) -> pb.SettleResponse:
        await self._ledger.settle(wire.read_settlements(request))
        return pb.SettleResponse()

    async def GetUsage(self, request: pb.GetUsageRequest, context: Context) -> pb.GetUsageResponse:
        user, tier, usage = await self._places.usage(wire.read_caller(request.caller))
        return pb.GetUsageResponse(user=wire.user(user), tier=wire.tier(tier), usage=wire.usage(usage))

    async def ListTiers(self, request: pb.ListTiersRequest, context: Context) -> pb.ListTiersResponse:
        return pb.ListTiersResponse(tiers=map(wire.tier, self._plans.tiers))

    async def CreateUser(self, request: pb.CreateUserRequest, context: Context) -> pb.CreateUserResponse:
        user, key, text = await self._accounts.create_user(
            request.user_id and wire.read_user_id("user_id", request.user_id),
            wire.read_email("email", request.email),
            request.tier,
            wire.read_actor(request.actor),
        )
        return pb.CreateUserResponse(user=wire.user(user), key=wire.key(key), api_key=text)

    async def GetUser(self, request: pb.GetUserRequest, context: Context) -> pb.GetUserResponse:
        found = await self._accounts.get_user(wire.read_user_id("user_id", request.user_id))
        user, tier, usage = await self._places.usage_of(found)
        return pb.GetUserResponse(user=wire.user(user), tier=wire.tier(tier), usage=wire.usage(usage))

    async def SetUserTier(self, request: pb.SetUserTierRequest, context: Context) -> pb.SetUserTierResponse:
        user, previous = await self._accounts.set_tier(
            wire.read_user_id("user_id", request.user_id), request.tier, wire.read_actor(request.actor)
        )
        return pb.SetUserTierResponse(user=wire.user(user), previous_tier=previous)

    async def SetUserLimits(self, request: pb.SetUserLimitsRequest, context: Context) -> pb.SetUserLimitsResponse:
        user = await self._accounts.set_terms(
            wire.read_user_id("user_id", request.user_id), wire.read_terms(request), wire.read_actor(request.actor)
        )
        return pb.SetUserLimitsResponse(user=wire.user(user))

    async def SetUserStatus(self, request: pb.SetUserStatusRequest, context: Context) -> pb.SetUserStatusResponse:
        user = await self._accounts.set_status(
            wire.read_user_id("user_id", request.user_id),
            wire.read_status("status", request.status),
            wire.read_actor(request.actor),
        )
        return pb.SetUserStatusResponse(user=wire.user(user))

    async def ListKeys(self, request: pb.ListKeysRequest, context: Context) -> pb.ListKeysResponse:
        keys = await self._accounts.list_keys(wire.read_user_id("user_id", request.user_id))
        return pb.ListKeysResponse(keys=map(wire.key, keys))

    async def CreateKey(self, request: pb.CreateKeyRequest, context: Context) -> pb.CreateKeyResponse:
        user_id = wire.read_user_id("user_id", request.user_id)
        key, text = await self._accounts.create_key(user_id, wire.read_actor(request.actor))
        return pb.CreateKeyResponse(key=wire.key(key), api_key=text)

    async def RevokeKey(self, request: pb.RevokeKeyRequest, context: Context) -> pb.RevokeKeyResponse:
        key_id = wire.read_key_id("key_id", request.key_id)
        return pb.RevokeKeyResponse(
            key=wire.key(await self._accounts.revoke_key(key_id, wire.read_actor(request.actor)))
        )
