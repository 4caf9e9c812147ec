"""The reservation protocol through the real service, on both databases, against lost, doubled and late messages."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc import StatusCode
from headgate.quota.v1 import quota_pb2 as pb
from sqlalchemy import event

from services import sql
from services.clock import next_day_ms, utc_day
from services.ids import derived_key, keyed_id
from services.quota.model import Charge, ChargeKey
from services.quota.ports import SchedulerUnreachable
from services.quota.store import SqlTransaction
from tests.servers.quota import NOON_MS, SECRET, Quota, refused, running_quota

PENDING, COUNTED = pb.RESERVATION_STATE_PENDING, pb.RESERVATION_STATE_COUNTED
GIVEN_BACK, ABSENT = pb.RESERVATION_STATE_GIVEN_BACK, pb.RESERVATION_STATE_ABSENT
NewId = Callable[[], str]
MakeCharge = Callable[..., pb.Charge]
DAY_MS = 86_400_000


async def resolve(quota: Quota, request_id: str, generation: int = 1) -> pb.Reservation:
    answer = await quota.stub.Resolve(pb.ResolveRequest(request_id=request_id, generation=generation))
    return answer.reservation


async def test_200_calls_at_once_on_a_limit_of_10_admit_exactly_10(quota: Quota, new_id: NewId) -> None:
    user_id, key = await quota.user()
    calls = [quota.reserve(key, new_id()) for _ in range(200)]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    admitted = [answer for answer in answers if isinstance(answer, pb.ReserveResponse)]
    assert sorted(answer.usage.used for answer in admitted) == list(range(1, 11))
    assert all(a.code() is StatusCode.RESOURCE_EXHAUSTED for a in answers if not isinstance(a, pb.ReserveResponse))
    assert await quota.rows("SELECT user_id, used FROM quota_days") == [(user_id, 10)]
    assert len(await quota.rows("SELECT request_id FROM quota_reservations")) == 10


async def test_20_calls_at_once_with_one_idempotency_key_take_one_place(quota: Quota) -> None:
    user_id, key = await quota.user()
    answers = await asyncio.gather(*(quota.reserve(key, idempotency_key="order 7") for _ in range(20)))
    expected = keyed_id("req_", derived_key(SECRET, "request-id"), user_id, "order 7")
    assert {answer.request_id for answer in answers} == {expected}
    assert sorted(answer.reservation.generation for answer in answers) == list(range(1, 21))
    assert await quota.used(key) == 1


# SQLite has one writer.
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_a_known_request_of_a_fold_is_waited_for_with_no_day_in_hand(
    database_url: str, new_id: NewId, charge: MakeCharge, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Else the fold has ann's day and waits for bob's reservation, and the settlement the other way round.
    monkeypatch.setattr(sql, "POSTGRES_FOLDERS", 1)
    at_days, settling, door = threading.Event(), threading.Event(), threading.Event()
    take, insert = SqlTransaction.take_place, SqlTransaction.insert_charges

    def taken(tx: SqlTransaction, *place: Any) -> int | None:
        used = take(tx, *place)
        at_days.set()
        assert settling.wait(20)
        return used

    def inserted(tx: SqlTransaction, charges: Sequence[Charge]) -> set[ChargeKey]:
        made = insert(tx, charges)
        settling.set()
        return made

    async with running_quota(database_url) as quota:
        keys = {user: (await quota.user("pro", user))[1] for user in ("ann", "bob")}
        ids = {user: (await quota.reserve(key, new_id())).request_id for user, key in keys.items()}
        failed: list[object] = []
        event.listen(quota.database.engine, "handle_error", lambda context: failed.append(context.original_exception))
        monkeypatch.setattr(SqlTransaction, "take_place", taken)
        monkeypatch.setattr(SqlTransaction, "insert_charges", inserted)
        waiting = [quota.database.write(lambda _: door.wait(20), fold="a")]
        waiting += [quota.reserve(keys["ann"], new_id()), quota.reserve(keys["bob"], ids["bob"])]
        folded = [asyncio.ensure_future(call) for call in waiting]
        async with asyncio.timeout(20):
            while quota.database._folds.qsize() < 2:
                await asyncio.sleep(0)
        door.set()
        assert await asyncio.to_thread(at_days.wait, 20)
        ends = [pb.Settlement(request_id=id_, user_id=user, final=True, counted=True, charges=[charge()])
                for user, id_ in ids.items()]  # fmt: skip
        await quota.stub.Settle(pb.SettleRequest(settlements=ends))
        _, fresh, known = await asyncio.gather(*folded)
        assert (fresh.reservation.state, known.reservation.state) == (PENDING, COUNTED)
        assert failed == []


async def test_one_idempotency_key_of_two_users_is_two_requests(quota: Quota) -> None:
    (_, first), (_, second) = await quota.user(), await quota.user()
    one = await quota.reserve(first, idempotency_key="same")
    assert one.request_id != (await quota.reserve(second, idempotency_key="same")).request_id
    assert one.request_id == (await quota.reserve(first, idempotency_key="same")).request_id


async def test_another_users_request_id_is_not_found(quota: Quota, new_id: NewId) -> None:
    (_, first), (_, second) = await quota.user(), await quota.user()
    taken = (await quota.reserve(first, new_id())).request_id
    before = await quota.dump()
    assert (await refused(quota.reserve(second, taken))).reason == "NOT_FOUND"
    assert await quota.dump() == before


async def test_the_refusal_at_the_limit_says_what_a_user_needs(quota: Quota, new_id: NewId) -> None:
    user_id, key = await quota.user()
    for _ in range(10):
        await quota.reserve(key, new_id())
    before = await quota.dump()
    refusal = await refused(quota.reserve(key, new_id()))
    assert (refusal.code, refusal.reason, refusal.domain) == (
        StatusCode.RESOURCE_EXHAUSTED,
        "USER_LIMIT_EXCEEDED",
        "quota.headgate",
    )
    assert refusal.message == "Daily limit of 10 requests reached"
    exceeded = refusal.detail(pb.LimitExceeded)
    assert exceeded is not None
    assert (exceeded.usage.used, exceeded.usage.limit) == (10, 10)
    assert exceeded.usage.reset_time.ToMilliseconds() == next_day_ms("2026-01-01")
    assert (exceeded.tier.name, exceeded.next_tier.name) == ("free", "basic")
    assert (exceeded.next_tier.requests_per_day, exceeded.next_tier.price) == (100, "$15/month")
    violations = refusal.detail(error_details_pb2.QuotaFailure).violations
    assert [violation.subject for violation in violations] == [f"user:{user_id}"]
    assert await quota.dump() == before


async def test_the_top_tier_has_no_next_tier(quota: Quota, new_id: NewId) -> None:
    _, key = await quota.user("enterprise")
    await quota.reserve(key, new_id())
    await quota.database.write(
        lambda connection: connection.exec_driver_sql("UPDATE quota_days SET used = 5000").rowcount
    )
    exceeded = (await refused(quota.reserve(key, new_id()))).detail(pb.LimitExceeded)
    assert exceeded is not None
    assert not exceeded.HasField("next_tier")
    assert exceeded.tier.name == "enterprise"
    assert not exceeded.tier.HasField("price_nano_usd_per_month")


async def test_a_pending_reservation_is_kept_and_its_generation_raised(quota: Quota, new_id: NewId) -> None:
    _, key = await quota.user()
    id_ = new_id()
    generations = [(await quota.reserve(key, id_)).reservation.generation for _ in range(3)]
    assert generations == [1, 2, 3]
    assert await quota.used(key) == 1


@pytest.mark.parametrize(("counted", "state", "used"), [(True, COUNTED, 1), (False, GIVEN_BACK, 0)])
async def test_a_settled_reservation_is_final(
    quota: Quota, new_id: NewId, counted: bool, state: int, used: int
) -> None:
    user_id, key = await quota.user()
    id_ = (await quota.reserve(key, new_id())).request_id
    # Doubled, late and contradicting: the first word holds.
    for word in (counted, counted, not counted):
        await quota.settle(id_, user_id, word)
    again = await quota.reserve(key, id_)
    assert (again.reservation.state, again.reservation.generation) == (state, 1)
    assert again.usage.used == await quota.used(key) == used
    assert (await resolve(quota, id_)).state == state
    assert quota.scheduler.asked == []


async def test_a_known_request_needs_no_place_when_the_day_is_full(quota: Quota, new_id: NewId) -> None:
    user_id, key = await quota.user()
    ids = [(await quota.reserve(key, new_id())).request_id for _ in range(10)]
    await quota.settle(ids[0], user_id, True)
    assert (await quota.reserve(key, ids[0])).reservation.state == COUNTED
    assert (await quota.reserve(key, ids[1])).reservation.generation == 2
    assert (await quota.reserve(key, ids[1])).usage.used == 10
    assert (await refused(quota.reserve(key, new_id()))).reason == "USER_LIMIT_EXCEEDED"


async def test_a_contradiction_inside_one_batch_counts_once(quota: Quota, new_id: NewId) -> None:
    user_id, key = await quota.user()
    id_ = (await quota.reserve(key, new_id())).request_id
    words = [pb.Settlement(request_id=id_, user_id=user_id, final=True, counted=word) for word in (False, True, False)]
    await quota.stub.Settle(pb.SettleRequest(settlements=words))
    assert (await quota.reserve(key, id_)).reservation.state == GIVEN_BACK
    assert await quota.used(key) == 0


async def test_settlements_at_once_give_each_place_back_once(quota: Quota, new_id: NewId) -> None:
    users = [await quota.user() for _ in range(3)]
    ends = []
    for user_id, key in users:
        for _ in range(8):
            id_ = (await quota.reserve(key, new_id())).request_id
            ends.append(pb.Settlement(request_id=id_, user_id=user_id, final=True))
    # Each batch in another order, so that they would lock each other out if locks were taken as they come.
    batches = [random.Random(seed).sample(ends, len(ends)) for seed in range(12)]
    await asyncio.gather(*(quota.stub.Settle(pb.SettleRequest(settlements=batch)) for batch in batches))
    assert [await quota.used(key) for _, key in users] == [0, 0, 0]


async def test_a_full_batch_of_500_settles(quota: Quota, new_id: NewId, charge: MakeCharge) -> None:
    user_id, key = await quota.user("pro")
    answers = await asyncio.gather(*(quota.reserve(key, new_id()) for _ in range(500)))
    settlements = [
        pb.Settlement(request_id=a.request_id, user_id=user_id, final=True, counted=i % 2 == 0, charges=[charge()])
        for i, a in enumerate(answers)
    ]
    await quota.stub.Settle(pb.SettleRequest(settlements=settlements))
    assert await quota.used(key) == 250
    assert await quota.rows("SELECT count(*), sum(cost_nano_usd) FROM quota_charges") == [(500, 500 * 350_000)]


async def test_a_settlement_that_only_tells_charges_ends_nothing(
    quota: Quota, new_id: NewId, charge: MakeCharge
) -> None:
    user_id, key = await quota.user()
    id_ = (await quota.reserve(key, new_id())).request_id
    told = pb.Settlement(request_id=id_, user_id=user_id, counted=True, charges=[charge()])
    await quota.stub.Settle(pb.SettleRequest(settlements=[told]))
    assert (await quota.reserve(key, id_)).reservation.state == PENDING
    assert len(await quota.rows("SELECT * FROM quota_charges")) == 1


async def test_a_settlement_of_an_unknown_reservation_keeps_its_charges(
    quota: Quota, new_id: NewId, charge: MakeCharge
) -> None:
    id_ = new_id()
    await quota.settle(id_, "somebody", True, charge(cost_nano_usd=7), charge(turn=2, cost_nano_usd=8))
    kept = await quota.rows("SELECT request_id, user_id, turn, cost_nano_usd, day FROM quota_charges ORDER BY turn")
    assert kept == [(id_, "somebody", 1, 7, "2026-01-01"), (id_, "somebody", 2, 8, "2026-01-01")]
    assert await quota.rows("SELECT used, requests, cost_nano_usd FROM quota_days") == [(0, 0, 15)]


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        ([(True, 10), (False, 20)], (False, 20)),
        ([(False, 20), (True, 10)], (False, 20)),
        ([(False, 20), (False, 30)], (False, 20)),
        ([(True, 10), (True, 30)], (True, 10)),
    ],
)
@pytest.mark.parametrize("together", [True, False])
async def test_a_reported_charge_replaces_an_estimate_and_never_the_other_way(
    quota: Quota,
    new_id: NewId,
    charge: MakeCharge,
    told: list[tuple[bool, int]],
    kept: tuple[bool, int],
    together: bool,
) -> None:
    id_ = new_id()
    charges = [charge(estimated=estimated, cost_nano_usd=cost, output_tokens=cost) for estimated, cost in told]
    for batch in [charges] if together else [[one] for one in charges]:
        await quota.settle(id_, "somebody", True, *batch)
    rows = await quota.rows("SELECT estimated, cost_nano_usd, output_tokens FROM quota_charges")
    assert [(bool(e), c, o) for e, c, o in rows] == [(*kept, kept[1])]


class TestDays:
    """A place belongs to the UTC day of the Reserve that took it."""

    async def test_the_day_changes_at_midnight_utc(self, quota: Quota, new_id: NewId) -> None:
        _, key = await quota.user()
        quota.clock.advance(next_day_ms("2026-01-01") - NOON_MS - 1)
        last = [await quota.reserve(key, new_id()) for _ in range(10)]
        assert {answer.reservation.day for answer in last} == {"2026-01-01"}
        assert (await refused(quota.reserve(key, new_id()))).reason == "USER_LIMIT_EXCEEDED"
        quota.clock.advance(1)
        first = await quota.reserve(key, new_id())
        assert (first.reservation.day, first.usage.used) == ("2026-01-02", 1)
        assert first.usage.reset_time.ToMilliseconds() == next_day_ms("2026-01-02")

    async def test_a_pending_place_keeps_its_day_and_goes_back_to_it(self, quota: Quota, new_id: NewId) -> None:
        user_id, key = await quota.user()
        id_ = (await quota.reserve(key, new_id())).request_id
        quota.clock.advance(DAY_MS)
        again = await quota.reserve(key, id_)
        assert (again.reservation.day, again.reservation.generation, again.usage.used) == ("2026-01-01", 2, 0)
        await quota.reserve(key, new_id())
        await quota.settle(id_, user_id, False)
        assert await quota.rows("SELECT day, used FROM quota_days ORDER BY day") == [
            ("2026-01-01", 0),
            ("2026-01-02", 1),
        ]

    async def test_an_absent_one_takes_a_place_of_today(self, quota: Quota, new_id: NewId) -> None:
        _, key = await quota.user()
        id_ = (await quota.reserve(key, new_id())).request_id
        assert (await resolve(quota, id_)).state == ABSENT
        quota.clock.advance(DAY_MS)
        again = (await quota.reserve(key, id_)).reservation
        assert (again.state, again.day, again.generation) == (PENDING, "2026-01-02", 2)
        assert await quota.rows("SELECT day, used FROM quota_days ORDER BY day") == [
            ("2026-01-01", 0),
            ("2026-01-02", 1),
        ]


class TestResolve:
    """What became of a reservation is found out by asking."""

    async def test_an_absent_request_gives_its_place_back_and_may_come_again(self, quota: Quota, new_id: NewId) -> None:
        _, key = await quota.user()
        id_ = (await quota.reserve(key, new_id())).request_id
        assert (await resolve(quota, id_)).state == ABSENT
        assert await quota.used(key) == 0
        assert not quota.scheduler.submit(id_, 1), "the tombstone refuses the late Submit"
        again = await quota.reserve(key, id_)
        assert (again.reservation.generation, again.usage.used) == (2, 1)
        assert quota.scheduler.submit(id_, 2)

    async def test_an_absent_one_finds_no_place_on_a_full_day(self, quota: Quota, new_id: NewId) -> None:
        _, key = await quota.user()
        id_ = (await quota.reserve(key, new_id())).request_id
        await resolve(quota, id_)
        for _ in range(10):
            await quota.reserve(key, new_id())
        before = await quota.dump()
        assert (await refused(quota.reserve(key, id_))).reason == "USER_LIMIT_EXCEEDED"
        assert await quota.dump() == before

    async def test_a_place_goes_back_only_at_the_generation_asked_about(self, quota: Quota, new_id: NewId) -> None:
        _, key = await quota.user()
        id_ = (await quota.reserve(key, new_id())).request_id

        async def retry_meanwhile() -> None:
            generation = (await quota.reserve(key, id_)).reservation.generation
            assert quota.scheduler.submit(id_, generation), "the tombstone is of generation 1 only"

        quota.scheduler.before_answer = retry_meanwhile
        kept = await resolve(quota, id_)
        assert (kept.state, kept.generation) == (PENDING, 2)
        assert await quota.used(key) == 1, "the request runs, so it must hold its place"

    async def test_an_old_generation_asks_about_that_one_and_keeps_the_place(self, quota: Quota, new_id: NewId) -> None:
        _, key = await quota.user()
        id_ = new_id()
        await quota.reserve(key, id_)
        await quota.reserve(key, id_)
        kept = await resolve(quota, id_, generation=1)
        assert (kept.state, kept.generation) == (PENDING, 2)
        assert quota.scheduler.asked == [[(id_, 1)]]
        assert quota.scheduler.submit(id_, 2)

    async def test_a_generation_that_was_never_given_puts_up_no_tombstone(self, quota: Quota, new_id: NewId) -> None:
        _, key = await quota.user()
        id_ = (await quota.reserve(key, new_id())).request_id
        refusal = await refused(resolve(quota, id_, generation=2))
        assert (refusal.reason, refusal.metadata["field"]) == ("INVALID_REQUEST", "generation")
        assert quota.scheduler.submit(id_, 1)

    async def test_a_live_request_is_kept_and_not_asked_about_again(self, quota: Quota, new_id: NewId) -> None:
        _, key = await quota.user()
        id_ = (await quota.reserve(key, new_id())).request_id
        quota.scheduler.submit(id_, 1)
        for _ in range(2):
            assert (await resolve(quota, id_)).state == PENDING
        quota.clock.advance(DAY_MS)
        await quota.service.resolver.resolve_all()
        assert quota.scheduler.asked == [[(id_, 1)]]
        assert await quota.rows("SELECT used FROM quota_days") == [(1,)]

    @pytest.mark.parametrize(("counted", "state", "used"), [(True, COUNTED, 1), (False, GIVEN_BACK, 0)])
    async def test_an_ended_request_settles_as_it_ended(
        self, quota: Quota, new_id: NewId, counted: bool, state: int, used: int
    ) -> None:
        user_id, key = await quota.user()
        id_ = (await quota.reserve(key, new_id())).request_id
        quota.scheduler.requests[id_] = counted
        assert (await resolve(quota, id_)).state == state
        await quota.settle(id_, user_id, counted)
        assert await quota.used(key) == used

    async def test_a_settlement_that_comes_first_holds(self, quota: Quota, new_id: NewId) -> None:
        user_id, key = await quota.user()
        id_ = (await quota.reserve(key, new_id())).request_id

        async def settle_meanwhile() -> None:
            await quota.settle(id_, user_id, True)

        quota.scheduler.before_answer = settle_meanwhile
        assert (await resolve(quota, id_)).state == COUNTED
        assert await quota.used(key) == 1

    async def test_two_who_resolve_at_once_give_one_place_back(self, quota: Quota, new_id: NewId) -> None:
        _, key = await quota.user()
        id_ = (await quota.reserve(key, new_id())).request_id
        await quota.reserve(key, new_id())
        states = await asyncio.gather(*(resolve(quota, id_) for _ in range(10)))
        assert {row.state for row in states} == {ABSENT}
        assert await quota.used(key) == 1

    async def test_a_late_settlement_of_an_absent_one_takes_nothing(self, quota: Quota, new_id: NewId) -> None:
        user_id, key = await quota.user()
        id_ = (await quota.reserve(key, new_id())).request_id
        await resolve(quota, id_)
        await quota.settle(id_, user_id, True)
        await quota.settle(id_, user_id, False)
        assert await quota.used(key) == 0
        assert (await resolve(quota, id_)).state == ABSENT

    async def test_an_unreachable_scheduler_keeps_the_place(self, quota: Quota, new_id: NewId) -> None:
        _, key = await quota.user()
        id_ = (await quota.reserve(key, new_id())).request_id
        quota.scheduler.down = True
        assert (await resolve(quota, id_)).state == PENDING
        assert await quota.used(key) == 1

    async def test_a_lost_answer_keeps_the_place_until_asked_again(self, quota: Quota, new_id: NewId) -> None:
        _, key = await quota.user()
        id_ = (await quota.reserve(key, new_id())).request_id
        quota.scheduler.lose_answers = 1
        assert (await resolve(quota, id_)).state == PENDING
        assert quota.scheduler.tombstones == {id_: 1}
        assert (await resolve(quota, id_)).state == ABSENT
        assert await quota.used(key) == 0

    async def test_an_unknown_reservation_is_not_found(self, quota: Quota, new_id: NewId) -> None:
        assert (await refused(resolve(quota, new_id()))).reason == "NOT_FOUND"
        assert quota.scheduler.asked == []


class TestResolver:
    """The loop that asks about what nobody settled."""

    async def test_it_asks_only_about_what_is_a_minute_old(self, quota: Quota, new_id: NewId) -> None:
        _, key = await quota.user()
        old = (await quota.reserve(key, new_id())).request_id
        renewed = (await quota.reserve(key, new_id())).request_id
        quota.clock.advance(1000)
        await quota.reserve(key, renewed)
        quota.clock.advance(59_000)
        await quota.service.resolver.resolve_all()
        assert quota.scheduler.asked == [], "neither is older than a minute"
        quota.clock.advance(1)
        await quota.service.resolver.resolve_all()
        assert quota.scheduler.asked == [[(old, 1)]]
        quota.clock.advance(1000)
        await quota.service.resolver.resolve_all()
        assert quota.scheduler.asked[1:] == [[(renewed, 2)]]
        assert await quota.used(key) == 0

    async def test_it_sorts_what_it_finds_and_asks_in_batches_of_500(self, quota: Quota, new_id: NewId) -> None:
        _, key = await quota.user("enterprise")
        answers = await asyncio.gather(*(quota.reserve(key, new_id()) for _ in range(1001)))
        ids = [answer.request_id for answer in answers]
        quota.scheduler.requests.update({ids[0]: None, ids[1]: True, ids[2]: False})
        quota.clock.advance(60_001)
        await quota.service.resolver.resolve_all()
        assert [len(batch) for batch in quota.scheduler.asked] == [500, 500, 1]
        states = await quota.rows("SELECT state, count(*) FROM quota_reservations GROUP BY state")
        assert dict(map(tuple, states)) == {"pending": 1, "counted": 1, "given_back": 1, "absent": 998}
        assert await quota.used(key) == 2
        await quota.service.resolver.resolve_all()
        assert len(quota.scheduler.asked) == 3, "nothing is left to ask about"

    async def test_it_keeps_everything_while_the_scheduler_is_down(self, quota: Quota, new_id: NewId) -> None:
        _, key = await quota.user()
        await quota.reserve(key, new_id())
        quota.clock.advance(DAY_MS * 30)
        quota.scheduler.down = True
        with pytest.raises(SchedulerUnreachable):
            await quota.service.resolver.resolve_all()
        assert await quota.rows("SELECT state FROM quota_reservations") == [("pending",)]
        assert await quota.rows("SELECT used FROM quota_days") == [(1,)]

    async def test_it_runs_every_ten_seconds_and_survives_a_failure(self, quota: Quota, new_id: NewId) -> None:
        _, key = await quota.user()
        id_ = (await quota.reserve(key, new_id())).request_id
        quota.scheduler.lose_answers = 1
        loop = asyncio.create_task(quota.service.resolver.run())
        for _ in range(8):
            assert await quota.clock.until_asleep() == 10_000
            quota.clock.advance(10_000)
        await quota.clock.until_asleep()
        assert quota.scheduler.asked == [[(id_, 1)], [(id_, 1)]]
        assert await quota.used(key) == 0
        loop.cancel()
        await asyncio.wait([loop])
        assert loop.cancelled()


@pytest.mark.parametrize("seed", range(6))
async def test_any_mix_of_lost_doubled_and_late_messages_counts_each_request_once(
    quota: Quota, new_id: NewId, seed: int
) -> None:
    walk = _Walk(quota, *(await quota.user()), random.Random(seed), new_id)
    for _ in range(150):
        await walk.step()
    await walk.come_to_rest()
    assert walk.ids, "the walk went somewhere"


class _Walk:
    """A client, a network and a scheduler that do whatever the contract allows, checked after every step."""

    def __init__(self, quota: Quota, user_id: str, key: str, chance: random.Random, new_id: NewId) -> None:
        self.quota, self.user_id, self.key, self.chance, self.new_id = quota, user_id, key, chance, new_id
        self.ids: list[str] = []
        self.in_flight: list[tuple[str, int]] = []
        self.outbox: list[tuple[str, bool]] = []

    async def step(self) -> None:
        actions = [self.reserve] * 4 + [self.submit] * 4 + [self.end] * 2 + [self.settle] * 2
        await self.chance.choice([*actions, self.resolve, self.resolve, self.let_time_pass])()
        await self.check()

    async def reserve(self) -> None:
        known = self.ids and self.chance.random() < 0.5
        id_ = self.chance.choice(self.ids) if known else self.new_id()
        try:
            row = (await self.quota.reserve(self.key, id_)).reservation
        except grpc.aio.AioRpcError as error:
            if error.code() is not StatusCode.RESOURCE_EXHAUSTED:
                raise
            return
        self.ids += [] if known else [id_]
        if row.state == PENDING:
            self.in_flight.append((id_, row.generation))

    async def submit(self) -> None:
        # A Submit may arrive late, twice or never.
        if self.in_flight:
            message = self.chance.choice(self.in_flight)
            if self.chance.random() < 0.5:
                self.in_flight.remove(message)
            if self.chance.random() < 0.8:
                self.quota.scheduler.submit(*message)

    async def end(self) -> None:
        live = [id_ for id_, end in self.quota.scheduler.requests.items() if end is None]
        if live:
            id_, counted = self.chance.choice(live), self.chance.random() < 0.5
            self.quota.scheduler.requests[id_] = counted
            self.outbox.append((id_, counted))

    async def settle(self) -> None:
        if self.outbox:
            await self.quota.settle(self.outbox[0][0], self.user_id, self.outbox[0][1])
            # Delivered at least once.
            self.outbox = self.outbox[self.chance.randrange(2) :]

    async def resolve(self) -> None:
        if not self.ids:
            return
        id_ = self.chance.choice(self.ids)
        ((generation,),) = await self.quota.rows(
            "SELECT generation FROM quota_reservations WHERE request_id = :id", id=id_
        )
        self.quota.scheduler.lose_answers = self.chance.randrange(2)
        self.quota.scheduler.before_answer = self.chance.choice([None, self.reserve, self.submit])
        await resolve(self.quota, id_, self.chance.randint(1, generation))
        self.quota.scheduler.lose_answers, self.quota.scheduler.before_answer = 0, None

    async def let_time_pass(self) -> None:
        self.quota.clock.advance(self.chance.choice([61_000, DAY_MS // 3]))
        await self.quota.service.resolver.resolve_all()

    async def check(self) -> None:
        rows = await self.quota.rows("SELECT request_id, day, state FROM quota_reservations")
        holding = Counter(day for _, day, state in rows if state in ("pending", "counted"))
        days = dict(map(tuple, await self.quota.rows("SELECT day, used FROM quota_days")))
        assert {day: used for day, used in days.items() if used} == holding
        assert max(days.values(), default=0) <= 10
        states = {id_: state for id_, _, state in rows}
        for id_, counted in self.quota.scheduler.requests.items():
            allowed = {None: {"pending"}, True: {"pending", "counted"}, False: {"pending", "given_back"}}
            assert states[id_] in allowed[counted], "an accepted request and its reservation disagree"

    async def come_to_rest(self) -> None:
        while any(end is None for end in self.quota.scheduler.requests.values()):
            await self.end()
        while self.outbox:
            await self.settle()
        self.quota.clock.advance(61_000)
        await self.quota.service.resolver.resolve_all()
        await self.check()
        states = Counter(state for (state,) in await self.quota.rows("SELECT state FROM quota_reservations"))
        assert states["pending"] == 0, "nothing stays held"
        assert states["counted"] == sum(map(bool, self.quota.scheduler.requests.values()))
        assert utc_day(self.quota.clock.now_ms()) > "2026-01-01"
