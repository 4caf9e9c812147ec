"""Any order of calls, messages and midnights: nobody ever gets more than their limits let them have, and the ledger
and its sums are the bill, to the nano-dollar. On both databases; HEADGATE_EXAMPLES=500 looks longer, at new orders.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from google.rpc import error_details_pb2
from grpc import StatusCode
from grpc.aio import AioRpcError
from headgate.quota.v1 import quota_pb2 as pb
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from services.clock import DAY_MS, next_day_ms, next_month_ms, utc_day
from services.ids import random_id
from services.quota.plans import Plans, read_plans
from services.rpc.status import refusal_of
from tests.servers.quota import Quota, running_quota

EXAMPLES = int(os.environ.get("HEADGATE_EXAMPLES", "0"))
USUAL_EXAMPLES, STEPS = 25, 40
MINUTE_MS = 60_000
USERS = 2
NO_LIMIT = 2**63 - 1
PENDING = pb.RESERVATION_STATE_PENDING
PLANS = """\
default_tier: small
tiers:
  - {name: small, title: S, requests_per_day: 3, outstanding: 1, share: 1, price: $0, models: all,
     tokens_per_day: 900}
  - {name: large, title: L, requests_per_day: 6, outstanding: 2, share: 2, price: $9, models: all,
     requests_per_minute: 3, spend_nano_usd_per_month: 4000}
