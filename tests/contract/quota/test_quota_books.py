"""`headgate-quota audit` finds every kind of damage, on both databases."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
from headgate.quota.v1 import quota_pb2 as pb
from sqlalchemy import text

from services import sql
from services.quota.__main__ import MOST_SHOWN
from services.quota.audit import Audit
from services.quota.audit_books import SqlBooks
from tests.servers.quota import DEADLINE_S, Quota

NewId = Callable[[], str]
MakeCharge = Callable[..., pb.Charge]


@pytest.fixture
async def books(quota: Quota, new_id: NewId, charge: MakeCharge) -> Quota:
    """Two users with a counted, a given back, a pending and an estimated request, and a closed day."""
    for name in ("ann", "bob"):
        user_id, key = await quota.user("pro", name)
        told = {"user_id": user_id, "final": True, "day": "2026-01-01", "tier": "pro", "kind": "pie", "model": "m"}
        for counted, made in (
            (True, charge(cache_read_input_tokens=10, cost_nano_usd=351_000)),
            (False, charge(cost_nano_usd=7, estimated=True)),
        ):
            id_ = (await quota.reserve(key, new_id())).request_id
            one = pb.Settlement(request_id=id_, counted=counted, charges=[made], **told)
            await quota.stub.Settle(pb.SettleRequest(settlements=[one]))
        await quota.reserve(key, new_id())
    await damage(
        quota,
        "INSERT INTO quota_revenue VALUES ('2025-12-31', 'ann', 'pro', 5), ('2025-12-31', 'bob', 'pro', 6)",
        "INSERT INTO quota_tier_days VALUES ('2025-12-31', 'pro', 2, 11), ('2025-12-31', 'free', 0, 0)",
    )
    return quota


async def damage(quota: Quota, *statements: str) -> None:
    for statement in statements:
        changed = await quota.database.write(lambda connection, s=statement: connection.execute(text(s)).rowcount)
        assert changed, statement


def audited(quota: Quota, url: str, **prices: str) -> tuple[list[str], str]:
    with sql.snapshot(url) as connection:
        audit = Audit(SqlBooks(connection), replace(quota.prices, **prices))
        return list(map(str, audit.differences())), audit.summary()


async def test_sound_books_are_clean(books: Quota, database_url: str) -> None:
    assert audited(books, database_url) == ([], "4 charges, 2 of them estimates")


DAMAGE = {
    "a charge's cost": (
        "UPDATE quota_charges SET cost_nano_usd = 351001 WHERE user_id = 'ann' AND NOT estimated",
        [
            "quota_charges  req_",
            "attempt 1 turn 1 of 2026-01-01, claude-haiku-4-5: cost_nano_usd is 351,001, should be 351,000",
        ],
    ),
    "a charge's tokens": (
        "UPDATE quota_charges SET output_tokens = 51 WHERE user_id = 'ann' AND NOT estimated",
        [
            "cost_nano_usd is 351,000, should be 356,000",
            "quota_days  ann, 2026-01-01: output_tokens is 100, should be 101",
        ],
    ),
    "a charge that is lost": (
        "DELETE FROM quota_charges WHERE user_id = 'ann' AND NOT estimated",
        ["quota_days  ann, 2026-01-01: input_tokens is 200, should be 100", "quota_hours  2026-01-01 12h, tier pro"],
    ),
    "an estimate that is lost": (
        "DELETE FROM quota_charges WHERE user_id = 'bob' AND estimated",
        ["quota_days  bob, 2026-01-01", "cost_nano_usd is 351,007, should be 351,000"],
    ),
    "a charge of another model": (
        "UPDATE quota_charges SET model = 'unknown' WHERE user_id = 'ann' AND NOT estimated",
        [
            "unknown, which has no price: cost_nano_usd is 351,000, should be 0",
            "quota_hours  2026-01-01 12h, tier pro, unknown",
        ],
    ),
    "a charge of another tier": (
        "UPDATE quota_charges SET tier = 'free' WHERE user_id = 'ann'",
        ["quota_hours  2026-01-01 12h, tier free", "quota_hours  2026-01-01 12h, tier pro"],
    ),
    "a charge of another day": (
        "UPDATE quota_charges SET day = '2026-01-02' WHERE user_id = 'ann'",
        ["quota_days  ann, 2026-01-01", "quota_days  ann, 2026-01-02", "quota_hours  2026-01-02 00h"],
    ),
    "a place too many": (
        "UPDATE quota_days SET used = used + 1 WHERE user_id = 'bob'",
        ["quota_days  bob, 2026-01-01: used is 3, should be 2"],
    ),
    "a reservation that is lost": (
        "DELETE FROM quota_reservations WHERE user_id = 'bob' AND state = 'pending'",
        ["quota_days  bob, 2026-01-01: used is 2, should be 1"],
    ),
    "a day that is lost": (
        "DELETE FROM quota_days WHERE user_id = 'bob'",
        ["quota_days  bob, 2026-01-01: used is 0, should be 2", "quota_days  bob, 2026-01-01: input_tokens is 0"],
    ),
    "a day's cost": (
        "UPDATE quota_days SET cost_nano_usd = cost_nano_usd + 1 WHERE user_id = 'bob'",
        [
            "quota_days  bob, 2026-01-01: cost_nano_usd is 351,008, should be 351,007",
            "all of 2026-01-01 against quota_days",
        ],
    ),
    "a day's requests": (
        "UPDATE quota_days SET requests = requests + 1 WHERE user_id = 'bob'",
        ["quota_hours  all of 2026-01-01 against quota_days: requests is 4, should be 5"],
    ),
    "a day's savings": (
        "UPDATE quota_days SET saved_by_prompt_cache_nano_usd = 0 WHERE user_id = 'bob'",
        ["all of 2026-01-01 against quota_days: saved_by_prompt_cache_nano_usd is 18,000, should be 9,000"],
    ),
    "an hour's savings": (
        "UPDATE quota_hours SET saved_by_prompt_cache_nano_usd = 1 WHERE kind = 'flowchart'",
        ["tier pro, claude-haiku-4-5, flowchart: saved_by_prompt_cache_nano_usd is 1, should be 18,000"],
    ),
    "an hour that is lost": (
        "DELETE FROM quota_hours WHERE kind = 'flowchart'",
        ["quota_hours  2026-01-01 12h, tier pro, claude-haiku-4-5, flowchart: input_tokens is 0, should be 400"],
    ),
    "an hour of a day without charges": (
        "INSERT INTO quota_hours (hour, tier, model, kind, cost_nano_usd) VALUES (0, '', '', '', 3)",
        ["quota_hours  1970-01-01 00h, tier -, -, -: cost_nano_usd is 3, should be 0"],
    ),
    "revenue": (
        "UPDATE quota_revenue SET revenue_nano_usd = 7 WHERE user_id = 'bob'",
        ["quota_tier_days  pro, 2025-12-31: revenue_nano_usd is 11, should be 12"],
    ),
    "revenue that is lost": ("DELETE FROM quota_revenue", ["quota_tier_days  pro, 2025-12-31: revenue_nano_usd is 11"]),
    "a closed day that is lost": (
        "DELETE FROM quota_tier_days WHERE tier = 'pro'",
        ["quota_tier_days  pro, 2025-12-31: revenue_nano_usd is 0, should be 11"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
async def test_each_kind_of_damage_is_told(books: Quota, database_url: str, kind: str) -> None:
    statement, told = DAMAGE[kind]
    await damage(books, statement)
    found = "\n".join(audited(books, database_url)[0])
    assert [part for part in told if part not in found] == [], found


async def test_what_older_prices_priced_is_counted_and_not_priced_again(books: Quota, database_url: str) -> None:
    await damage(books, "UPDATE quota_charges SET cost_nano_usd = cost_nano_usd + 1 WHERE NOT estimated")
    await damage(books, "UPDATE quota_days SET cost_nano_usd = cost_nano_usd + 1")
    await damage(books, "UPDATE quota_hours SET cost_nano_usd = cost_nano_usd + 2 WHERE kind = 'flowchart'")
    assert len(audited(books, database_url)[0]) == 2, "two costs, and nothing else: the sums agree"
    told = "2 are from days before these prices hold, so what they cost was not computed again"
    assert audited(books, database_url, in_force_from="2026-01-02") == (
        [],
        f"4 charges, 2 of them estimates; {told}",
    )


async def test_the_audit_sees_one_moment(books: Quota, new_id: NewId, charge: MakeCharge, database_url: str) -> None:
    """While it reads, requests are settled: that is no disagreement, and nobody waits for it."""
    with sql.snapshot(database_url) as connection:
        differences = Audit(SqlBooks(connection), books.prices).differences()
        assert SqlBooks(connection).use("2026-01-01").requests == 4
        one = pb.Settlement(request_id=new_id(), user_id="ann", charges=[charge()], final=True)
        await books.stub.Settle(pb.SettleRequest(settlements=[one]))
        assert list(differences) == []
    assert audited(books, database_url) == ([], "5 charges, 2 of them estimates")


async def command(url: str) -> tuple[int | None, str, str]:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), "HEADGATE_DATABASE_URL": url}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.quota", "audit", env=environment, stdout=-1, stderr=-1
    )
    out, errors = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    return process.returncode, out.decode(), errors.decode()


async def test_the_command(database_url: str) -> None:
    assert await command(database_url) == (0, "All rows agree. 0 charges, 0 of them estimates.\n", "")
    engine = sql.connect_for_migration(database_url)
    with engine.begin() as connection:
        for number in range(MOST_SHOWN + 5):
            connection.execute(
                text(f"INSERT INTO quota_days (user_id, day, used) VALUES ('u{number}', '2026-01-01', 1)")
            )
    engine.dispose()
    status, out, errors = await command(database_url)
    lines = out.splitlines()
    assert (status, errors, len(lines)) == (1, "", MOST_SHOWN + 1)
    assert lines[0] == "quota_days  u0, 2026-01-01: used is 1, should be 0"
    assert lines[-1] == "105 rows do not agree, of which 100 are shown. 0 charges, 0 of them estimates."


async def test_the_command_says_why_it_cannot_run(tmp_path: object) -> None:
    status, out, errors = await command(f"sqlite:///{tmp_path}/none.db")
    assert (status, out) == (2, "")
    assert "schema is older" in errors
