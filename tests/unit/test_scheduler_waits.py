"""What is learned of a pool, and what follows from it for a wait.

Broken once on purpose: without a cap on a slot a burst doubles the rate; without asking for work that waited all the
time the speed of a quiet pool is that of its visitors; without rates the wait of a low tier stops at what is queued.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from services.scheduler.positions import NOTHING, Along
from services.scheduler.waits import Learned, PoolView, Spot, TierView, place_of

TIER = TierView(0.0, 1.0, 0, 0.0, (0.0,) * 8, NOTHING)
EMPTY = PoolView(
    now_ms=0, virtual_time=0.0, tiers={}, limits={"requests": 60.0}, levels={"requests": 0.0}, part=1.0,
    concurrency=math.inf, running=0, paused_until_ms=0, paused_why="", mean_ms=1_000.0, mean_output=None,
)  # fmt: skip


def line(queued: int, share: float = 1.0, arrived: float = 0.0) -> TierView:
    """A tier with so many requests of one provider-second each in line."""
    along = Along((), [1.0] * queued, list(range(queued + 1)), [float(n) for n in range(queued + 1)], 1.0)
    return replace(
        TIER, share=share, queued=queued, queued_cost=float(queued), arrived=(arrived, *(0.0,) * 7), along=along
    )


def at(second: float, **tiers: TierView) -> PoolView:
    return replace(EMPTY, now_ms=round(second * 1000), tiers=tiers)


def seen(seconds: int, *, low: float = 0.0, high: float = 0.0, burst_at: int = -1) -> Learned:
    """What is learned of two tiers that send so much a second; at one second a hundred come at once."""
    learned, more = Learned(), 0.0
    for second in range(seconds):
        more += 100 if second == burst_at else 0
        learned.see(at(second, low=line(0, arrived=low * second), high=line(0, 8.0, high * second + more)))
    return learned


def wait_s(view: PoolView, learned: Learned, spot: Spot) -> float:
    return place_of(view, view, learned, spot, slots=1_000).wait_ms / 1000


def test_a_line_alone_takes_as_long_as_it_costs() -> None:
    assert wait_s(at(0, low=line(50)), Learned(), Spot("low", 49, 0.0, 1.0, 0)) == 50


def test_what_is_saved_and_what_is_not_ours_count() -> None:
    view, spot = at(0, low=line(50)), Spot("low", 49, 0.0, 1.0, 0)
    assert wait_s(replace(view, levels={"requests": 10.0}), Learned(), spot) == 40
    assert wait_s(replace(view, part=0.5), Learned(), spot) == 100


def test_other_tiers_go_first_as_far_as_their_share_allows() -> None:
    view = at(0, low=line(50), high=line(100, 8.0))
    found = place_of(view, view, Learned(), Spot("low", 9, 0.0, 1.0, 0), slots=1_000)
    assert (found.position, found.wait_ms) == (10 + 80, 90_000)


def test_what_a_favoured_tier_goes_on_sending_makes_a_wait_longer() -> None:
    view = at(400, low=line(50), high=line(0, 8.0))
    assert wait_s(view, seen(10, high=0.5), Spot("low", 49, 0.0, 1.0, 0)) == pytest.approx(50, abs=1), "seen too little"
    assert wait_s(view, seen(400, high=0.5), Spot("low", 49, 0.0, 1.0, 0)) == pytest.approx(93, abs=3), "50 / (1 - 0.5)"


def test_newcomers_overtake_who_waits_for_another_turn_and_nobody_else() -> None:
    view, learned = at(400, low=line(50)), seen(400, low=0.5)
    assert wait_s(view, learned, Spot("low", 49, 0.0, 1.0, 0)) == 50
    assert wait_s(view, learned, Spot("low", 49, 1.0, 1.0, 0)) == pytest.approx(93, abs=3)


def test_a_burst_is_no_stream() -> None:
    quiet, burst = seen(400, high=0.2), seen(400, high=0.2, burst_at=300)
    assert quiet.rate("high") == pytest.approx(0.2, rel=0.05)
    assert burst.rate("high") < 1.3 * quiet.rate("high")


@pytest.mark.parametrize(("queued", "speed"), [(50, 0.5), (0, 1.0)])
def test_speed_is_learned_only_while_work_waits(queued: int, speed: float) -> None:
    learned = Learned()
    for second in range(600):
        # Half a provider-second is served each second, because no more comes or because no more goes.
        learned.see(at(second, low=line(queued, arrived=0.5 * second)))
    assert learned.speed == pytest.approx(speed, rel=0.08)


def test_limits_that_fell_make_what_is_queued_dearer() -> None:
    lowered = line(50)
    assert lowered.along is not None
    view = at(0, low=replace(lowered, along=replace(lowered.along, drift=2.0)))
    assert wait_s(view, Learned(), Spot("low", 49, 0.0, 1.0, 0)) == 100


def test_slots_and_backoff_and_pauses_are_waited_for() -> None:
    view = at(0, low=line(50))
    assert place_of(view, view, Learned(), Spot("low", 0, 0.0, 1.0, 70_000), slots=1_000).wait_ms == 70_000
    assert (
        place_of(replace(view, running=2, mean_ms=60_000), view, Learned(), Spot("low", 1, 0.0, 1.0, 0), 2).wait_ms
        == 60_000
    )
    paused = replace(view, paused_until_ms=5_000, paused_why="provider_limit")
    place = place_of(paused, view, Learned(), Spot("low", 9, 0.0, 1.0, 0), slots=1_000)
    assert (place.wait_ms, place.paused, place.paused_until_ms) == (15_000, "provider_limit", 5_000)
