"""A user of each tier to try things with; their keys stay the same from run to run."""

from __future__ import annotations

from collections.abc import Mapping

import grpc
from headgate.quota.v1 import quota_pb2, quota_pb2_grpc

from services.rpc.channel import open_channel
from services.rpc.status import refusal_of

ACTOR = "embedded"


async def demo_keys(quota_address: str, kept: Mapping[str, str]) -> dict[str, str]:
    """A working key for each tier, lowest first: the kept one if quota still knows it, else a new one."""
    async with open_channel(quota_address) as channel:
        quota = quota_pb2_grpc.QuotaServiceStub(channel)
        listed = await quota.ListTiers(quota_pb2.ListTiersRequest())
        return {tier.name: await _key(quota, tier.name, kept.get(tier.name, "")) for tier in listed.tiers}


async def _key(quota: quota_pb2_grpc.QuotaServiceAsyncStub, tier: str, kept: str) -> str:
    if kept and await _works(quota, kept):
        return kept
    user_id = f"demo-{tier}"
    try:
        created = await quota.CreateUser(quota_pb2.CreateUserRequest(user_id=user_id, tier=tier, actor=ACTOR))
        return created.api_key
    except grpc.aio.AioRpcError as error:
        if refusal_of(error).reason != "ALREADY_EXISTS":
            raise
    # The user outlived the file with the key.
    issued = await quota.CreateKey(quota_pb2.CreateKeyRequest(user_id=user_id, actor=ACTOR))
    return issued.api_key


async def _works(quota: quota_pb2_grpc.QuotaServiceAsyncStub, key: str) -> bool:
    caller = quota_pb2.Caller(api_key=key)
    try:
        await quota.Authenticate(quota_pb2.AuthenticateRequest(caller=caller))
    except grpc.aio.AioRpcError as error:
        # A suspended user's key is refused too, but it is theirs.
        return refusal_of(error).reason == "USER_SUSPENDED"
    return True
