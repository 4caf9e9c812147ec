"""headgate-plan as it is called: a private Valkey, the real scripts, and what it prints and draws.

Broken once on purpose: without `_expire_due` the queue of the small plan outlives its users' patience; with every
script's answer deferred nothing is dispatched; without the daily limit in `_accept` nobody is refused; with a
beginning that is no midnight, without `_grows`, with an end that does not dispatch again, with cached rows recorded or
with users' own names the test of each fails.
"""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
from sqlalchemy import insert

from services import sql
from services.scheduler.planner import __main__ as command
from services.scheduler.planner.drive import DAY, OUTSTANDING, Answer, Arrival, Drive, Journey, Plan
from services.scheduler.planner.record import record
from services.scheduler.planner.server import private_valkey
from services.scheduler.planner.traffic import Traffic, read_traffic
from services.scheduler.planner.virtual import virtual_line
from services.scheduler.tables import requests
from tests.servers.scheduler import migrate
from tests.servers.valkey import ValkeyServer

DAY_MS, HOUR_MS = 86_400_000, 3_600_000
START_MS = 1_796_000_000_000


def arrivals(*moments_ms: int, user: str = "u", tier: str = "pro") -> list[Arrival]:
    return [Arrival(at_ms, user, tier, 500, answer=Answer(1_500, 20_000)) for at_ms in moments_ms]


async def driven(valkey: ValkeyServer, plan: Plan, sent: Sequence[Arrival]) -> Drive:
    async with virtual_line(valkey.url, "sonnet") as line:
        drive = Drive(line, "sonnet", plan, Traffic(sent, {}, 1), watched=False)
        await drive.run(sent)
        assert await line.view("sonnet") == {**await line.view("sonnet"), "running": 0}, "nothing is held at its end"
    return drive


def waits_s(journeys: Sequence[Journey]) -> list[float]:
    return [round((journey.waited_ms or 0) / 1000) for journey in journeys]


async def test_an_idle_plan_serves_at_once_and_a_busy_one_at_its_pace(valkey: ValkeyServer) -> None:
    plan = Plan({"requests": 60, "tokens": 1_000_000}, {"pro": 4})
    alone = await driven(valkey, plan, arrivals(10_000, 20_000, 30_000))
    assert [journey.waited_ms for journey in alone.journeys.values()] == [0, 0, 0]
    crowd = await driven(valkey, plan, arrivals(*[10_000] * 60))
    assert waits_s([*crowd.journeys.values()])[-1] == pytest.approx(60, abs=3)


async def test_long_answers_hold_up_who_comes_next(valkey: ValkeyServer) -> None:
    """Tokens in debt, slots taken, and what an end gives back."""
    tokens = await driven(valkey, Plan({"tokens": 6_000}, {"pro": 4}), arrivals(*range(60_000, 64_000, 100)))
    assert waits_s([*tokens.journeys.values()])[-1] == pytest.approx(40 * 2_000 / 100, abs=25)
    slots = await driven(valkey, Plan({"requests": 6_000}, {"pro": 4}, slots=2), arrivals(*[1_000] * 6))
    assert waits_s([*slots.journeys.values()]) == [0, 0, 20, 20, 40, 40]


async def test_an_answer_takes_from_the_limits_as_it_grows(valkey: ValkeyServer) -> None:
    long = Arrival(60_000, "u", "pro", 500, answer=Answer(12_000, 120_000))
    drive = await driven(valkey, Plan({"tokens": 6_000}, {"pro": 4}), [long, *arrivals(120_000)])
    assert waits_s([*drive.journeys.values()])[1] > 5, "half of it was written by then, and more than the limit gave"


async def test_what_a_user_may_not_do_is_refused_and_what_expires_is_given_back(valkey: ValkeyServer) -> None:
    plan = Plan({"requests": 60}, {"pro": 4, "free": 1}, 1, {"pro": 3}, {"free": 2}, max_wait_ms=30_000)
    pro = arrivals(*[5_000] * 5)
    free = arrivals(100_000, 200_000, 300_000, DAY_MS + 1_000, user="f", tier="free")
    drive = await driven(valkey, plan, [*pro, *free])
    assert drive.refused == {("pro", OUTSTANDING): 2, ("free", DAY): 1}
    assert [journey.waited_ms for journey in drive.journeys.values()] == [0, 20_000, None, 0, 0, 0]
    again = await driven(
        valkey, Plan({"requests": 60}, {"pro": 4}, 1, {}, {"pro": 3}, 10_000), arrivals(*[5_000] * 3, 40_000, 80_000)
    )
    assert [journey.begun_ms for journey in again.journeys.values()] == [5_000, None, None, 40_000, 80_000]


