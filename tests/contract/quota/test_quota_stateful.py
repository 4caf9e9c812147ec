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

import pytest
from google.rpc import error_details_pb2
from grpc import StatusCode
from grpc.aio import AioRpcError
from headgate.quota.v1 import quota_pb2 as pb
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Connection

from services import sql
from services.clock import DAY_MS, next_day_ms, next_month_ms, utc_day
from services.ids import random_id
from services.quota.audit import Audit
from services.quota.audit_books import SqlBooks
from services.quota.plans import Plans, read_plans
from services.rpc.status import refusal_of
from tests.servers.quota import Quota, running_quota

EXAMPLES = int(os.environ.get("HEADGATE_EXAMPLES", "0"))
USUAL_EXAMPLES, STEPS = 30, 60
MINUTE_MS = 60_000
USERS = 2
NO_LIMIT = 2**63 - 1
PENDING = pb.RESERVATION_STATE_PENDING
PLANS = """\
default_tier: small
tiers:
  - {name: small, title: S, requests_per_day: 5, outstanding: 1, share: 1, price: $0, models: all,
     tokens_per_day: 3000}
  - {name: large, title: L, requests_per_day: 9, outstanding: 2, share: 2, price: $9, models: all,
     requests_per_minute: 3, spend_nano_usd_per_month: 1200}
"""
LIMITS = ("requests_per_day", "requests_per_minute", "tokens_per_day", "spend_nano_usd_per_month")
KINDS = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_write_5m_input_tokens",
         "cache_write_1h_input_tokens")  # fmt: skip
Key = tuple[str, int, int]
T = TypeVar("T")
AMOUNTS = (*KINDS, "cost_nano_usd")
small = st.integers(0, 400)
turn = st.fixed_dictionaries(dict.fromkeys(AMOUNTS, small) | {name: st.booleans() for name in ("killed", "alone")})
answers = st.tuples(st.lists(turn, max_size=2), st.sampled_from([None, True, True, False]))
Answer = tuple[list[dict[str, Any]], bool | None]
"""Turns, and whether it ends counted, uncounted or not yet."""
users = st.integers(0, USERS - 1)
waits = st.sampled_from(["", "", "", "end of the minute", "minute", "minute", "midnight", "day"])
own_terms = st.fixed_dictionaries(
    {},
    optional={
        "requests_per_day": st.none() | st.sampled_from([0, 2, 4, 9]),
        "requests_per_minute": st.none() | st.integers(1, 3),
        "tokens_per_day": st.none() | st.sampled_from([0, 700, 3_000]),
        "spend_nano_usd_per_month": st.none() | st.sampled_from([0, 200, 900]),
        "outstanding": st.none() | st.integers(0, 3),
        "spend_nano_usd_per_day": st.none() | small,
    },
)


@dataclass
class World:
    """One running service for all examples; each has users and requests of its own."""

    quota: Quota
    runner: asyncio.Runner
    url: str
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


class BooksSince(SqlBooks):
    """The books from a day on: those of other examples were looked at with them."""

    def __init__(self, connection: Connection, first_day: str) -> None:
        super().__init__(connection)
        self._first_day = first_day

    def days(self) -> list[str]:
        return [day for day in super().days() if day >= self._first_day]