"""
LIMITS = ("requests_per_day", "requests_per_minute", "tokens_per_day", "spend_nano_usd_per_month")
KINDS = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_write_5m_input_tokens",
         "cache_write_1h_input_tokens")  # fmt: skip
Key = tuple[str, int, int]
T = TypeVar("T")
small = st.integers(0, 400)
own_terms = st.fixed_dictionaries(
    {},
    optional={
        "requests_per_day": st.none() | st.integers(0, 5),
        "requests_per_minute": st.none() | st.integers(1, 3),
        "tokens_per_day": st.none() | st.integers(0, 1_500),
        "spend_nano_usd_per_month": st.none() | st.integers(0, 1_500),
        "outstanding": st.none() | st.integers(0, 3),
        "spend_nano_usd_per_day": st.none() | small,
    },
)


@dataclass
class World:
    """One running service for all examples; each has users and requests of its own."""

    quota: Quota
    runner: asyncio.Runner
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def run(self, work: Callable[[], Awaitable[T]]) -> T:
        async def inside() -> T:
            # gRPC's calls begin where they are made, which must be inside the loop.
            return await work()

        return self.runner.run(inside())

    def new_id(self) -> str:
        return random_id("req_", lambda size: next(self.numbers).to_bytes(size, "big"))


@dataclass
class Request:
    """What the scheduler knows of a request that it accepted."""

    user: str
    day: str
    bill: dict[Key, pb.Charge] = field(default_factory=dict)
    """As the provider would write it."""


class Walk(RuleBasedStateMachine):
    """A client, a network, a scheduler and an administrator that do whatever the contract allows."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        example = next(self.world.numbers)
        self.users = [f"user {example}.{n}" for n in range(USERS)]
        self.terms: dict[str, dict[str, int]] = {user: {} for user in self.users}
        self.tier = dict.fromkeys(self.users, "small")
        self.version = dict.fromkeys(self.users, 1)
        self.ids: list[tuple[str, str]] = []
        self.in_flight: list[tuple[str, str, int, str]] = []
        self.accepted: dict[str, Request] = {}
        self.outbox: list[pb.Settlement] = []
        self.told: dict[Key, tuple[str, str, pb.Charge]] = {}
        """The ledger as it must be: by turn whose it is, its day, and what was told of it."""
        self.minutes: defaultdict[tuple[str, str], Counter[int]] = defaultdict(Counter)

    @property
    def quota(self) -> Quota:
        return self.world.quota

    @initialize(month=st.booleans())
    def begin(self, month: bool) -> None:
        """Two minutes before the end of a day, perhaps of a month."""
        now_ms = self.quota.clock.now_ms()
        end_ms = (next_month_ms if month else next_day_ms)(utc_day(now_ms + 3 * MINUTE_MS))
        self.quota.clock.advance(end_ms - 2 * MINUTE_MS - now_ms)
        for user in self.users:
            self.world.run(lambda user=user: self.quota.user("small", user))

    @rule(user=st.integers(0, USERS - 1), times=st.sampled_from([1, 1, 1, 2, 8]))
    def reserve(self, user: int, times: int) -> None:
        """New requests, several at once."""
        name, day, minute = self.users[user], self._day(), self._minute()
        room = self._room(name)
        ids = [self.world.new_id() for _ in range(times)]
        answers = self.world.run(lambda: self._reserve_all(name, ids))
        let_in = [(id_, a) for id_, a in zip(ids, answers, strict=True) if isinstance(a, pb.ReserveResponse)]
        assert len(let_in) == min(times, min(room.values())), "exactly as many as there is room for"
        for id_, answer in let_in:
            assert (answer.reservation.state, answer.reservation.day) == (PENDING, day)
            self._reserved(name, id_, answer.reservation)
            self.minutes[name, day][minute] += 1
        for answer in answers:
            if isinstance(answer, AioRpcError):
                self._check_refusal(answer, name)

    @rule(data=st.data())
    def reserve_again(self, data: st.DataObject) -> None:
        """A request that is known: only one that was found absent takes a place."""
        if not self.ids:
            return
        name, id_ = data.draw(st.sampled_from(self.ids))
        before = self._row(id_)
        room = self._room(name)
        (answer,) = self.world.run(lambda: self._reserve_all(name, [id_]))
        if isinstance(answer, AioRpcError):
            assert before.state == "absent"
            assert not min(room.values())
            self._check_refusal(answer, name)
            return
        self._reserved(name, id_, answer.reservation)
        if before.state == "absent":
            assert min(room.values())
            self.minutes[name, self._day()][self._minute()] += 1
        final = before.state in ("counted", "given_back")
        assert answer.reservation.generation == before.generation + (not final)

    @rule(data=st.data(), arrives=st.booleans(), again=st.booleans())
    def submit(self, data: st.DataObject, arrives: bool, again: bool) -> None:
        """A Submit may come late, twice or never."""
        if not self.in_flight:
            return
        message = data.draw(st.sampled_from(self.in_flight))
        if not again:
            self.in_flight.remove(message)
        name, id_, generation, day = message
        if arrives and self.quota.scheduler.submit(id_, generation):
            self.accepted.setdefault(id_, Request(name, day))

    @rule(data=st.data(), amounts=st.lists(small, min_size=len(KINDS), max_size=len(KINDS)), cost=small,
          killed=st.booleans(), alone=st.booleans())  # fmt: skip
    def answer_a_turn(self, data: st.DataObject, amounts: list[int], cost: int, killed: bool, alone: bool) -> None:
        """The provider answers; of a stream that is killed an estimate is told first."""
        live = [id_ for id_ in self.accepted if self.quota.scheduler.requests[id_] is None]
        if not live:
            return
        id_ = data.draw(st.sampled_from(live))
        request = self.accepted[id_]
        turn = pb.Charge(attempt=1, turn=len(request.bill) + 1, model="claude-haiku-4-5", kind="pie")
        turn.MergeFrom(pb.Charge(cost_nano_usd=cost, **dict(zip(KINDS, amounts, strict=True))))
        turn.end_time.FromMilliseconds(self.quota.clock.now_ms())
        request.bill[id_, turn.attempt, turn.turn] = turn
        if killed:
            guess = pb.Charge()
            guess.CopyFrom(turn)
            guess.MergeFrom(pb.Charge(estimated=True, cost_nano_usd=cost + 17, output_tokens=17))
            self.outbox.append(self._message(id_, guess))
        if alone:
            self.outbox.append(self._message(id_, turn))

    @rule(data=st.data(), counted=st.booleans())
    def end(self, data: st.DataObject, counted: bool) -> None:
        """A request ends, and its whole bill is told with that."""
        live = [id_ for id_ in self.accepted if self.quota.scheduler.requests[id_] is None]
        if live:
            id_ = data.draw(st.sampled_from(live))
            self.quota.scheduler.requests[id_] = counted
            message = self._message(id_, *self.accepted[id_].bill.values())
            message.final, message.counted, message.completed = True, counted, counted
            self.outbox.append(message)

    @rule(data=st.data(), again=st.booleans())
    def settle(self, data: st.DataObject, again: bool) -> None:
        """Messages come in any order and batch, and more than once."""
        if not self.outbox:
            return
        numbers = st.lists(st.integers(0, len(self.outbox) - 1), min_size=1, max_size=4)
        chosen = data.draw(numbers)
        self._settle([self.outbox[n] for n in chosen])
        if not again:
            self.outbox = [message for n, message in enumerate(self.outbox) if n not in chosen]

    @rule(data=st.data(), lost=st.booleans())
    def resolve(self, data: st.DataObject, lost: bool) -> None:
        """Somebody asks what became of a request; the scheduler's answer may be lost."""
        if not self.ids:
            return
        _, id_ = data.draw(st.sampled_from(self.ids))
        generation = data.draw(st.integers(1, self._row(id_).generation))
        self.quota.scheduler.lose_answers = int(lost)
        self.world.run(lambda: self.quota.stub.Resolve(pb.ResolveRequest(request_id=id_, generation=generation)))
        self.quota.scheduler.lose_answers = 0

    @rule(wait=st.sampled_from(["second", "end of the minute", "minute", "midnight", "day"]))
    def let_time_pass(self, wait: str) -> None:
        """Minutes and days end, and what nobody settled is asked about."""
        now_ms = self.quota.clock.now_ms()
        until_minute_ms = MINUTE_MS - now_ms % MINUTE_MS
        delays_ms = {
            "second": 1_000,
            "end of the minute": max(1, until_minute_ms - 1),
            "minute": until_minute_ms,
            "midnight": next_day_ms(self._day()) - now_ms,
            "day": DAY_MS,
        }
        self.quota.clock.advance(delays_ms[wait])
        self.world.run(lambda: self.quota.service.resolver.resolve_all())

    @rule(user=st.integers(0, USERS - 1), tier=st.sampled_from(["small", "large"]))
    def change_tier(self, user: int, tier: str) -> None:
        name = self.users[user]
        self.world.run(
            lambda: self.quota.stub.SetUserTier(pb.SetUserTierRequest(user_id=name, tier=tier, actor="test"))
        )
        self.version[name] += self.tier[name] != tier
        self.tier[name] = tier

    @rule(user=st.integers(0, USERS - 1), changes=own_terms)
    def change_terms(self, user: int, changes: dict[str, int | None]) -> None:
        if not changes:
            return
        name, before = self.users[user], dict(self.terms[self.users[user]])
        self.terms[name].update({term: value for term, value in changes.items() if value is not None})
        for term in [term for term, value in changes.items() if value is None]:
            self.terms[name].pop(term, None)
        told = ("outstanding", "spend_nano_usd_per_day")
        self.version[name] += [before.get(term) for term in told] != [self.terms[name].get(term) for term in told]
        assert self.world.run(lambda: self.quota.limit(name, **changes)).tier_version == self.version[name]

    @rule()
    def tell_the_scheduler(self) -> None:
        while self.world.run(lambda: self.quota.service.tier_changes.deliver()):
            pass
        for name in self.users:
            if self.version[name] > 1:
                told, own = self.quota.scheduler.tiers[name], self.terms[name]
                usual = self.quota.plans.tier(self.tier[name])
                assert (told.name, told.version) == (self.tier[name], self.version[name])
                assert told.outstanding == own.get("outstanding", usual.outstanding)
                assert told.HasField("user_spend_nano_usd_per_day") == ("spend_nano_usd_per_day" in own)
                assert told.user_spend_nano_usd_per_day == own.get("spend_nano_usd_per_day", 0)

    @invariant()
    def used_is_counted_and_held(self) -> None:
        rows = self._rows("SELECT user_id, day, state, count(*) FROM quota_reservations WHERE user_id IN (:a, :b)"
                          " GROUP BY user_id, day, state")  # fmt: skip
        holding: Counter[tuple[str, str]] = Counter()
        for user, day, state, count in rows:
            holding[user, day] += count if state in ("pending", "counted") else 0
        used = {(user, day): n for user, day, n in self._rows("SELECT user_id, day, used FROM quota_days"
                                                              " WHERE user_id IN (:a, :b)")}  # fmt: skip
        assert {key: n for key, n in used.items() if n} == +holding

    @invariant()
    def sums_are_those_of_the_ledger_and_the_ledger_is_what_was_told(self) -> None:
        columns = (*KINDS, "cost_nano_usd")
        ledger = {}
        sums: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        for row in self._rows("SELECT * FROM quota_charges WHERE user_id IN (:a, :b)"):
            amounts = {name: getattr(row, name) for name in columns}
            ledger[row.request_id, row.attempt, row.turn] = (row.user_id, row.day, bool(row.estimated), amounts)
            sums[row.user_id, row.day].update(amounts)
        assert ledger == {
            key: (user, day, charge.estimated, {name: getattr(charge, name) for name in columns})
            for key, (user, day, charge) in self.told.items()
        }
        for row in self._rows("SELECT * FROM quota_days WHERE user_id IN (:a, :b)"):
            expected = sums.pop((row.user_id, row.day), Counter())
            writes = expected["cache_write_5m_input_tokens"] + expected["cache_write_1h_input_tokens"]
            assert row.cache_write_input_tokens == writes
            for name in ("input_tokens", "output_tokens", "cache_read_input_tokens", "cost_nano_usd"):
                assert getattr(row, name) == expected[name]
        assert not any(map(Counter.total, sums.values()))

    def teardown(self) -> None:
        """Everything ends and every message comes: nothing is held, and the ledger is the provider's bill."""
        scheduler = self.quota.scheduler
        for id_, request in self.accepted.items():
            ended = scheduler.requests[id_]
            scheduler.requests[id_] = counted = bool(ended)
            message = self._message(id_, *request.bill.values())
            message.final, message.counted = True, counted
            self.outbox.append(message)
        for message in self.outbox:
            self._settle([message])
        self.quota.clock.advance(MINUTE_MS + 1)
        self.world.run(lambda: self.quota.service.resolver.resolve_all())
        self.used_is_counted_and_held()
        self.sums_are_those_of_the_ledger_and_the_ledger_is_what_was_told()
        bill = {key: (request.user, request.day, charge) for request in self.accepted.values()
                for key, charge in request.bill.items()}  # fmt: skip
        assert self.told == bill
        states = dict(map(tuple, self._rows(
            "SELECT request_id, state FROM quota_reservations WHERE user_id IN (:a, :b)")))  # fmt: skip
        expected = {id_: "counted" if scheduler.requests[id_] else "given_back" for id_ in self.accepted}
        assert states == dict.fromkeys(states, "absent") | expected

    async def _reserve_all(self, user: str, ids: list[str]) -> list[Any]:
        caller = pb.Caller(user_id=user)
        calls = [self.quota.stub.Reserve(pb.ReserveRequest(caller=caller, request_id=id_)) for id_ in ids]
        return await asyncio.gather(*calls, return_exceptions=True)

    def _reserved(self, user: str, id_: str, row: pb.Reservation) -> None:
        if (user, id_) not in self.ids:
            self.ids.append((user, id_))
        if row.state == PENDING:
            self.in_flight.append((user, id_, row.generation, row.day))

    def _room(self, user: str) -> dict[str, int]:
        """How many more of this user may be let in by each limit, as the model has it."""
        tier, own, day = self.quota.plans.tier(self.tier[user]), self.terms[user], self._day()
        most = {name: own.get(name, getattr(tier, name)) for name in LIMITS}
        most = {name: NO_LIMIT if limit is None else limit for name, limit in most.items()}
        ((held,),) = self.world.run(lambda: self.quota.rows(
            "SELECT count(*) FROM quota_reservations WHERE user_id = :user AND day = :day"
            " AND state IN ('pending', 'counted')", user=user, day=day))  # fmt: skip
        mine = [(of_day, charge) for owner, of_day, charge in self.told.values() if owner == user]
        tokens = sum(getattr(charge, kind) for of_day, charge in mine if of_day == day for kind in KINDS)
        spent = sum(charge.cost_nano_usd for of_day, charge in mine if of_day[:7] == day[:7])
        return {
            "requests_per_day": max(0, most["requests_per_day"] - held),
            "requests_per_minute": max(0, most["requests_per_minute"] - self.minutes[user, day][self._minute()]),
            # Known only once an answer has ended: all are let in while less than the limit was used.
            "tokens_per_day": NO_LIMIT if tokens < most["tokens_per_day"] else 0,
            "spend_nano_usd_per_month": NO_LIMIT if spent < most["spend_nano_usd_per_month"] else 0,
        }

    def _check_refusal(self, error: AioRpcError, user: str) -> None:
        refusal = refusal_of(error, [pb.LimitExceeded, error_details_pb2.QuotaFailure])
        assert (refusal.code, refusal.reason) == (StatusCode.RESOURCE_EXHAUSTED, "USER_LIMIT_EXCEEDED")
        detail = refusal.detail(pb.LimitExceeded)
        assert detail is not None
        full = [number for number, name in enumerate(LIMITS, 1) if not self._room(user)[name]]
        assert detail.limit == full[0], "the first limit that is used up is the one that is told"
        assert detail.used >= detail.most

    def _message(self, id_: str, *charges: pb.Charge) -> pb.Settlement:
        request = self.accepted[id_]
        return pb.Settlement(request_id=id_, user_id=request.user, day=request.day, tier="small", charges=charges)

    def _settle(self, messages: list[pb.Settlement]) -> None:
        self.world.run(lambda: self.quota.stub.Settle(pb.SettleRequest(settlements=messages)))
        for message in messages:
            for charge in message.charges:
                key = (message.request_id, charge.attempt, charge.turn)
                known = self.told.get(key)
                if known is None or (known[2].estimated and not charge.estimated):
                    self.told[key] = (message.user_id, message.day, charge)

    def _row(self, id_: str) -> Any:
        (row,) = self.world.run(
            lambda: self.quota.rows("SELECT * FROM quota_reservations WHERE request_id = :id", id=id_)
        )
        return row

    def _rows(self, query: str) -> list[Any]:
        return self.world.run(lambda: self.quota.rows(query, a=self.users[0], b=self.users[1]))

    def _day(self) -> str:
        return utc_day(self.quota.clock.now_ms())

    def _minute(self) -> int:
        return self.quota.clock.now_ms() // MINUTE_MS


def test_any_order_keeps_limits_counts_and_the_bill(database_url: str) -> None:
    plans: Plans = read_plans(PLANS, "plans.yaml")
    with asyncio.Runner() as runner, contextlib.ExitStack() as stack:
        serving = running_quota(database_url, plans)
        quota = runner.run(serving.__aenter__())
        stack.callback(lambda: runner.run(serving.__aexit__(None, None, None)))
        walk: Callable[[], Walk] = type("WalkHere", (Walk,), {"world": World(quota, runner)})
        # The same orders in every run of the suite; as many new ones as are asked for.
        run_state_machine_as_test(
            walk,
            settings=settings(
                max_examples=EXAMPLES or USUAL_EXAMPLES, stateful_step_count=STEPS, derandomize=not EXAMPLES,
                database=None, deadline=None, suppress_health_check=list(HealthCheck),
            ),
        )  # fmt: skip
