"""Users, keys, tiers and what the scheduler hears of them, on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest
from grpc import StatusCode
from headgate.quota.v1 import quota_pb2 as pb

from services.ids import BASE62
from services.quota.keys import make_key
from services.quota.model import TierChange
from services.quota.ports import SchedulerUnreachable
from services.quota.reservations import Answer
from services.quota.store import SqlStore
from services.quota.tier_changes import TierChangeDelivery
from services.rpc.status import Refusal
from tests.servers.quota import NOON_MS, Quota, refused

NewId = Callable[[], str]
ACTOR = "admin:test"


def by_key(key: str) -> pb.AuthenticateRequest:
    return pb.AuthenticateRequest(caller=pb.Caller(api_key=key))


def by_id(user_id: str, *, create: bool = False) -> pb.AuthenticateRequest:
    return pb.AuthenticateRequest(caller=pb.Caller(user_id=user_id, create_if_missing=create))


async def set_tier(quota: Quota, user_id: str, tier: str) -> pb.SetUserTierResponse:
    return await quota.stub.SetUserTier(pb.SetUserTierRequest(user_id=user_id, tier=tier, actor=ACTOR))


async def set_status(quota: Quota, user_id: str, status: pb.UserStatus.ValueType) -> pb.User:
    request = pb.SetUserStatusRequest(user_id=user_id, status=status, actor=ACTOR)
    return (await quota.stub.SetUserStatus(request)).user


async def test_a_key_says_whose_it_is(quota: Quota) -> None:
    made = await quota.stub.CreateUser(pb.CreateUserRequest(email="a@example.org", actor=ACTOR))
    who = await quota.stub.Authenticate(by_key(made.api_key))
    assert who.user == made.user
    assert (who.user.tier, who.user.tier_version, who.user.status) == ("free", 1, pb.USER_STATUS_ACTIVE)
    assert who.user.create_time.ToMilliseconds() == NOON_MS
    assert (who.tier.name, who.tier.requests_per_day, who.key_id) == ("free", 10, made.key.key_id)


async def test_unknown_malformed_and_revoked_keys_answer_the_same(quota: Quota, new_id: NewId) -> None:
    made = await quota.stub.CreateUser(pb.CreateUserRequest(actor=ACTOR))
    key = made.api_key
    other_secret = make_key(lambda size: b"\1" * size).text
    await quota.stub.RevokeKey(pb.RevokeKeyRequest(key_id=made.key.key_id, actor=ACTOR))
    wrong = ["x", "x" * 10_000, "sk-ant-123", key[:-1], key + "0", key.swapcase(), other_secret, key]
    answers: list[Refusal] = [await refused(quota.stub.Authenticate(by_key(text))) for text in wrong]
    answers += [await refused(quota.reserve(text, new_id())) for text in wrong]
    assert set(map(repr, answers)) == {repr(answers[0])}
    assert (answers[0].code, answers[0].reason) == (StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")


async def test_the_right_id_with_another_secret_is_not_let_in(quota: Quota) -> None:
    _, first = await quota.user()
    _, second = await quota.user()
    stored = await quota.rows("SELECT secret_hash FROM quota_keys")
    assert all(len(row.secret_hash) == 32 for row in stored)
    # The id of one key and the secret of another, with a checksum that fits.
    crossed = make_key(_bytes_of(first, second)).text
    assert (crossed[:14], crossed[14:41]) == (first[:14], second[14:41])
    assert (await refused(quota.stub.Authenticate(by_key(crossed)))).reason == "UNAUTHENTICATED"


def _bytes_of(id_of: str, secret_of: str) -> Callable[[int], bytes]:
    def number(digits: str) -> int:
        value = 0
        for digit in digits:
            value = value * 62 + BASE62.index(digit)
        return value

    parts = iter([number(id_of[3:14]), number(secret_of[14:41])])
    return lambda size: next(parts).to_bytes(size, "big")


async def test_a_suspended_user_is_told_so_and_may_come_back(quota: Quota, new_id: NewId) -> None:
    user_id, key = await quota.user()
    assert (await set_status(quota, user_id, pb.USER_STATUS_SUSPENDED)).status == pb.USER_STATUS_SUSPENDED
    for call in (quota.stub.Authenticate(by_key(key)), quota.reserve(key, new_id()), quota.used(key)):
        refusal = await refused(call)
        assert (refusal.code, refusal.reason) == (StatusCode.PERMISSION_DENIED, "USER_SUSPENDED")
    assert (await refused(quota.stub.Authenticate(by_id(user_id)))).reason == "USER_SUSPENDED"
    assert (await quota.stub.GetUser(pb.GetUserRequest(user_id=user_id))).user.status == pb.USER_STATUS_SUSPENDED
    await set_status(quota, user_id, pb.USER_STATUS_ACTIVE)
    assert (await quota.reserve(key, new_id())).usage.used == 1


async def test_a_vouched_user_is_created_on_first_use_in_the_default_tier(quota: Quota, new_id: NewId) -> None:
    assert (await refused(quota.stub.Authenticate(by_id("ann")))).reason == "NOT_FOUND"
    calls = (quota.stub.Authenticate(by_id("ann", create=True)) for _ in range(10))
    assert {answer.user.tier for answer in await asyncio.gather(*calls)} == {"free"}
    caller = pb.Caller(user_id="bob", create_if_missing=True)
    reserved = await quota.stub.Reserve(pb.ReserveRequest(caller=caller, request_id=new_id()))
    assert (reserved.user.user_id, reserved.usage.used) == ("bob", 1)
    caller.user_id = "cy"
    assert (await quota.stub.GetUsage(pb.GetUsageRequest(caller=caller))).usage.limit == 10
    assert await quota.rows("SELECT user_id FROM quota_users ORDER BY user_id") == [("ann",), ("bob",), ("cy",)]


async def test_a_user_that_exists_is_not_created_again(quota: Quota) -> None:
    await quota.user(user_id="ann", tier="pro")
    before = await quota.dump()
    again = pb.CreateUserRequest(user_id="ann", tier="free", actor=ACTOR)
    refusal = await refused(quota.stub.CreateUser(again))
    assert (refusal.code, refusal.reason) == (StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS")
    assert await quota.dump() == before


async def test_keys_are_listed_newest_first_issued_and_revoked_once(quota: Quota) -> None:
    user_id, first = await quota.user()
    quota.clock.advance(5)
    made = await quota.stub.CreateKey(pb.CreateKeyRequest(user_id=user_id, actor=ACTOR))
    listed = (await quota.stub.ListKeys(pb.ListKeysRequest(user_id=user_id))).keys
    assert [key.key_id for key in listed][0] == made.key.key_id
    assert [key.HasField("revoke_time") for key in listed] == [False, False]
    quota.clock.advance(5)
    revoke = pb.RevokeKeyRequest(key_id=made.key.key_id, actor=ACTOR)
    revoked = (await quota.stub.RevokeKey(revoke)).key
    quota.clock.advance(5)
    assert (await quota.stub.RevokeKey(revoke)).key == revoked
    assert revoked.revoke_time.ToMilliseconds() == NOON_MS + 10
    assert (await refused(quota.stub.Authenticate(by_key(made.api_key)))).reason == "UNAUTHENTICATED"
    assert (await quota.stub.Authenticate(by_key(first))).user.user_id == user_id


async def test_at_most_100_keys_are_listed(quota: Quota) -> None:
    user_id, _ = await quota.user()
    create = pb.CreateKeyRequest(user_id=user_id, actor=ACTOR)
    await asyncio.gather(*(quota.stub.CreateKey(create) for _ in range(101)))
    assert len((await quota.stub.ListKeys(pb.ListKeysRequest(user_id=user_id))).keys) == 100


@pytest.mark.parametrize(
    "call",
    [
        lambda stub: stub.GetUser(pb.GetUserRequest(user_id="nobody")),
        lambda stub: stub.SetUserTier(pb.SetUserTierRequest(user_id="nobody", tier="pro", actor=ACTOR)),
        lambda stub: stub.SetUserStatus(pb.SetUserStatusRequest(user_id="nobody", status=1, actor=ACTOR)),
        lambda stub: stub.SetUserLimits(pb.SetUserLimitsRequest(user_id="nobody", limits={}, actor=ACTOR)),
        lambda stub: stub.ListKeys(pb.ListKeysRequest(user_id="nobody")),
        lambda stub: stub.CreateKey(pb.CreateKeyRequest(user_id="nobody", actor=ACTOR)),
        lambda stub: stub.RevokeKey(pb.RevokeKeyRequest(key_id="key_00000000000", actor=ACTOR)),
        lambda stub: stub.GetUsage(pb.GetUsageRequest(caller=pb.Caller(user_id="nobody"))),
    ],
)
async def test_what_does_not_exist_is_not_found_and_nothing_changes(
    quota: Quota, call: Callable[[object], object]
) -> None:
    before = await quota.dump()
    refusal = await refused(call(quota.stub))
    assert (refusal.code, refusal.reason) == (StatusCode.NOT_FOUND, "NOT_FOUND")
    assert await quota.dump() == before


async def test_a_new_tier_acts_on_the_next_call(quota: Quota, new_id: NewId) -> None:
    user_id, key = await quota.user()
    for _ in range(10):
        await quota.reserve(key, new_id())
    assert (await refused(quota.reserve(key, new_id()))).reason == "USER_LIMIT_EXCEEDED"
    changed = await set_tier(quota, user_id, "pro")
    assert (changed.previous_tier, changed.user.tier, changed.user.tier_version) == ("free", "pro", 2)
    reserved = await quota.reserve(key, new_id())
    assert (reserved.usage.used, reserved.usage.limit) == (11, 500)
    assert (reserved.user.tier_version, reserved.tier.outstanding) == (2, 100)
    await set_tier(quota, user_id, "free")
    refusal = await refused(quota.reserve(key, new_id()))
    assert refusal.message == "Daily limit of 10 requests reached"
    exceeded = refusal.detail(pb.LimitExceeded)
    assert exceeded is not None
    assert (exceeded.usage.used, exceeded.usage.limit) == (11, 10)


async def test_tiers_are_listed_lowest_first(quota: Quota) -> None:
    tiers = (await quota.stub.ListTiers(pb.ListTiersRequest())).tiers
    assert [(t.name, t.requests_per_day, t.outstanding, t.share, t.price) for t in tiers] == [
        ("free", 10, 10, 1, "$0"),
        ("basic", 100, 25, 2, "$15/month"),
        ("pro", 500, 100, 4, "$79/month"),
        ("enterprise", 5000, 1000, 8, "custom"),
    ]
    assert [t.all_models for t in tiers] == [False, False, True, True]
    assert [t.HasField("price_nano_usd_per_month") for t in tiers] == [True, True, True, False]


async def test_every_admin_action_is_audited_once_and_repeats_are_not(quota: Quota) -> None:
    made = await quota.stub.CreateUser(pb.CreateUserRequest(user_id="ann", actor="admin:1"))
    for _ in range(2):
        await set_tier(quota, "ann", "pro")
        await set_status(quota, "ann", pb.USER_STATUS_SUSPENDED)
        await quota.stub.RevokeKey(pb.RevokeKeyRequest(key_id=made.key.key_id, actor="admin:2"))
    key_id = made.key.key_id
    rows = await quota.rows("SELECT time_ms, actor, action, subject, old, new FROM quota_audit ORDER BY number")
    assert [tuple(row) for row in rows] == [
        (NOON_MS, "admin:1", "user.create", "ann", "", "free"),
        (NOON_MS, "admin:1", "key.create", "ann", "", key_id),
        (NOON_MS, ACTOR, "user.tier", "ann", "free", "pro"),
        (NOON_MS, ACTOR, "user.status", "ann", "active", "suspended"),
        (NOON_MS, "admin:2", "key.revoke", "ann", key_id, ""),
    ]


class TestTierChanges:
    """What the scheduler hears of tier changes."""

    async def test_a_change_is_told_with_its_terms_and_forgotten(self, quota: Quota) -> None:
        user_id, _ = await quota.user()
        await set_tier(quota, user_id, "pro")
        assert await quota.service.tier_changes.deliver() is False
        told = quota.scheduler.tiers[user_id]
        assert (told.name, told.version, told.share, told.outstanding) == ("pro", 2, 4, 100)
        assert await quota.rows("SELECT * FROM quota_outbox") == []
        await quota.service.tier_changes.deliver()
        assert len(quota.scheduler.deliveries) == 1

    async def test_a_lost_answer_is_delivered_again_and_the_newest_wins(self, quota: Quota) -> None:
        user_id, _ = await quota.user()
        await set_tier(quota, user_id, "pro")
        quota.scheduler.lose_answers = 1
        with pytest.raises(SchedulerUnreachable):
            await quota.service.tier_changes.deliver()
        await set_tier(quota, user_id, "basic")
        await quota.service.tier_changes.deliver()
        assert quota.scheduler.tiers[user_id].name == "basic"
        assert quota.scheduler.deliveries == [[user_id], [user_id]]
        assert await quota.rows("SELECT * FROM quota_outbox") == []

    async def test_a_change_made_during_a_delivery_is_not_forgotten(self, quota: Quota) -> None:
        (first, _), (second, _) = await quota.user(), await quota.user()
        await set_tier(quota, first, "pro")

        async def change_meanwhile() -> None:
            await set_tier(quota, second, "basic")
            await set_tier(quota, first, "basic")

        quota.scheduler.before_answer = change_meanwhile
        await quota.service.tier_changes.deliver()
        assert {user: terms.name for user, terms in quota.scheduler.tiers.items()} == {first: "pro"}
        await quota.service.tier_changes.deliver()
        assert {user: terms.name for user, terms in quota.scheduler.tiers.items()} == {first: "basic", second: "basic"}

    async def test_1200_changes_go_in_batches_of_500(self, quota: Quota) -> None:
        user_id, _ = await quota.user()
        for tier in ("basic", "pro") * 3:
            await set_tier(quota, user_id, tier)
        users = [f"user {i}" for i in range(1194)]
        await quota.database.write(
            lambda connection: (
                connection.exec_driver_sql(
                    "INSERT INTO quota_outbox (user_id, tier, tier_version, create_time_ms) VALUES "
                    + ", ".join(f"('{user}', 'pro', 2, 0)" for user in users)
                ).rowcount
            )
        )
        while await quota.service.tier_changes.deliver():
            pass
        assert [len(batch) for batch in quota.scheduler.deliveries] == [495, 500, 200]
        assert quota.scheduler.tiers[user_id].version == 7
        assert await quota.rows("SELECT * FROM quota_outbox") == []

    async def test_the_loop_backs_off_within_bounds_and_recovers(self, quota: Quota) -> None:
        user_id, _ = await quota.user()
        await set_tier(quota, user_id, "pro")
        scheduler = _FailsAtFirst(12)
        bounds: list[tuple[float, float]] = []

        def longest(low: float, high: float) -> float:
            bounds.append((low, high))
            return high

        store = SqlStore(quota.database)
        loop = asyncio.create_task(TierChangeDelivery(store, scheduler, quota.clock, longest).run())
        for _ in range(12):
            quota.clock.advance(int(await quota.clock.until_asleep()))
        assert await quota.clock.until_asleep() == 250
        assert bounds == [(0, min(10_000, 250 * 2**n)) for n in range(1, 13)]
        assert scheduler.told == [user_id]
        assert await quota.rows("SELECT * FROM quota_outbox") == []
        loop.cancel()
        await asyncio.wait([loop])
        assert loop.cancelled()


class _FailsAtFirst:
    def __init__(self, failures: int) -> None:
        self.failures, self.told = failures, list[str]()

    async def account(self, asked: Sequence[tuple[str, int]]) -> dict[str, Answer]:
        raise SchedulerUnreachable("not asked here")

    async def apply_tiers(self, changes: Sequence[TierChange]) -> None:
        if self.failures:
            self.failures -= 1
            raise SchedulerUnreachable("down")
        self.told += [change.user_id for change in changes]
