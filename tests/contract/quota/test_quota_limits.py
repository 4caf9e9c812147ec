"""Limits of users and of tiers, own terms, and what the scheduler hears of them, on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from grpc import StatusCode
from headgate.quota.v1 import quota_pb2 as pb

from services.clock import next_day_ms
from services.quota.plans import read_plans
from services.rpc.status import Refusal
from services.settings import config_dir
from tests.servers.quota import NOON_MS, Quota, refused, running_quota

NewId = Callable[[], str]
DAY_MS = 86_400_000


async def let_in(quota: Quota, key: str, new_id: NewId, calls: int) -> int:
    """How many of so many calls at once are let in; the others must be refused by a limit."""
    answers = await asyncio.gather(*(quota.reserve(key, new_id()) for _ in range(calls)), return_exceptions=True)
    admitted = [answer for answer in answers if isinstance(answer, pb.ReserveResponse)]
    assert all(a.code() is StatusCode.RESOURCE_EXHAUSTED for a in answers if not isinstance(a, pb.ReserveResponse))
    return len(admitted)


async def use(quota: Quota, user_id: str, **amounts: int) -> None:
    """Books what answers of today used."""
    ((day,),) = await quota.rows("SELECT max(day) FROM quota_days WHERE user_id = :id", id=user_id)
    added = ", ".join(f"{name} = {name} + {amount}" for name, amount in amounts.items())
    await quota.database.write(
        lambda connection: connection.exec_driver_sql(f"UPDATE quota_days SET {added} WHERE day = '{day}'").rowcount
    )


async def exceeded(quota: Quota, key: str, new_id: NewId) -> tuple[Refusal, pb.LimitExceeded]:
    before = await quota.dump()
    refusal = await refused(quota.reserve(key, new_id()))
    assert refusal.reason == "USER_LIMIT_EXCEEDED"
    detail = refusal.detail(pb.LimitExceeded)
    assert detail is not None
    assert await quota.dump() == before
    return refusal, detail


class TestExact:
    """However many ask at once, nobody gets one more than there is."""

    async def test_200_calls_at_once_on_30_a_minute_admit_exactly_30(self, quota: Quota, new_id: NewId) -> None:
        user_id, key = await quota.user("pro")
        await quota.limit(user_id, requests_per_minute=30)
        assert await let_in(quota, key, new_id, 200) == 30
        quota.clock.advance(59_999)
        assert await let_in(quota, key, new_id, 5) == 0
        quota.clock.advance(1)
        assert await let_in(quota, key, new_id, 200) == 30
        assert await quota.used(key) == 60

    async def test_200_calls_at_once_on_two_limits_admit_the_smaller(self, quota: Quota, new_id: NewId) -> None:
        user_id, key = await quota.user()
        await quota.limit(user_id, requests_per_minute=7)
        assert await let_in(quota, key, new_id, 200) == 7
        quota.clock.advance(60_000)
        assert await let_in(quota, key, new_id, 200) == 3
        assert await quota.used(key) == 10

    async def test_a_place_that_goes_back_stays_in_its_minute(self, quota: Quota, new_id: NewId) -> None:
        user_id, key = await quota.user()
        await quota.limit(user_id, requests_per_minute=1)
        id_ = (await quota.reserve(key, new_id())).request_id
        await quota.settle(id_, user_id, False)
        _, detail = await exceeded(quota, key, new_id)
        assert (detail.limit, detail.usage.used) == (pb.LIMIT_REQUESTS_PER_MINUTE, 0)

    async def test_repeats_take_no_place_of_a_minute(self, quota: Quota, new_id: NewId) -> None:
        user_id, key = await quota.user()
        await quota.limit(user_id, requests_per_minute=2)
        first, second = new_id(), new_id()
        for id_ in (first, first, first, second, second):
            await quota.reserve(key, id_)
        assert (await exceeded(quota, key, new_id))[1].used == 2

    async def test_a_clock_that_is_behind_counts_in_the_minute_that_has_begun(
        self, quota: Quota, new_id: NewId
    ) -> None:
        user_id, key = await quota.user()
        await quota.limit(user_id, requests_per_minute=2)
        await quota.reserve(key, new_id())
        quota.clock.advance(-60_000)
        await quota.reserve(key, new_id())
        assert (await exceeded(quota, key, new_id))[1].reset_time.ToMilliseconds() == NOON_MS + 60_000
        quota.clock.advance(60_000)
        await exceeded(quota, key, new_id)

    @pytest.mark.parametrize(
        ("term", "column"), [("tokens_per_day", "output_tokens"), ("spend_nano_usd_per_month", "cost_nano_usd")]
    )
    async def test_a_request_is_let_in_while_less_than_the_limit_is_used(
        self, quota: Quota, new_id: NewId, term: str, column: str
    ) -> None:
        user_id, key = await quota.user()
        await quota.limit(user_id, **{term: 1_000})
        await quota.reserve(key, new_id())
        await use(quota, user_id, **{column: 999})
        await quota.reserve(key, new_id())
        await use(quota, user_id, **{column: 1})
        assert await let_in(quota, key, new_id, 20) == 0
        await quota.limit(user_id, **{term: 1_001})
        assert await let_in(quota, key, new_id, 1) == 1

    async def test_tokens_of_all_kinds_count(self, quota: Quota, new_id: NewId) -> None:
        user_id, key = await quota.user()
        await quota.limit(user_id, tokens_per_day=4)
        await quota.reserve(key, new_id())
        await use(
            quota, user_id, input_tokens=1, output_tokens=1, cache_read_input_tokens=1, cache_write_input_tokens=1
        )
        assert (await exceeded(quota, key, new_id))[1].used == 4

    @pytest.mark.parametrize("term", ["requests_per_day", "tokens_per_day", "spend_nano_usd_per_month"])
    async def test_nothing_means_nothing_even_for_the_first_of_a_day(
        self, quota: Quota, new_id: NewId, term: str
    ) -> None:
        user_id, key = await quota.user()
        await quota.limit(user_id, **{term: 0})
        assert await let_in(quota, key, new_id, 20) == 0
        assert await quota.rows("SELECT * FROM quota_days") == []

    async def test_a_month_that_is_spent_refuses_the_first_of_a_day_until_it_is_over(
        self, quota: Quota, new_id: NewId
    ) -> None:
        user_id, key = await quota.user()
        await quota.limit(user_id, spend_nano_usd_per_month=10)
        quota.clock.advance(-DAY_MS)
        await quota.reserve(key, new_id())
        await use(quota, user_id, cost_nano_usd=1_000)
        quota.clock.advance(DAY_MS)
        await quota.reserve(key, new_id())
        await use(quota, user_id, cost_nano_usd=10)
        quota.clock.advance(30 * DAY_MS)
        refusal, detail = await exceeded(quota, key, new_id)
        assert (detail.limit, detail.used, detail.most) == (pb.LIMIT_SPEND_PER_MONTH, 10, 10)
        assert detail.reset_time.ToMilliseconds() == next_day_ms("2026-01-31")
        assert refusal.message == "Monthly limit of 10 nano-dollars reached"
        assert (detail.usage.used, detail.usage.limit) == (0, 10)
        quota.clock.advance(DAY_MS)
        assert (await quota.reserve(key, new_id())).reservation.day == "2026-02-01"

    async def test_what_another_user_spent_is_nobody_elses(self, quota: Quota, new_id: NewId) -> None:
        (first, key), (second, other) = await quota.user(), await quota.user()
        await quota.reserve(key, new_id())
        await use(quota, first, cost_nano_usd=1_000)
        await quota.limit(second, spend_nano_usd_per_month=10)
        assert (await quota.reserve(other, new_id())).usage.used == 1


class TestRefusals:
    """What is told when a limit is reached."""

    async def test_each_limit_has_its_sentence_and_the_days_requests_come_first(
        self, quota: Quota, new_id: NewId
    ) -> None:
        user_id, key = await quota.user()
        await quota.limit(
            user_id, requests_per_day=1, requests_per_minute=1, tokens_per_day=1, spend_nano_usd_per_month=1
        )
        await quota.reserve(key, new_id())
        await use(quota, user_id, input_tokens=31_200, cost_nano_usd=7)
        midnight = next_day_ms("2026-01-01")
        expected = [
            ("requests_per_day", "Daily limit of 1 requests reached", 1, midnight),
            ("requests_per_minute", "Limit of 1 requests a minute reached", 1, NOON_MS + 60_000),
            ("tokens_per_day", "Daily limit of 1 tokens reached", 31_200, midnight),
            ("spend_nano_usd_per_month", "Monthly limit of 1 nano-dollars reached", 7, next_day_ms("2026-01-31")),
        ]
        for number, (term, sentence, used, reset_time_ms) in enumerate(expected, 1):
            refusal, detail = await exceeded(quota, key, new_id)
            assert (refusal.message, detail.limit, detail.used, detail.most) == (sentence, number, used, 1)
            assert detail.reset_time.ToMilliseconds() == reset_time_ms
            assert not detail.HasField("next_tier"), "another tier changes nothing of the user's own terms"
            await quota.limit(user_id, **{term: None})
        await quota.reserve(key, new_id())

    async def test_the_next_tier_is_one_that_gives_more_of_that_limit(self, database_url: str, new_id: NewId) -> None:
        text = (config_dir() / "plans.yaml").read_text()
        text = text.replace("name: free\n", "name: free\n    requests_per_minute: 2\n    tokens_per_day: 9\n")
        text = text.replace("name: basic\n", "name: basic\n    tokens_per_day: 9\n")
        async with running_quota(database_url, read_plans(text, "plans.yaml")) as quota:
            user_id, key = await quota.user()
            assert await let_in(quota, key, new_id, 20) == 2
            _, detail = await exceeded(quota, key, new_id)
            assert (detail.limit, detail.tier.requests_per_minute) == (pb.LIMIT_REQUESTS_PER_MINUTE, 2)
            assert (detail.next_tier.name, detail.next_tier.HasField("requests_per_minute")) == ("basic", False)
            await use(quota, user_id, input_tokens=9)
            quota.clock.advance(60_000)
            _, detail = await exceeded(quota, key, new_id)
            assert (detail.limit, detail.next_tier.name) == (pb.LIMIT_TOKENS_PER_DAY, "pro"), "basic gives as little"
            await quota.stub.SetUserTier(pb.SetUserTierRequest(user_id=user_id, tier="pro", actor="a"))
            assert (await quota.reserve(key, new_id())).usage.limit == 500


class TestOwnTerms:
    """What an administrator agrees on with one user."""

    async def test_they_replace_the_tiers_everywhere_and_are_taken_back(self, quota: Quota, new_id: NewId) -> None:
        user_id, key = await quota.user()
        caller = pb.Caller(api_key=key)
        await quota.limit(user_id, requests_per_day=3, outstanding=7, price_nano_usd_per_month=5)
        answers = [
            await quota.stub.Authenticate(pb.AuthenticateRequest(caller=caller)),
            await quota.reserve(key, new_id()),
            await quota.stub.GetUsage(pb.GetUsageRequest(caller=caller)),
            await quota.stub.GetUser(pb.GetUserRequest(user_id=user_id)),
        ]
        own = pb.UserLimits(requests_per_day=3, outstanding=7, price_nano_usd_per_month=5)
        assert [answer.user.limits for answer in answers] == [own] * 4
        assert {(a.tier.requests_per_day, a.tier.outstanding, a.tier.price) for a in answers} == {(3, 7, "$0")}
        assert {answer.usage.limit for answer in answers[1:]} == {3}
        assert await let_in(quota, key, new_id, 20) == 2
        user = await quota.limit(user_id, requests_per_day=None, outstanding=None, price_nano_usd_per_month=None)
        assert not user.HasField("limits")
        assert await let_in(quota, key, new_id, 20) == 7

    async def test_only_the_named_fields_change_and_without_names_all_do(self, quota: Quota) -> None:
        user_id, _ = await quota.user()
        await quota.limit(user_id, requests_per_day=3, tokens_per_day=0)
        kept = await quota.limit(user_id, outstanding=7)
        assert kept.limits == pb.UserLimits(requests_per_day=3, tokens_per_day=0, outstanding=7)
        ignored = pb.SetUserLimitsRequest(
            user_id=user_id, limits={"outstanding": 8, "requests_per_day": 4}, fields=["outstanding"], actor="a"
        )
        assert (await quota.stub.SetUserLimits(ignored)).user.limits.requests_per_day == 3
        all_ = pb.SetUserLimitsRequest(user_id=user_id, limits={"requests_per_minute": 9}, actor="a")
        assert (await quota.stub.SetUserLimits(all_)).user.limits == pb.UserLimits(requests_per_minute=9)

    async def test_a_change_is_audited_once_with_what_was_and_is(self, quota: Quota) -> None:
        user_id, _ = await quota.user()
        for _ in range(2):
            await quota.limit(user_id, requests_per_day=3, spend_nano_usd_per_month=10**18)
        await quota.limit(user_id, requests_per_day=None)
        rows = await quota.rows(
            "SELECT actor, subject, old, new FROM quota_audit WHERE action = 'user.limits' ORDER BY number"
        )
        both, one = f"requests_per_day=3 spend_nano_usd_per_month={10**18}", f"spend_nano_usd_per_month={10**18}"
        assert rows == [("admin:test", user_id, "", both), ("admin:test", user_id, both, one)]

    async def test_a_price_of_their_own_is_noted_from_when_it_holds(self, quota: Quota) -> None:
        user_id, _ = await quota.user("pro")
        quota.clock.advance(5)
        await quota.limit(user_id, price_nano_usd_per_month=7, requests_per_day=3)
        quota.clock.advance(5)
        await quota.limit(user_id, requests_per_day=4)
        await quota.limit(user_id, price_nano_usd_per_month=None)
        rows = await quota.rows("SELECT from_ms, tier, own_price_nano_usd_per_month FROM quota_terms ORDER BY number")
        assert rows == [(NOON_MS, "pro", None), (NOON_MS + 5, "pro", 7), (NOON_MS + 10, "pro", None)]

    async def test_changes_at_once_lose_none(self, quota: Quota) -> None:
        user_id, _ = await quota.user()
        names = [field.name for field in pb.UserLimits.DESCRIPTOR.fields]
        await asyncio.gather(*(quota.limit(user_id, **{name: n + 1}) for n, name in enumerate(names)))
        found = await quota.stub.GetUser(pb.GetUserRequest(user_id=user_id))
        assert found.user.limits == pb.UserLimits(**{name: n + 1 for n, name in enumerate(names)})
        assert found.user.tier_version == 3, "two of them are the scheduler's to keep"

    async def test_what_the_scheduler_keeps_to_is_told_as_a_change_of_tier_is(self, quota: Quota) -> None:
        user_id, _ = await quota.user()
        for own in ({"requests_per_day": 3}, {"price_nano_usd_per_month": 5}, {"tokens_per_day": 9}):
            assert (await quota.limit(user_id, **own)).tier_version == 1
        await quota.service.tier_changes.deliver()
        assert quota.scheduler.deliveries == []
        assert (await quota.limit(user_id, outstanding=7)).tier_version == 2
        await quota.service.tier_changes.deliver()
        told = quota.scheduler.tiers[user_id]
        assert (told.name, told.version, told.share, told.outstanding) == ("free", 2, 1, 7)
        assert not told.HasField("user_spend_nano_usd_per_day")
        assert (await quota.limit(user_id, spend_nano_usd_per_day=0)).tier_version == 3
        await quota.stub.SetUserTier(pb.SetUserTierRequest(user_id=user_id, tier="pro", actor="a"))
        await quota.service.tier_changes.deliver()
        told = quota.scheduler.tiers[user_id]
        assert (told.name, told.version, told.share, told.outstanding) == ("pro", 4, 4, 7)
        assert (told.HasField("user_spend_nano_usd_per_day"), told.user_spend_nano_usd_per_day) == (True, 0)
        await quota.limit(user_id, outstanding=None, spend_nano_usd_per_day=None)
        await quota.service.tier_changes.deliver()
        told = quota.scheduler.tiers[user_id]
        assert (told.version, told.outstanding, told.HasField("user_spend_nano_usd_per_day")) == (5, 100, False)

    async def test_the_tiers_spend_of_a_day_is_told_too(self, database_url: str) -> None:
        text = (config_dir() / "plans.yaml").read_text()
        text = text.replace("name: pro\n", "name: pro\n    spend_nano_usd_per_day: 12\n")
        async with running_quota(database_url, read_plans(text, "plans.yaml")) as quota:
            user_id, key = await quota.user()
            await quota.limit(user_id, spend_nano_usd_per_day=5)
            await quota.stub.SetUserTier(pb.SetUserTierRequest(user_id=user_id, tier="pro", actor="a"))
            await quota.service.tier_changes.deliver()
            told = quota.scheduler.tiers[user_id]
            assert (told.user_spend_nano_usd_per_day, told.tier_spend_nano_usd_per_day) == (5, 12)
            answer = await quota.stub.Authenticate(pb.AuthenticateRequest(caller=pb.Caller(api_key=key)))
            assert answer.tier.spend_nano_usd_per_day == 12
