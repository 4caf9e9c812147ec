"""The owner's Black Friday: a hundred users send ten requests each within a minute, a hundred a minute go out.

All are served in ten minutes, and what each was told when it came (place and wait) is what it had. In virtual time,
through the scripts that production runs.
"""

from __future__ import annotations

import random
from statistics import median

import pytest

from services.scheduler.planner.drive import Answer, Arrival, Drive, Journey, Plan
from services.scheduler.planner.virtual import virtual_line
from tests.servers.valkey import ValkeyServer

PLAN = Plan({"requests": 100, "tokens": 800_000}, {"pro": 4})


class Steady:
    """Answers of one length that take 4 to 12 s."""

    def __init__(self) -> None:
        self._dice = random.Random(8)

    def answer(self, arrival: Arrival) -> Answer:
        return Answer(700, self._dice.randint(4_000, 12_000))


async def test_a_thousand_requests_in_a_minute_are_served_in_ten(valkey: ValkeyServer) -> None:
    dice = random.Random(7)
    arrivals = [Arrival(dice.randrange(60_000), f"user{n % 100}", "pro", 500) for n in range(1_000)]
    async with virtual_line(valkey.url, "sonnet") as line:
        journeys = await Drive(line, "sonnet", PLAN, Steady()).run(arrivals)
    assert len(journeys) == 1_000
    assert all(journey.ended_ms for journey in journeys)
    check_flow([journey.begun_ms or 0 for journey in journeys])
    check_words(journeys)


def check_flow(begun: list[int]) -> None:
    times = sorted(begun)
    assert times[-1] <= 10.2 * 60_000, "a thousand at a hundred a minute"
    for earlier, later in zip(times, times[100:], strict=False):
        assert later - earlier >= 60_000, "never more than a hundred in any minute"


def check_words(journeys: list[Journey]) -> None:
    """Once all have come nobody overtakes, so the words of the last to come can be held against what happened."""
    told = {c.request_id: (c.told, c.waited_ms or 0) for c in journeys if c.told and c.arrival.at_ms >= 50_000}
    errors = sorted(abs(words.wait_ms - had_ms) / max(had_ms, 5_000) for words, had_ms in told.values())
    assert len(told) > 100
    assert median(errors) <= 0.10
    assert errors[int(0.9 * len(errors))] <= 0.25
    somewhere = min((words for words, _ in told.values()), key=lambda words: abs(words.position - 523))
    assert 480 <= somewhere.position <= 560
    assert somewhere.wait_ms == pytest.approx(somewhere.position * 600, rel=0.05), "523rd: about five minutes"