def test_more_than_one_day_of_requests_waits_for_the_next(valkey: ValkeyServer) -> None:
    plan = Plan({"requests": 60, "requests_day": 3}, {"pro": 4})
    drive = asyncio.run(driven(valkey, plan, arrivals(*[23 * HOUR_MS] * 5)))
    begun = [(journey.begun_ms or 0) / DAY_MS for journey in drive.journeys.values()]
    assert begun == pytest.approx([23 / 24] * 3 + [1, 1], abs=0.001), "days begin where the drive's do"


def test_plans_side_by_side(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "made" / "here"
    wish = ["--users", "free=200,pro=20", "--requests-a-day", "free=10,pro=60", "--day-curve", "9-11"]
    assert command.main([*wish, "--keep-wait", "60s@p90", "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    five, twenty = told["plans"]
    assert (five["plan"], twenty["plan"], told["smallest_plan_that_keeps_the_wait"]) == ("5x", "20x", "20x")
    assert five["sent"] == twenty["sent"] == twenty["served"] == 3_200
    # 27 a minute come for two hours.
    assert five["tiers"]["free"]["waits"]["p90_ms"] > 300_000 > 10_000 > twenty["tiers"]["free"]["waits"]["p90_ms"]
    assert five["tiers"]["pro"]["waits"]["p90_ms"] < five["tiers"]["free"]["waits"]["p90_ms"], "shares hold"
    assert twenty["cost_month_nano_usd"] == sum(t["cost_month_nano_usd"] for t in twenty["tiers"].values())
    assert {file.name for file in out.iterdir()} == {
        f"{name}.{kind}" for name in ("waits", "load", "money") for kind in ("svg", "png")
    }
    assert (out / "waits.svg").read_text().count("<svg") == 1
    assert (out / "waits.png").read_bytes()[:4] == b"\x89PNG"


def test_nothing_is_left_of_its_valkey() -> None:
    with private_valkey() as url:
        folder = Path(url.removeprefix("unix://")).parent
        assert (folder / "valkey.sock").exists()
        (mine,) = (p for p in psutil.Process().children() if str(folder) in " ".join(p.cmdline()))
    assert not folder.exists()
    assert not mine.is_running()


USED = {
    "input_tokens": 100, "cache_read_tokens": 10, "cache_write_5m_tokens": 5, "output_tokens": 200,
    "started_ms": START_MS + 1_000, "ended_ms": START_MS + 5_000,
}  # fmt: skip


def row(request_id: str, user_id: str, tier: str, state: str, after_ms: int) -> dict[str, object]:
    return {
        "request_id": request_id, "user_id": user_id, "tier": tier, "state": state, "accepted_ms": START_MS + after_ms,
        "share": 1, "pool": "sonnet", "model": "m", "diagram_type": "pie", "prompt": "A secret", "work_hash": "",
        "max_tokens": 1, "priority": 0, "generation": 1, "day": "2026-11-24", "deadline_ms": 0,
        "estimated_input_tokens": 70, "estimated_output_tokens": 90, "cached": False,
    }  # fmt: skip


async def test_what_was_recorded_is_what_is_read(database_url: str, tmp_path: Path) -> None:
    migrate(database_url)
    database = sql.connect(database_url)
    await database.write(
        lambda connection: [
            connection.execute(insert(requests), one)
            for one in (
                row("a", "ann@x", "pro", "completed", 0) | USED,
                row("b", "bob@x", "free", "expired", 7),
                row("c", "ann@x", "pro", "queued", 9),
                row("d", "ann@x", "pro", "completed", 9) | USED | {"cached": True},
                row("e", "old@x", "pro", "completed", -1) | USED,
            )
        ]
    )
    text = io.StringIO()
    assert await record(database, START_MS, text) == 3
    await database.close()
    lines = list(csv.DictReader(text.getvalue().splitlines()))
    assert [(line["user"], line["input_tokens"], line["output_tokens"], line["duration_ms"]) for line in lines] == [
        ("u1", "105", "200", "4000"), ("u2", "70", "90", "4000"), ("u1", "70", "90", "4000"),
    ]  # fmt: skip
    assert "secret" not in text.getvalue()
    assert "@x" not in text.getvalue()
    file = tmp_path / "traffic.csv"
    file.write_text(text.getvalue())
    read = read_traffic(file, {"pro", "free"})
    assert [arrival.at_ms for arrival in read.arrivals] == [START_MS % DAY_MS + ms for ms in (0, 7, 9)]
    assert dict(read.users) == {"pro": 1, "free": 1}
