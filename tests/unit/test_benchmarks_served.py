"""How far two users were apart, on runs that are counted by hand."""

from __future__ import annotations

from benchmarks.served import Differences, Served, service

RUN = [
    Served("ada", "free", 0, 10, 2.0),
    Served("bob", "free", 1, 40, 3.0),
    Served("ada", "free", 12, 30, 4.0),
    Served("eve", "pro", 13, 20, 1.0),
]


def test_two_differ_by_what_has_ended_and_other_tiers_do_not_count() -> None:
    assert Differences(RUN, 100).largest == 6.0, "ada had 2 and 4 when bob's 3 were still being written"
    assert Differences(RUN, 29).largest == 2.0, "later than that is not looked at"


def test_the_bound_has_what_both_had_in_flight_when_the_one_ahead_was_last_begun() -> None:
    assert Differences(RUN, 100).worst == (6.0, 2 * 4.0 + 4.0 + 3.0)


def test_service_counts_once_it_has_ended() -> None:
    assert service(RUN, lambda s: s.tier, 20) == {"free": 2.0, "pro": 1.0}
