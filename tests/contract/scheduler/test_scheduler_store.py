"""What the scheduler's store promises, on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from services import sql
from services.pricing import Tokens
from services.scheduler.life import (
    TRANSITIONS,
    End,
    Refused,
    Request,
    Retry,
    Standing,
    State,
    Submission,
    TierTerms,
    Turn,
)
from services.scheduler.rebuild import SqlIdentity
from services.scheduler.store import SqlRequests
from services.scheduler.tables import metadata
from tests.servers.postgres import PostgresServer
from tests.servers.scheduler import migrate, sqlite_url

NOW = 1_795_500_000_000
DONE = End(State.COMPLETED, result="flowchart TD", svg="<svg/>")
TERMS = TierTerms("pro", 1, 4, 100)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        migrate(sqlite_url(tmp_path))
        yield sqlite_url(tmp_path)
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = server.cloned("scheduler_template", migrate)
    yield server.url(name)
    server.drop(name)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[sql.Database]:
    database = sql.connect(database_url)
    yield database
    await database.close()


@pytest.fixture
def store(database: sql.Database) -> SqlRequests:
    return SqlRequests(database)


def submission(number: int = 1, **changes: object) -> Submission:
    made = Submission(
        request_id=f"req_{number}", user_id="ada", tier=TERMS, generation=1, day="2026-11-24", pool="sonnet",
        model="claude-sonnet-5-5", diagram_type="mermaid", prompt="p", max_tokens=10, priority=0,
        max_wait_ms=60_000, idempotent=False, work_hash="h", estimated_input_tokens=1, estimated_output_tokens=2,
        traceparent="",
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


def turn(attempt: int = 1, number: int = 1, cost: int = 7) -> Turn:
    return Turn(attempt, number, "claude-sonnet-5-5", Tokens(input=3, output=4, cache_read=5), cost, False, NOW)


async def accepted(store: SqlRequests, number: int = 1, **changes: object) -> Request:
    return (await store.submit(submission(number, **changes), NOW))[0]


async def running(store: SqlRequests, number: int = 1) -> Request:
    row = await accepted(store, number)
    begun = await store.begin(row.request_id, 0, NOW + 1)
    assert begun is not None
    return begun


async def test_an_accepted_request_reads_back_whole(store: SqlRequests) -> None:
    await accepted(store)
    begun = await store.begin("req_1", 0, NOW + 5)
    assert begun is not None
    assert (begun.state, begun.attempt, begun.prompt, begun.started_ms) == (State.RUNNING, 1, "p", NOW + 5)
    (ended,) = await store.finish("req_1", 1, DONE, [turn(), turn(number=2)], NOW + 9)
    assert (ended.tokens, ended.cost_nano_usd) == (Tokens(input=6, output=8, cache_read=10), 14)
    row = await store.get("req_1", svg=True)
    assert row is not None
    assert (row.state, row.result, row.svg, row.has_svg, row.ended_ms) == (
        State.COMPLETED, "flowchart TD", "<svg/>", True, NOW + 9,
    )  # fmt: skip
    (told,) = await store.settlements(10)
    assert (told.request_id, told.final, told.counted, told.turns) == ("req_1", True, True, (turn(), turn(number=2)))


async def test_every_transition_is_guarded_by_state_and_attempt(store: SqlRequests) -> None:
    await running(store)
    assert await store.begin("req_1", 0, NOW) is None
    assert not await store.finish("req_1", 2, DONE, [], NOW)
    assert await store.requeue("req_1", 2, Retry(0, ""), [], NOW) is None
    assert not await store.deliver("req_1", 2)
    queued = await store.requeue("req_1", 1, Retry(NOW + 50, "", failed=True, lost=True), [turn()], NOW)
    assert queued is not None
    assert (queued.state, queued.failures, queued.losses, queued.not_before_ms) == (State.QUEUED, 1, 1, NOW + 50)
    assert not await store.finish("req_1", 1, DONE, [], NOW), "a late worker"
    assert await store.begin("req_1", 0, NOW) is None, "an old pop"
    assert (await store.begin("req_1", 1, NOW)) is not None
    cancelled, did = await store.cancel("req_1", "ada", erase=False, now_ms=NOW)
    assert did
    assert cancelled is not None
    assert cancelled.state is State.CANCELLED
    assert not await store.finish("req_1", 2, DONE, [turn(2)], NOW), "a cancel is never overwritten"
    assert await store.cancel("req_1", "ada", erase=False, now_ms=NOW) == (await store.get("req_1"), False)
    assert [s.final for s in await store.settlements(10)] == [False, True]


@pytest.mark.parametrize("end", [s for s in State if s.ended])
async def test_an_end_is_for_good(store: SqlRequests, end: State) -> None:
    assert TRANSITIONS[end] == frozenset()
    if end is State.EXPIRED:
        await accepted(store)
        assert [r.request_id for r in await store.expire(NOW + 60_000, 10)] == ["req_1"]
    elif end is State.CANCELLED:
        await accepted(store)
        await store.cancel("req_1", "ada", erase=False, now_ms=NOW)
    else:
        await running(store)
        await store.finish("req_1", 1, replace(DONE, state=end), [], NOW)
    before = await store.get("req_1")
    assert await store.begin("req_1", 0, NOW) is None
    assert await store.begin("req_1", 1, NOW) is None
    assert not await store.finish("req_1", 1, DONE, [], NOW)
    assert await store.requeue("req_1", 1, Retry(0, ""), [], NOW) is None
    assert await store.expire(NOW + 9_000_000, 10) == []
    assert (await store.cancel("req_1", "ada", erase=False, now_ms=NOW))[1] is False
    assert await store.get("req_1") == before
    assert len(await store.settlements(10)) == 1


@pytest.mark.parametrize(("delivered", "counts"), [(False, False), (True, True)])
async def test_a_cancelled_request_counts_only_if_output_was_shown(
    store: SqlRequests, delivered: bool, counts: bool
) -> None:
    await running(store)
    if delivered:
        assert await store.deliver("req_1", 1)
    await store.cancel("req_1", "ada", erase=False, now_ms=NOW)
    assert [(s.final, s.counted) for s in await store.settlements(10)] == [(True, counts)]
    assert await store.account([("req_1", 1)], NOW) == [(Standing.ENDED, counts)]


async def test_an_attempts_turns_are_added_once(store: SqlRequests) -> None:
    await running(store)
    await store.cancel("req_1", "ada", erase=False, now_ms=NOW)
    await store.charge("req_1", 1, [turn(), turn(number=2)])
    await store.charge("req_1", 1, [turn(), turn(number=2)])
    row = await store.get("req_1")
    assert row is not None
    assert (row.cost_nano_usd, row.tokens.input) == (14, 6)
    assert [len(s.turns) for s in await store.settlements(10)] == [0, 2]


async def test_what_was_cancelled_is_unpaid_until_its_attempt_is_accounted_for(store: SqlRequests) -> None:
    for number in range(1, 5):
        await running(store, number)
    # The fourth goes back to the queue, and its attempt had cost nothing.
    await store.requeue("req_4", 1, Retry(0, "a 429"), [], NOW)
    for number in range(1, 5):
        await store.cancel(f"req_{number}", "ada", erase=False, now_ms=NOW)
    await store.charge("req_1", 1, [])
    await store.charge("req_2", 1, [turn()])
    assert [row.request_id for row in await store.unpaid(10, NOW - 1, NOW)] == ["req_3"]
    assert await store.unpaid(10, NOW + 1, NOW + 2) == await store.unpaid(10, NOW - 2, NOW - 1) == []
    await store.charge("req_3", 1, [turn(cost=8)])
    await store.charge("req_3", 1, [turn(cost=9)])
    assert await store.unpaid(10, NOW - 1, NOW) == []
    told = [(s.request_id, [t.cost_nano_usd for t in s.turns]) for s in await store.settlements(10) if s.turns]
    assert told == [("req_2", [7]), ("req_3", [8])]


async def test_a_repeated_submit_is_the_same_request(store: SqlRequests) -> None:
    first, replayed = await store.submit(submission(), NOW)
    again, second_replayed = await store.submit(submission(idempotent=True), NOW + 5)
    assert (replayed, second_replayed) == (False, True)
    assert again.acceptance == first.acceptance
    with pytest.raises(Refused, match="Idempotency-Key") as refused:
        await store.submit(submission(idempotent=True, work_hash="other"), NOW)
    assert refused.value.reason == "IDEMPOTENCY_CONFLICT"
    with pytest.raises(Refused) as refused:
        await store.submit(submission(user_id="eve"), NOW)
    assert refused.value.reason == "NOT_FOUND"


async def test_a_tombstone_refuses_its_generation_and_lower_ones(store: SqlRequests) -> None:
    assert await store.account([("req_1", 3)], NOW) == [(Standing.ABSENT, False)]
    assert await store.account([("req_1", 2)], NOW) == [(Standing.ABSENT, False)], "never lowered"
    for generation in (1, 2, 3):
        with pytest.raises(Refused) as refused:
            await store.submit(submission(generation=generation), NOW)
        assert refused.value.reason == "RESERVATION_STALE"
    assert (await store.submit(submission(generation=4), NOW))[1] is False
    assert await store.account([("req_1", 4)], NOW) == [(Standing.LIVE, False)]


async def test_submit_and_account_of_one_id_agree_whoever_is_first(store: SqlRequests) -> None:
    for number in range(40):
        outcome, (answer,) = await asyncio.gather(
            store.submit(submission(number), NOW),
            store.account([(f"req_{number}", 1)], NOW),
            return_exceptions=True,
        )
        was_accepted = not isinstance(outcome, BaseException)
        assert answer == ((Standing.LIVE, False) if was_accepted else (Standing.ABSENT, False))


async def test_the_outstanding_cap_is_exact_under_200_concurrent_calls(store: SqlRequests) -> None:
    capped = TierTerms("free", 1, 1, 10)
    calls = [store.submit(submission(n, tier=capped), NOW) for n in range(200)]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(not isinstance(a, BaseException) for a in answers) == 10
    assert {a.reason for a in answers if isinstance(a, Refused)} == {"CONCURRENCY_LIMIT_EXCEEDED"}
    assert await store.outstanding("ada") == 10
    first = next(a[0] for a in answers if not isinstance(a, BaseException))
    await store.cancel(first.request_id, "ada", erase=False, now_ms=NOW)
    assert await store.outstanding("ada") == 9
    assert (await store.submit(submission(500, tier=capped), NOW))[1] is False, "the slot came back"


async def test_the_newest_tier_wins_whatever_comes_first(store: SqlRequests) -> None:
    newer = TierTerms("enterprise", 5, 8, 100)
    await store.apply_tiers([("ada", newer)])
    assert (await accepted(store)).tier == "enterprise"
    await store.apply_tiers([("ada", replace(newer, name="free", version=4))])
    assert (await accepted(store, 2)).tier == "enterprise"
    assert (await accepted(store, 3, tier=replace(TERMS, name="basic", version=6))).tier == "basic"


async def test_a_change_of_tier_reaches_the_rows_that_have_not_ended(store: SqlRequests) -> None:
    await running(store, 1)
    await accepted(store, 2)
    await running(store, 3)
    await store.finish("req_3", 1, DONE, [], NOW)
    await accepted(store, 4, user_id="eve")
    terms = TierTerms("enterprise", 2, 8, 100)
    (told,) = await store.apply_tiers([("ada", terms)])
    assert (told[0], [(r.request_id, r.tier, r.share) for r in told[1]]) == (
        terms, [("req_1", "enterprise", 8), ("req_2", "enterprise", 8)],
    )  # fmt: skip
    assert await store.apply_tiers([("ada", terms)]) == [told], "repeatable"
    tiers = {n: (await store.get(f"req_{n}")).tier for n in (3, 4)}  # type: ignore[union-attr]
    assert tiers == {3: "pro", 4: "pro"}


async def test_one_pop_wins_when_two_schedulers_begin_the_same_request(store: SqlRequests) -> None:
    await accepted(store)
    both = await asyncio.gather(*(store.begin("req_1", 0, NOW) for _ in range(20)))
    assert sum(row is not None for row in both) == 1


async def test_lists_are_newest_first_and_paged(store: SqlRequests) -> None:
    for number in range(5):
        await accepted(store, number)
    await accepted(store, 9, user_id="eve")
    page = await store.of_user("ada", 3, None)
    assert [(r.request_id, r.prompt) for r in page] == [("req_4", "p"), ("req_3", "p"), ("req_2", "p")]
    assert [r.request_id for r in await store.of_user("ada", 3, page[-1].acceptance)] == ["req_1", "req_0"]


async def test_sweeps_find_what_is_theirs(store: SqlRequests) -> None:
    for number in range(4):
        await accepted(store, number)
    await store.begin("req_1", 0, NOW)
    await store.begin("req_2", 0, NOW)
    await store.finish("req_2", 1, DONE, [], NOW)
    queued = await store.unfinished(State.QUEUED, 0, 10)
    assert [r.request_id for r in queued] == ["req_0", "req_3"]
    assert [r.request_id for r in await store.unfinished(State.QUEUED, queued[0].acceptance, 10)] == ["req_3"]
    assert [r.request_id for r in await store.unfinished(State.RUNNING, 0, 10)] == ["req_1"]
    assert [r.request_id for r in await store.untold(10, NOW)] == ["req_2"]
    assert await store.untold(10, NOW - 1) == []
    await store.tell([("req_2", 44)])
    await store.tell([("req_2", 55)])
    assert await store.untold(10, NOW) == []
    told = await store.get("req_2")
    assert told is not None
    assert told.final_seq == 44
    assert await store.queue() == [("sonnet", "pro", 2, NOW)]
    (settlement,) = await store.settlements(10)
    await store.settled([settlement.outbox_id])
    assert await store.settlements(10) == []


async def test_a_number_of_the_outbox_is_never_used_again(store: SqlRequests) -> None:
    """Two replicas read a row; one delivers and deletes it; the other must not delete the next one by its number."""
    await running(store, 1)
    await store.finish("req_1", 1, DONE, [], NOW)
    (first,) = await store.settlements(10)
    await store.settled([first.outbox_id])
    await running(store, 2)
    await store.finish("req_2", 1, DONE, [], NOW)
    await store.settled([first.outbox_id])
    assert [s.request_id for s in await store.settlements(10)] == ["req_2"]


async def test_erasing_leaves_the_request_without_its_words(store: SqlRequests) -> None:
    await running(store)
    await store.finish("req_1", 1, DONE, [turn()], NOW)
    row, did = await store.cancel("req_1", "ada", erase=True, now_ms=NOW)
    assert not did
    assert row is not None
    assert (row.state, row.result, row.has_svg, row.cost_nano_usd) == (State.COMPLETED, "", False, 7)
    whole = await store.get("req_1", prompt=True, svg=True)
    assert whole is not None
    assert (whole.prompt, whole.svg) == ("", "")


async def test_what_is_old_is_deleted_and_nothing_else(store: SqlRequests) -> None:
    for number in range(4):
        await running(store, number)
    for number in range(3):
        await store.finish(f"req_{number}", 1, DONE, [], NOW + number)
    await store.tell([("req_0", 1), ("req_1", 2)])
    await store.account([("req_gone", 1)], NOW)
    assert await store.purge(NOW + 9, 1) == 1, "a batch at a time, oldest first"
    assert [await store.get(f"req_{n}") is None for n in range(4)] == [True, False, False, False]
    assert await store.purge(NOW + 9, 10) == 1
    assert [await store.get(f"req_{n}") is None for n in range(4)] == [True, True, False, False], (
        "untold and running stay"
    )


async def test_only_one_rebuilds(database: sql.Database) -> None:
    identity = SqlIdentity(database)
    assert await identity.read() == (0, "", 0)
    claims = await asyncio.gather(*(identity.claim(0, NOW) for _ in range(10)))
    assert sum(claims) == 1
    assert not await identity.claim(1, NOW + 29_999), "locked"
    assert await identity.claim(1, NOW + 30_001), "the rebuilder died"
    assert not await identity.adopt(1, "run"), "the dead one comes back"
    assert await identity.adopt(2, "run")
    assert await identity.read() == (2, "run", 0)


def test_the_migrations_make_the_tables(database_url: str) -> None:
    engine = sql.connect_for_migration(database_url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": "scheduler_version"})
        assert compare_metadata(context, metadata) == []
    engine.dispose()
