"""Economics and statements on both databases: exact, from sums and closed days alone."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from headgate.quota.v1 import ledger_pb2 as pb
from headgate.quota.v1 import quota_pb2
from sqlalchemy import Connection, event

from services.clock import DAY_MS, next_day_ms, utc_day
from services.pricing import Tokens, read_prices
from services.quota.closing import CLOSE_AFTER_MS, Closing
from services.quota.economics import Economics
from services.quota.ledger import HOUR_MS, Ledger, clamped_hour
from services.quota.model import Revenue, Use
from services.quota.plans import Plans
from services.quota.ports import T, Transaction
from services.quota.revenue import day_before, day_revenue, days_between
from services.quota.store import SqlStore
from services.settings import config_dir
from tests.servers.quota import NOON_MS, Quota, refused

PRO, BASIC = 79_000_000_000, 15_000_000_000
FIRST = "2026-01-01"
TO_CLOSING_MS = DAY_MS // 2 + CLOSE_AFTER_MS


@dataclass(frozen=True)
class Spent:
    """What requests of one user used on a day."""

    user_id: str
    tier: str
    day: str
    use: Use


async def spend(quota: Quota, rows: Iterable[Spent]) -> None:
    """Adds to the sums as Settle does, which for a month of 1,500,000 requests would take a while."""
    days, hours = defaultdict[tuple[str, str], Use](Use), defaultdict[tuple[int, str, str, str], Use](Use)
    for row in rows:
        days[row.user_id, row.day] += row.use
        hours[clamped_hour(0, row.day), row.tier, "claude-sonnet-5-5", "flowchart"] += row.use

    def keep(tx: Transaction) -> None:
        tx.add_to_days({}, days)
        tx.add_to_hours(hours)

    await SqlStore(quota.database).write(keep)


async def economics(quota: Quota, days: int = 30, top: int = 10) -> pb.GetEconomicsResponse:
    return await quota.ledger.GetEconomics(pb.GetEconomicsRequest(days=days, top_users=top))


async def statement(quota: Quota, month: str, size: int = 0, token: str = "") -> pb.GetStatementResponse:
    return await quota.ledger.GetStatement(pb.GetStatementRequest(month=month, page_size=size, page_token=token))


def figures(margin: pb.Margin) -> tuple[int, int, int, bool]:
    return margin.revenue_nano_usd, margin.use.cost_nano_usd, margin.margin_nano_usd, margin.unsustainable


async def set_tier(quota: Quota, user_id: str, tier: str) -> None:
    await quota.stub.SetUserTier(quota_pb2.SetUserTierRequest(user_id=user_id, tier=tier, actor="admin:test"))


class TestTheMissionsExample:
    """100 pro users who send 500 requests a day each: "$600/day = $18,000/month ... NOT SUSTAINABLE"."""

    USERS, REQUESTS, TOKENS, DAYS = 100, 500, 2_000, 30
    MODEL = "claude-sonnet-5-5"
    # The mission gives tokens a request and the sum. At the prices of config/prices.yaml ($2 a million in, $10 out)
    # its $6 a million on average are those of a request with as many tokens of input as of output.
    SPLIT = Tokens(input=1_000, output=1_000)

    async def a_month(self, quota: Quota) -> None:
        """June 2026, of 30 days, as the ledger has it when the month is over."""
        assert self.SPLIT.prompt + self.SPLIT.output == self.TOKENS
        cost = read_prices(config_dir() / "prices.yaml").cost_nano_usd(self.MODEL, self.SPLIT)
        assert self.USERS * self.REQUESTS * cost == 600 * 10**9, "the mission's $600 a day"
        quota.clock.advance(next_day_ms("2026-05-31") - NOON_MS)
        for i in range(self.USERS):
            await quota.user("pro", f"pro{i:03}")
        use = Use(self.REQUESTS, self.REQUESTS, input_tokens=500_000, output_tokens=500_000)
        use = replace(use, cost_nano_usd=self.REQUESTS * cost)
        days = days_between("2026-06-01", "2026-06-30")
        await spend(quota, (Spent(f"pro{i:03}", "pro", day, use) for day in days for i in range(self.USERS)))
        quota.clock.advance(self.DAYS * DAY_MS - 1)

    @pytest.mark.parametrize(
        ("dollars_a_month", "margin"),
        # The price that the mission's text names in passing, and the one that it recommends and config/plans.yaml has.
        [(49, -13_100_000_000_000), (None, -10_100_000_000_000)],
    )
    async def test_it_is_reproduced_from_the_configuration(
        self, quota: Quota, dollars_a_month: int | None, margin: int
    ) -> None:
        await self.a_month(quota)
        plans = quota.plans
        if dollars_a_month:
            price = dollars_a_month * 10**9
            tiers = [replace(t, price_nano_usd_per_month=price) if t.name == "pro" else t for t in plans.tiers]
            plans = Plans(tiers, plans.default)
        economics = Economics(SqlStore(quota.database), plans, quota.clock)
        store = SqlStore(quota.database)
        closing = Closing(store, plans, quota.clock, Ledger(store, quota.prices, quota.clock))
        await closing.close_all()
        report = await economics.report(self.DAYS, 10)
        pro = next(row for row in report.tiers if row.tier == "pro")
        assert (pro.users, pro.margin.use.requests) == (100, 1_500_000)
        assert pro.margin.use.cost_nano_usd == 18_000 * 10**9
        assert pro.margin.revenue_nano_usd == 100 * (dollars_a_month or 79) * 10**9
        assert (pro.margin.margin_nano_usd, pro.margin.unsustainable) == (margin, True)
        assert (report.total, report.first, report.last) == (pro.margin, "2026-06-01", "2026-06-30")
        assert len(report.unprofitable_users) == 10
        month = await economics.statement("2026-06", 1_000, "")
        assert (month.total, len(month.users)) == (pro.margin, 100)
        assert {row.margin.margin_nano_usd for row in month.users} == {margin // 100}
        # What they would have to pay, or use, to break even: $180 a month.
        assert month.total.use.cost_nano_usd // 100 == 180 * 10**9


async def test_a_month_adds_up_to_the_ledger_to_the_nano_dollar(
    quota: Quota, charge: Callable[..., quota_pb2.Charge]
) -> None:
    dice = random.Random(7)
    tiers = ("free", "basic", "pro", "enterprise")
    users = {f"user{i:02}": dice.choice(tiers) for i in range(20)}
    for user_id, tier in users.items():
        await quota.user(tier, user_id)
    settlements = []
    for number in range(600):
        user_id, day = dice.choice(list(users)), day_before("2026-02-03", dice.randrange(34))
        # What ended on the day after counts where it began.
        end_ms = next_day_ms(day) + dice.choice((-DAY_MS, -HOUR_MS - 1, -1, 0, HOUR_MS))
        made = charge(
            model=dice.choice(("claude-opus-5-5", "claude-haiku-4-5")),
            kind=dice.choice(("", "er", "pie")),
            input_tokens=dice.randrange(10**6),
            cost_nano_usd=dice.randrange(10**10),
            cache_read_input_tokens=dice.randrange(10**4),
            end_time=Timestamp(seconds=end_ms // 1000, nanos=end_ms % 1000 * 10**6),
        )
        tier = dice.choice((users[user_id], "free"))
        id_ = f"req_{number:022}"
        settlements.append(quota_pb2.Settlement(request_id=id_, user_id=user_id, day=day, tier=tier, charges=[made]))
    for batch in (settlements[:500], settlements[400:]):
        await quota.stub.Settle(quota_pb2.SettleRequest(settlements=batch))
    quota.clock.advance(33 * DAY_MS)
    await set_tier(quota, "user00", "pro")
    quota.clock.advance(CLOSE_AFTER_MS + DAY_MS)
    await quota.service.closing.close_all()

    pages, token = [], ""
    while not pages or token:
        pages.append(await statement(quota, "2026-01", 7, token))
        token = pages[-1].next_page_token
    first = pages[0]
    assert first.closed
    assert [len(page.users) for page in pages] == [7, 7, 6]
    listed = [user for page in pages for user in page.users]
    assert [user.user_id for user in listed] == sorted(users)
    ledger = await quota.rows(
        "SELECT sum(cost_nano_usd), sum(input_tokens) FROM quota_charges WHERE day LIKE '2026-01-%'"
    )
    used = (first.total.use.cost_nano_usd, first.total.use.input_tokens)
    assert used == tuple(map(int, ledger[0]))
    paid = await quota.rows("SELECT sum(revenue_nano_usd) FROM quota_revenue WHERE day LIKE '2026-01%'")
    assert first.total.revenue_nano_usd == int(paid[0][0])
    assert all(page.total == first.total and page.days == first.days for page in pages)
    for rows in (first.days, listed):
        for name in (field.name for field in pb.Use.DESCRIPTOR.fields):
            assert sum(getattr(row.margin.use, name) for row in rows) == getattr(first.total.use, name), name
        assert sum(row.margin.revenue_nano_usd for row in rows) == first.total.revenue_nano_usd
        assert sum(row.margin.margin_nano_usd for row in rows) == first.total.margin_nano_usd

    costs = Counter[str]()
    for settlement in settlements:
        costs[settlement.user_id] += settlement.charges[0].cost_nano_usd
    report = await economics(quota, 35)
    assert (report.from_day, report.to_day) == ("2026-01-01", "2026-02-04")
    for parts in ([row.margin.use for row in report.tiers], [row.margin.use for row in report.days],
                  [row.use for row in report.models], [row.use for row in report.kinds]):  # fmt: skip
        assert sum(use.cost_nano_usd for use in parts) == sum(costs.values())
    assert [row.tier for row in report.tiers] == list(tiers)
    assert [row.use.cost_nano_usd for row in report.models] == sorted(
        (row.use.cost_nano_usd for row in report.models), reverse=True
    )
    assert [(row.day, tiers.index(row.tier)) for row in report.days] == sorted(
        (row.day, tiers.index(row.tier)) for row in report.days
    )
    assert [row.user_id for row in report.top_users] == [user for user, _ in costs.most_common(10)]


async def test_today_is_counted_by_the_terms_held_now(quota: Quota) -> None:
    await quota.user("pro", "ann")
    await quota.user("enterprise", "bob")
    share = day_revenue(PRO, FIRST)
    await spend(quota, [Spent("ann", "pro", FIRST, Use(1, cost_nano_usd=share + 1))])
    report = await economics(quota, 1)
    assert figures(report.total) == (share, share + 1, -1, True)
    assert [(row.tier, row.users, row.margin.unsustainable) for row in report.tiers] == [
        ("free", 0, False), ("basic", 0, False), ("pro", 1, True), ("enterprise", 1, False),
    ]  # fmt: skip
    assert [row.user_id for row in report.unprofitable_users] == ["ann"]
    assert figures(report.unprofitable_users[0].margin) == (share, share + 1, -1, True)
    month = await statement(quota, "2026-01")
    assert (figures(month.total), month.closed) == (figures(report.total), False)
    assert [user.user_id for user in month.users] == ["ann"]
    await set_tier(quota, "ann", "basic")
    assert (await economics(quota, 1)).total.revenue_nano_usd == day_revenue(BASIC, FIRST)


async def test_a_day_brings_in_the_same_before_and_after_it_is_closed(quota: Quota) -> None:
    await quota.user("pro", "ann")
    await quota.user("basic", "bob")
    quota.clock.advance(TO_CLOSING_MS - 1)
    await set_tier(quota, "ann", "free")
    before = await economics(quota, 2)
    assert before.total.revenue_nano_usd == sum(
        (day_revenue(PRO, FIRST), day_revenue(BASIC, FIRST), day_revenue(BASIC, "2026-01-02"))
    )
    quota.clock.advance(1)
    await quota.service.closing.close_all()
    assert await quota.rows("SELECT 1 FROM quota_revenue") != []
    assert await economics(quota, 2) == before


async def test_a_day_that_is_being_closed_counts_once(quota: Quota) -> None:
    await quota.user("pro", "ann")
    await quota.user("pro", "bob")
    await spend(quota, [Spent(user_id, "pro", FIRST, Use(1, cost_nano_usd=10**11)) for user_id in ("ann", "bob")])
    quota.clock.advance(TO_CLOSING_MS)
    before = await economics(quota, 2), await statement(quota, "2026-01")
    kept = Revenue(FIRST, "ann", "pro", day_revenue(PRO, FIRST))
    await SqlStore(quota.database).write(lambda tx: tx.insert_revenue([kept]))
    assert (await economics(quota, 2), await statement(quota, "2026-01")) == before


async def test_a_day_that_is_closed_meanwhile_counts_once(quota: Quota) -> None:
    await quota.user("pro", "ann")
    await spend(quota, [Spent("ann", "pro", FIRST, Use(1, cost_nano_usd=10**11))])
    quota.clock.advance(TO_CLOSING_MS)

    class ClosesAfterTheFirstRead(SqlStore):
        async def read(self, transaction: Callable[[Transaction], T]) -> T:
            value = await super().read(transaction)
            await quota.service.closing.close_all()
            return value

    before = await Economics(SqlStore(quota.database), quota.plans, quota.clock).report(2, 10)
    store = ClosesAfterTheFirstRead(quota.database)
    assert await Economics(store, quota.plans, quota.clock).report(2, 10) == before
    assert await quota.rows("SELECT 1 FROM quota_tier_days") != []


async def test_who_pays_more_than_they_cost_is_not_among_the_unprofitable(quota: Quota) -> None:
    for user_id, tier in (("ann", "basic"), ("bob", "pro"), ("cy", "free"), ("di", "pro")):
        await quota.user(tier, user_id)
    costs = {"ann": 10**9, "bob": 2 * 10**9, "cy": 7 * 10**8, "di": 10**9}
    await spend(quota, [Spent(u, "x", FIRST, Use(1, cost_nano_usd=cost)) for u, cost in costs.items()])
    quota.clock.advance(TO_CLOSING_MS)
    await quota.service.closing.close_all()
    report = await economics(quota)
    assert [row.user_id for row in report.top_users] == ["bob", "ann", "di", "cy"]
    assert [row.user_id for row in report.unprofitable_users] == ["cy", "ann"]
    assert [row.tier for row in report.tiers] == ["free", "basic", "pro", "enterprise", "x"]
    assert [row.user_id for row in (await economics(quota, top=1)).top_users] == ["bob"]


async def test_an_erased_users_past_stays(quota: Quota) -> None:
    await quota.user("pro", "ann")
    await spend(quota, [Spent("ann", "pro", FIRST, Use(1, cost_nano_usd=5))])
    quota.clock.advance(TO_CLOSING_MS)
    await quota.service.closing.close_all()
    for table in ("keys", "terms", "users"):
        await quota.database.write(lambda c, t=table: c.exec_driver_sql(f"DELETE FROM quota_{t}").rowcount)
    month = await statement(quota, "2026-01")
    share = day_revenue(PRO, FIRST)
    assert [(user.user_id, user.tier, *figures(user.margin)) for user in month.users] == [
        ("ann", "", share, 5, share - 5, False)
    ]
    assert figures(month.total) == (share, 5, share - 5, False)


async def test_a_month_is_closed_once_its_days_are_and_nothing_of_it_is_under_way(quota: Quota) -> None:
    _, key = await quota.user("pro", "ann")
    quota.clock.advance(30 * DAY_MS)
    id_ = "req_0000000000000000000001"
    await quota.reserve(key, id_)
    quota.clock.advance(TO_CLOSING_MS)
    assert not (await statement(quota, "2026-01")).closed
    await quota.service.closing.close_all()
    assert not (await statement(quota, "2026-01")).closed
    await quota.settle(id_, "ann", counted=True)
    answer = await statement(quota, "2026-01")
    assert (answer.closed, answer.month, answer.total.revenue_nano_usd) == (True, "2026-01", PRO)
    assert not (await statement(quota, "2026-02")).closed
    assert (await statement(quota, "2025-12")).closed


@pytest.mark.parametrize("counted", [True, False])
async def test_a_month_is_open_while_what_ended_in_it_is_not_settled(
    quota: Quota, new_id: Callable[[], str], charge: Callable[..., quota_pb2.Charge], counted: bool
) -> None:
    user, key = await quota.user("pro")
    id_ = (await quota.reserve(key, new_id())).request_id
    assert quota.scheduler.submit(id_, 1)
    quota.scheduler.requests[id_] = counted
    quota.clock.advance(32 * DAY_MS)
    await quota.service.resolver.resolve_all()
    await quota.service.closing.close_all()
    assert not (await statement(quota, "2026-01")).closed
    await quota.settle(id_, user, counted, charge())
    assert (await statement(quota, "2026-01")).closed


NO_MONTHS = ("", "2026", "2026-13", "2026-00", "2026-1", "2026-01-01", "26-01", "2026-W1", "\uff12026-01")
BAD: list[tuple[str, object, str]] = [
    *[("GetEconomics", pb.GetEconomicsRequest(days=days), "days") for days in (-1, 367)],
    *[("GetEconomics", pb.GetEconomicsRequest(top_users=n), "top_users") for n in (-1, 101)],
    # The last two have not begun.
    *[("GetStatement", pb.GetStatementRequest(month=m), "month") for m in (*NO_MONTHS, "2026-02", "9999-12")],
    *[("GetStatement", pb.GetStatementRequest(month="2026-01", page_size=n), "page_size") for n in (-1, 1_001)],
    *[
        ("GetStatement", pb.GetStatementRequest(month="2026-01", page_token=token), "page_token")
        for token in ("x" * 129, "\x00")
    ],
]


@pytest.mark.parametrize(("call", "request_", "field"), BAD)
async def test_bad_input_is_refused_with_its_field(quota: Quota, call: str, request_: object, field: str) -> None:
    refusal = await refused(getattr(quota.ledger, call)(request_))
    assert (refusal.reason, refusal.metadata["field"]) == ("INVALID_REQUEST", field)


async def test_no_answer_reads_the_ledger(quota: Quota) -> None:
    await quota.user("pro", "ann")
    read: list[str] = []

    def note(connection: Connection, cursor: object, statement: str, *more: object) -> None:
        read.append(statement)

    event.listen(quota.database.engine, "before_cursor_execute", note)
    await economics(quota)
    await statement(quota, utc_day(quota.clock.now_ms())[:7])
    assert any("quota_hours" in text for text in read)
    assert not any("quota_charges" in text for text in read)
