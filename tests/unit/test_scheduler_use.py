"""Use of the limits, where they come from, when they run out and what to do: pure."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.clock import DAY_MS
from services.scheduler.forecast import Use, advice, exhausted_ms
from services.scheduler.providers import Limits, Plan
from services.scheduler.use import Limit, Window, is_high, limits_of
from services.scheduler.waits import PoolView

TODAY = 20_781
NOW_MS = TODAY * DAY_MS + 1_000
POOL = PoolView(
    now_ms=0, virtual_time=0.0, tiers={}, limits={}, levels={}, part=1.0, concurrency=math.inf, running=0,
    paused_until_ms=0, paused_why="", mean_ms=1_000.0, mean_output=None,
)  # fmt: skip


@pytest.mark.parametrize(
    ("bucket", "limit"),
    [
        ({"plan:requests": "100"}, Limit(100, "plan")),
        ({"plan:requests": "100", "header:requests": "100"}, Limit(100, "header")),
        ({"plan:requests": "100", "header:requests": "400"}, Limit(400, "header")),
        ({"plan:requests": "100", "override:requests": "100"}, Limit(100, "override")),
        ({"plan:requests": "100", "override:requests": "40"}, Limit(40, "override")),
        ({"plan:requests": "100", "override:requests": "400"}, Limit(100, "plan")),
        ({"header:requests": "50", "override:requests": "40", "plan:requests": "40"}, Limit(40, "override")),
        ({"header:requests": "30", "override:requests": "40", "plan:requests": "50"}, Limit(30, "header")),
        ({"override:requests": "40"}, Limit(40, "override")),
        ({"header:requests": "30"}, Limit(30, "header")),
    ],
)
def test_a_limits_source_is_the_field_that_holds_it(bucket: dict[str, str], limit: Limit) -> None:
    assert limits_of(bucket) == {"requests": limit}


def view(second: float, running: int = 0, **bucket: Any) -> PoolView:
    fields = {name if name == "today" else f"sent:{name}": str(value) for name, value in bucket.items()}
    return replace(POOL, now_ms=round(second * 1000), running=running, bucket=fields)


def test_use_is_what_was_sent_in_the_minute_that_ends_now() -> None:
    window = Window()
    for second in range(121):
        # Two a second for the first minute, then one.
        window.see(view(second, requests=2 * min(second, 60) + max(0, second - 60), tokens=10 * second, today=second))
        assert window.full is (second >= 60)
        if second == 60:
            assert (window.used["requests"], window.used["tokens"]) == (120, 600)
    assert (window.used["requests"], window.used["tokens"], window.used["requests_day"]) == (60, 600, 120)
    assert len(window._seen) <= 61


def test_what_runs_counts_as_long_as_it_lasts() -> None:
    window = Window()
    for second in range(61):
        window.see(view(second, running=10 if second == 60 else 0))
    assert window.used["concurrency"] == 10
    assert window.lasting["concurrency"] < 1


def test_a_new_order_or_a_clock_set_back_begins_a_new_minute() -> None:
    window = Window()
    for second in range(70):
        window.see(view(second, requests=second))
    window.see(view(71, requests=3))
    assert (window.full, window.used["requests"]) == (False, 0)
    window.see(view(75, requests=9))
    assert window.used["requests"] == 6
    window.see(view(20, requests=9))
    assert window.used["requests"] == 0


def test_between_the_two_figures_nothing_changes() -> None:
    assert [is_high(share, raised=False) for share in (0.69, 0.7, 0.79, 0.8, 1.2)] == [False, False, False, True, True]
    assert [is_high(share, raised=True) for share in (0.69, 0.7, 0.79, 0.8, 1.2)] == [False, True, True, True, True]


def test_a_steady_growth_runs_out_when_its_line_says() -> None:
    # 10 more a day, 50 yesterday: 100 is reached on the fifth day after it.
    peaks = [(TODAY - 1 - n, 50 - 10 * n) for n in range(4)]
    assert exhausted_ms(peaks, 100, NOW_MS) == (TODAY + 4) * DAY_MS


@pytest.mark.parametrize(
    "peaks",
    [
        [],
        [(TODAY - 1, 50), (TODAY - 2, 10)],
        [(TODAY - 1, 50), (TODAY - 2, 10), (TODAY, 90)],
        [(TODAY - 1, 50), (TODAY - 2, 50), (TODAY - 3, 50)],
        [(TODAY - 1, 10), (TODAY - 2, 50), (TODAY - 3, 60)],
        [(TODAY - 1, 50), (TODAY - 2, 40), (TODAY - 15, 1)],
        [(TODAY - 1, 1_002), (TODAY - 2, 1_001), (TODAY - 3, 1_000)],
    ],
)
def test_nothing_is_said_where_nothing_can_be(peaks: list[tuple[int, int]]) -> None:
    assert exhausted_ms(peaks, 1_000_000, NOW_MS) is None


def test_what_is_reached_already_is_reached_now() -> None:
    peaks = [(TODAY - 1, 95), (TODAY - 2, 90), (TODAY - 3, 85)]
    assert exhausted_ms(peaks, 60, NOW_MS) == NOW_MS


@given(
    st.lists(st.tuples(st.integers(TODAY - 20, TODAY + 2), st.integers(0, 10**10)), unique_by=lambda one: one[0]),
    st.integers(1, 10**10),
)
def test_a_forecast_is_never_of_the_past_and_never_without_end(peaks: list[tuple[int, int]], limit: int) -> None:
    when = exhausted_ms(peaks, limit, NOW_MS)
    assert when is None or NOW_MS <= when <= NOW_MS + 3_651 * DAY_MS


def plan(name: str, costs: str = "", **limits: int) -> Plan:
    others = {key: limits.pop(key) for key in ("requests_day", "concurrency") if key in limits}
    return Plan(name, {"sonnet": Limits(limits, others)}, costs)


LARGER = [
    plan("b", "$9", requests=110, requests_day=10_000),
    plan("c", "$200 a month", requests=400, requests_day=500),
    plan("d", "pay per token", requests=400, input_tokens=1_000),
]


def test_below_four_fifths_nothing_is_advised() -> None:
    assert advice("sonnet", [Use("requests", 100, "plan", 79, 79), Use("tokens", 0, "", 500, 500)], LARGER) == ""
    assert advice("sonnet", [], LARGER) == ""


def test_the_nearest_plan_that_holds_everything_is_advised_with_its_costs() -> None:
    uses = [Use("requests", 100, "plan", 60, 92), Use("requests_day", 1_000, "plan", 100, 100)]
    said = advice("sonnet", uses, LARGER)
    assert said == (
        "Pool sonnet uses 92% of its requests a minute (92 of 100). Plan c ($200 a month) would do: the same use is "
        "23% of it. The provider has no interface to ask for more: change it in the provider's console, then run: "
        "headgate capacity use c"
    )
    # 450 a day are too many for c.
    assert "Plan d (pay per token)" in advice("sonnet", [*uses[:1], Use("requests_day", 500, "plan", 450, 450)], LARGER)
    # Input tokens that nothing limits today would be limited by d.
    tokens = Use("input_tokens", 0, "", 900, 900)
    without = advice("sonnet", [*uses[:1], Use("requests_day", 500, "plan", 450, 450), tokens], LARGER)
    assert "No plan of config/providers.yaml is large enough." in without


def test_what_was_set_by_hand_is_told_as_such() -> None:
    said = advice("sonnet", [Use("requests", 50, "override", 45, 45)], LARGER)
    assert "set by hand" in said
    assert "Plan" not in said


def test_an_alert_speaks_of_its_own_limit() -> None:
    uses = [Use("requests", 100, "plan", 99, 99), Use("concurrency", 10, "plan", 8, 8)]
    assert "8 of 10" in advice("sonnet", uses, LARGER, "concurrency")
