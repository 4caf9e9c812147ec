"""The planner: how fast it is, and with --check whether what it foretells is what happens.

`python -m benchmarks.planner [--write FILE]`: a day of 50,000 requests under one provider plan. Aim: under 30 s.

`python -m benchmarks.planner --check [--write FILE]`: some minutes of traffic through all of Headgate before the
stand-in, a crowd in the middle; its recording is then given to the planner. Aim: median waits differ by at most 10%.
"""

from __future__ import annotations

import asyncio
import io
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
from sqlalchemy import select

from benchmarks import report
from benchmarks.loads import poisson
from benchmarks.rig import Answers, System, cpu_s, system
from services import sql
from services.scheduler.planner.drive import Drive, Journey
from services.scheduler.planner.figures import percentile
from services.scheduler.planner.record import record
from services.scheduler.planner.server import private_valkey
from services.scheduler.planner.site import Site, read_site
from services.scheduler.planner.synthetic import CURVES, Mix, make
from services.scheduler.planner.traffic import Traffic, read_traffic
from services.scheduler.planner.virtual import virtual_line
from services.scheduler.tables import requests
from services.settings import config_dir

HEADS = ("provider plan", "requests", "served", "took, s", "simulated a second", "CPU s, ours + Valkey's")
CHECK_HEADS = (
    "tier",
    "requests",
    "median wait, s",
    "foretold, s",
    "off by",
    "90th percentile, s",
    "foretold, s",
    "off by",
)
PLANS = ("20x", "start", "5x")
"""Waits at noon; no wait at all; a queue for most of the day."""
PER_MINUTE = 300
CHECK = {"HEADGATE_PROVIDER_PLAN": "start", "HEADGATE_PROVIDER_RPM": str(PER_MINUTE)}
SENDERS = {"basic": 24, "pro": 8, "enterprise": 4}
"""Of each tier: their limits allow what they send."""
MAX_WAIT_MS = 3_600_000


@dataclass(frozen=True)
class Sent:
    """A request of the check."""

    at_s: float
    tier: str
    sender: int
    tokens: int


def main() -> None:
    """Measures and prints."""
    parser = report.parser(__doc__)
    parser.add_argument("--check", action="store_true", help="against the whole system, in real time")
    options = parser.parse_args()
    if options.check:
        check(options.write)
    else:
        title = "A day of 50,000 requests in virtual time: 100 users send 500 each in office hours"
        report.publish(options.write, "planner", title, HEADS, list(_speeds()))


def _speeds() -> Iterator[list[str]]:
    site = read_site(config_dir(), PLANS, None)
    traffic = make(Mix({"pro": 100}, {"pro": 500}, CURVES["office"], 500, 1_500, 1, 1))
    with private_valkey() as url:
        for plan in PLANS:
            begun_s, ours_s, all_s = time.monotonic(), time.process_time(), cpu_s(psutil.Process())
            journeys = asyncio.run(_driven(url, site, plan, traffic))
            took_s = time.monotonic() - begun_s
            served = sum(journey.begun_ms is not None for journey in journeys)
            ours_s, all_s = time.process_time() - ours_s, cpu_s(psutil.Process()) - all_s
            cpu = f"{ours_s:.1f} + {all_s - ours_s:.1f}"
            figures = (f"{len(journeys):,}", f"{served:,}", f"{took_s:.1f}", f"{len(journeys) / took_s:,.0f}")
            yield [plan, *figures, cpu]


async def _driven(url: str, site: Site, plan: str, traffic: Traffic, **changed: int) -> list[Journey]:
    given = site.plan(plan, MAX_WAIT_MS)
    given = replace(given, limits={**given.limits, **changed})
    async with virtual_line(url, site.pool) as line:
        return await Drive(line, site.pool, given, traffic, watched=False).run(traffic.arrivals)