class Walk(RuleBasedStateMachine):
    """A client, a network, a scheduler and an administrator that do whatever the contract allows."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        example = next(self.world.numbers)
        self.users = [f"user {example}.{n}" for n in range(USERS)]
        self.terms: dict[str, dict[str, int]] = {user: {} for user in self.users}
        self.tier: dict[str, str] = {}
        self.version = dict.fromkeys(self.users, 1)
        self.ids: list[tuple[str, str]] = []
        self.in_flight: list[tuple[str, str, int, str]] = []
        self.accepted: dict[str, Request] = {}
        self.outbox: list[pb.Settlement] = []
        self.told: dict[Key, tuple[str, str, pb.Charge]] = {}
        """The ledger as it must be: by turn whose it is, its day, and what was told of it."""
        self.first_day = ""
        self.minutes: defaultdict[tuple[str, str], Counter[int]] = defaultdict(Counter)

    @property
    def quota(self) -> Quota:
        return self.world.quota

    @initialize(
        month=st.booleans(), tiers=st.lists(st.sampled_from(["small", "large"]), min_size=USERS, max_size=USERS)
    )
    def begin(self, month: bool, tiers: list[str]) -> None:
        """Two minutes before the end of a day, perhaps of a month."""
        now_ms = self.quota.clock.now_ms()
        end_ms = (next_month_ms if month else next_day_ms)(utc_day(now_ms + 3 * MINUTE_MS))
        self.quota.clock.advance(end_ms - 2 * MINUTE_MS - now_ms)
        self.first_day = self._day()
        self.tier = dict(zip(self.users, tiers, strict=True))
        for user in self.users:
            self.world.run(lambda user=user: self.quota.user(self.tier[user], user))

    # In one rule, for one that begins nothing is chosen as often as any other, and most steps would be idle.
    @rule(
        user=users, times=st.sampled_from([1, 1, 2, 4]), served=st.none() | answers, settled=st.booleans(), wait=waits
    )
    def reserve(self, user: int, times: int, served: Answer | None, settled: bool, wait: str) -> None:
        """New requests, several at once; perhaps all goes well: they are answered at once, and it is told."""
        self._let_time_pass(wait)
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
            if served:
                assert self.quota.scheduler.submit(id_, 1)
                self.accepted[id_] = Request(name, day)
                self._answer(id_, *served)
        for answer in answers:
            if isinstance(answer, AioRpcError):
                self._check_refusal(answer, name)
        if settled and self.outbox:
            self._settle(self.outbox)
            self.outbox = []

    @precondition(lambda self: self.ids)
    @rule(data=st.data())
    def reserve_again(self, data: st.DataObject) -> None:
        """A request that is known: only one that was found absent takes a place."""
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

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data(), arrives=st.sampled_from([True, True, True, False]), again=st.booleans())
    def submit(self, data: st.DataObject, arrives: bool, again: bool) -> None:
        """A Submit may come late, twice or never."""
        message = data.draw(st.sampled_from(self.in_flight))
        if not again:
            self.in_flight.remove(message)
        name, id_, generation, day = message
        if arrives and self.quota.scheduler.submit(id_, generation):
            self.accepted.setdefault(id_, Request(name, day))

    @precondition(lambda self: self.live())
    @rule(data=st.data(), answer=answers)
    def answer(self, data: st.DataObject, answer: Answer) -> None:
        """The provider answers; of a stream that is killed an estimate comes first. The end tells the whole bill."""
        self._answer(data.draw(st.sampled_from(self.live())), *answer)

    def _answer(self, id_: str, turns: list[dict[str, Any]], end: bool | None) -> None:
        request = self.accepted[id_]
        for amounts in turns:
            killed, alone = amounts["killed"], amounts["alone"]
            charge = pb.Charge(attempt=1, turn=len(request.bill) + 1, model="claude-haiku-4-5", kind="pie")
            charge.MergeFrom(pb.Charge(**{name: amounts[name] for name in AMOUNTS}))
            charge.end_time.FromMilliseconds(self.quota.clock.now_ms())
            request.bill[id_, charge.attempt, charge.turn] = charge
            if killed:
                guess = pb.Charge()
                guess.CopyFrom(charge)
                guess.MergeFrom(pb.Charge(estimated=True, cost_nano_usd=charge.cost_nano_usd + 17, output_tokens=17))
                self.outbox.append(self._message(id_, guess))
            if alone:
                self.outbox.append(self._message(id_, charge))
        if end is not None:
            self.quota.scheduler.requests[id_] = end
            message = self._message(id_, *request.bill.values())
            message.final, message.counted, message.completed = True, end, end
            self.outbox.append(message)

    def live(self) -> list[str]:
        """What runs."""
        return [id_ for id_ in self.accepted if self.quota.scheduler.requests[id_] is None]

    @precondition(lambda self: self.outbox)
    @rule(data=st.data(), again=st.booleans())
    def settle(self, data: st.DataObject, again: bool) -> None:
        """Messages come in any order and batch, and more than once."""
        numbers = st.lists(st.integers(0, len(self.outbox) - 1), min_size=1, max_size=4)
        chosen = data.draw(numbers)
        self._settle([self.outbox[n] for n in chosen])
        if not again:
            self.outbox = [message for n, message in enumerate(self.outbox) if n not in chosen]

    @precondition(lambda self: self.ids)
    @rule(data=st.data(), lost=st.booleans())
    def resolve(self, data: st.DataObject, lost: bool) -> None:
        """Somebody asks what became of a request; the scheduler's answer may be lost."""
        _, id_ = data.draw(st.sampled_from(self.ids))
        generation = data.draw(st.integers(1, self._row(id_).generation))
        self.quota.scheduler.lose_answers = int(lost)
        self.world.run(lambda: self.quota.stub.Resolve(pb.ResolveRequest(request_id=id_, generation=generation)))
        self.quota.scheduler.lose_answers = 0

    def _let_time_pass(self, wait: str) -> None:
        """Minutes and days end, and what nobody settled is asked about."""
        if not wait:
            return
        now_ms = self.quota.clock.now_ms()
        until_minute_ms = MINUTE_MS - now_ms % MINUTE_MS
        delays_ms = {
            "end of the minute": max(1, until_minute_ms - 1),
            "minute": until_minute_ms,
            "midnight": next_day_ms(self._day()) - now_ms,
            "day": DAY_MS,
        }
        self.quota.clock.advance(delays_ms[wait])
        self.world.run(lambda: self.quota.service.resolver.resolve_all())

    @rule(user=users, tier=st.sampled_from(["small", "large"]), changes=own_terms, told=st.booleans())
    def change(self, user: int, tier: str, changes: dict[str, int | None], told: bool) -> None:
        """An administrator gives a user another tier, other terms of their own, or both."""
        name = self.users[user]
        if changes:
            self._change_terms(name, changes)
        self.world.run(
            lambda: self.quota.stub.SetUserTier(pb.SetUserTierRequest(user_id=name, tier=tier, actor="test"))
        )
        self.version[name] += self.tier[name] != tier
        self.tier[name] = tier
        if told:
            self.tell_the_scheduler()

    def _change_terms(self, name: str, changes: dict[str, int | None]) -> None:
        before = dict(self.terms[name])
        self.terms[name].update({term: value for term, value in changes.items() if value is not None})
        for term in [term for term, value in changes.items() if value is None]:
            self.terms[name].pop(term, None)
        told = ("outstanding", "spend_nano_usd_per_day")
        self.version[name] += [before.get(term) for term in told] != [self.terms[name].get(term) for term in told]
        assert self.world.run(lambda: self.quota.limit(name, **changes)).tier_version == self.version[name]

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
        ledger = {}
        sums: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        for row in self._rows("SELECT * FROM quota_charges WHERE user_id IN (:a, :b)"):
            amounts = {name: getattr(row, name) for name in AMOUNTS}
            ledger[row.request_id, row.attempt, row.turn] = (row.user_id, row.day, bool(row.estimated), amounts)
            sums[row.user_id, row.day].update(amounts)
        assert ledger == {
            key: (user, day, charge.estimated, {name: getattr(charge, name) for name in AMOUNTS})
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
        self.tell_the_scheduler()
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
        self.the_books_agree()
        bill = {key: (request.user, request.day, charge) for request in self.accepted.values()
                for key, charge in request.bill.items()}  # fmt: skip
        assert self.told == bill
        states = dict(map(tuple, self._rows(
            "SELECT request_id, state FROM quota_reservations WHERE user_id IN (:a, :b)")))  # fmt: skip
        expected = {id_: "counted" if scheduler.requests[id_] else "given_back" for id_ in self.accepted}
        assert states == dict.fromkeys(states, "absent") | expected

    def the_books_agree(self) -> None:
        """What the audit adds up, hours too, of the days of this example; and each request is counted once."""
        with sql.snapshot(self.world.url) as connection:
            audit = Audit(BooksSince(connection, self.first_day), self.quota.prices)
            # What a charge costs is drawn here, and not of any price.
            assert [str(found) for found in audit.differences() if found.table != "quota_charges"] == []
        (counts,) = self._rows("SELECT sum(requests), sum(completed) FROM quota_days WHERE user_id IN (:a, :b)")
        completed = sum(self.quota.scheduler.requests[id_] is True for id_ in self.accepted)
        assert [int(count or 0) for count in counts] == [len(self.accepted), completed]

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


@pytest.mark.timeout(3_600 if EXAMPLES else 120)
def test_any_order_keeps_limits_counts_and_the_bill(database_url: str) -> None:
    plans: Plans = read_plans(PLANS, "plans.yaml")
    with asyncio.Runner() as runner, contextlib.ExitStack() as stack:
        serving = running_quota(database_url, plans)
        quota = runner.run(serving.__aenter__())
        stack.callback(lambda: runner.run(serving.__aexit__(None, None, None)))
        walk: Callable[[], Walk] = type("WalkHere", (Walk,), {"world": World(quota, runner, database_url)})
        # The same orders in every run of the suite; as many new ones as are asked for, the one that fails made short.
        phases = set(Phase) if EXAMPLES else {Phase.generate}
        run_state_machine_as_test(
            walk,
            settings=settings(
                max_examples=EXAMPLES or USUAL_EXAMPLES, stateful_step_count=STEPS, derandomize=not EXAMPLES,
                phases=phases, database=None, deadline=None, suppress_health_check=list(HealthCheck),
            ),
        )  # fmt: skip
