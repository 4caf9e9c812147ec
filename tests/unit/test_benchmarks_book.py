"""The arithmetic of the benchmarks: what a book of calls says."""

from __future__ import annotations

import pytest

from benchmarks.book import Call, Pace, followed_s, ideal_s, output_used, refused_share, requests_used


def call(at_s: float, status: int = 200, output_tokens: int = 0) -> Call:
    return Call(at_s, status, 10, output_tokens, True, "")


def steady(per_minute: float, from_s: float, until_s: float) -> list[Call]:
    count = int((until_s - from_s) * per_minute / 60)
    return [call(from_s + i * 60 / per_minute) for i in range(count)]


def test_the_ideal_begins_with_a_full_bucket() -> None:
    assert ideal_s(600, 1_200) == 29
    assert ideal_s(3, 5) == 24


def test_only_what_was_let_in_counts_as_used() -> None:
    calls = [*steady(60, 0, 10), *(call(i, 429) for i in range(10))]
    assert requests_used(calls, 120, 0, 10) == 0.5
    assert refused_share(calls) == 0.5


def test_output_counts_when_it_was_made() -> None:
    pace = Pace(first_token_s=1.0, tokens_per_second=100)
    long = call(0, output_tokens=500)
    assert [pace.produced(long, s) for s in (0, 1, 2, 5.5, 9)] == [0, 0, 100, 450, 500]
    assert output_used([long, call(0, 429)], 6_000, 1, 3, pace) == 1.0


@pytest.mark.parametrize(("late_s", "found"), [(0, 0.0), (4, 4.0)])
def test_a_limit_is_followed_when_the_rate_has_reached_it(late_s: float, found: float) -> None:
    calls = [*steady(600, 0, 30 + late_s), *steady(240, 30 + late_s, 60)]
    followed = followed_s(calls, 240, 30)
    assert followed is not None
    assert abs(followed - found) <= 0.2


def test_a_limit_that_is_never_reached_is_not_followed() -> None:
    assert followed_s(steady(600, 0, 60), 240, 30) is None