def check(write: Path | None) -> None:
    """One traffic twice: really, and foretold."""
    sent = list(_sent(random.Random(5)))
    site = read_site(config_dir(), ["start"], None)
    with system(**CHECK) as headgate:
        begun_ms = int(time.time() * 1000)
        asyncio.run(_send_all(headgate, sent))
        had, traffic = asyncio.run(_recorded(headgate, begun_ms, site))
    with private_valkey() as url:
        journeys = asyncio.run(_driven(url, site, "start", traffic, requests=PER_MINUTE))
    foretold = [(journey.arrival.tier, journey.waited_ms or 0) for journey in journeys]
    title = f"{len(sent):,} requests in {sent[-1].at_s:.0f} s at {PER_MINUTE} a minute, really and foretold"
    rows = [_compared(tier, had, foretold) for tier in (*SENDERS, "all")]
    report.publish(write, "planner-check", title, CHECK_HEADS, rows)


def _sent(dice: random.Random) -> Iterator[Sent]:
    """Two thirds of what goes through for a minute, twice as much for a minute, half for another and a half."""

    def rate(at_s: float) -> float:
        return PER_MINUTE / 60 * (0.66 if at_s < 60 else 2 if at_s < 120 else 0.5)

    for at_ms in poisson(dice, 210, rate, 2 * PER_MINUTE / 60):
        tier = dice.choices(list(SENDERS), (5, 3, 2))[0]
        yield Sent(at_ms / 1000, tier, dice.randrange(SENDERS[tier]), round(200 * dice.lognormvariate(0, 0.6)))


async def _send_all(headgate: System, sent: Sequence[Sent]) -> None:
    stack = headgate.stack
    keys = {
        tier: [stack.request("POST", "/api/admin/users", {"tier": tier}, admin=True)[1]["apiKey"] for _ in range(many)]
        for tier, many in SENDERS.items()
    }
    begun_s, answers = time.monotonic(), Answers(len(sent), 0.0)

    async def send(number: int, one: Sent) -> None:
        await asyncio.sleep(max(0.0, begun_s + one.at_s - time.monotonic()))
        await headgate.submit(
            keys[one.tier][one.sender], f"How parcel {number} travels [emulate {one.tokens} tokens]", answers
        )

    await asyncio.gather(*(send(number, one) for number, one in enumerate(sent)))
    assert not answers.sent_again, "not everything was accepted at once"


async def _recorded(headgate: System, begun_ms: int, site: Site) -> tuple[list[tuple[str, int]], Traffic]:
    """What each really waited, by tier, and the traffic as `headgate-plan record` has it; once all is served."""
    database = sql.connect(f"sqlite:///{headgate.stack.data_dir / 'scheduler.db'}")
    columns = (requests.c.tier, requests.c.state, requests.c.started_ms, requests.c.accepted_ms)
    try:
        query = select(*columns).where(requests.c.accepted_ms >= begun_ms)
        while True:
            rows = await database.read(lambda connection: connection.execute(query).all())
            if all(row.state == "completed" for row in rows):
                break
            await asyncio.sleep(1)
        text = io.StringIO()
        await record(database, begun_ms, text)
    finally:
        await database.close()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "traffic.csv"
        file.write_text(text.getvalue())
        return [(row.tier, row.started_ms - row.accepted_ms) for row in rows], read_traffic(file, site.tiers)


def _compared(tier: str, had: Sequence[tuple[str, int]], foretold: Sequence[tuple[str, int]]) -> list[str]:
    real, told = (sorted(ms for of, ms in waits if tier in (of, "all")) for waits in (had, foretold))
    cells = [tier, f"{len(real):,}"]
    for part in (0.5, 0.9):
        a, b = percentile(real, part), percentile(told, part)
        cells += [f"{a / 1000:.1f}", f"{b / 1000:.1f}", f"{(b - a) / max(a, 1):+.1%}"]
    return cells


if __name__ == "__main__":
    main()
