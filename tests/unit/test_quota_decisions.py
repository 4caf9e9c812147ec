"""What happens to a reservation, for every state it may be in."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.quota.model import Reservation, ReservationState
from services.quota.reservations import Answer, Standing, accounted, first, holds_place, reserved_again, settled

PENDING, COUNTED, GIVEN_BACK, ABSENT = ReservationState
ROW = replace(first("req_1", "ann", "2026-01-01", 1), generation=3)


def row(state: ReservationState, **changes: object) -> Reservation:
    return replace(ROW, state=state, **changes)


def test_the_first_is_pending_at_generation_one() -> None:
    assert first("req_1", "ann", "2026-01-01", 5) == Reservation(
        "req_1", "ann", "2026-01-01", 1, PENDING, live=False, reserve_time_ms=5, settle_time_ms=None
    )


def test_only_pending_and_counted_hold_a_place() -> None:
    assert [state for state in ReservationState if holds_place(row(state))] == [PENDING, COUNTED]


def test_reserving_a_pending_one_again_raises_the_generation_and_keeps_the_day() -> None:
    again = reserved_again(row(PENDING), "2026-01-02", 9)
    assert again == replace(ROW, generation=4, reserve_time_ms=9)


def test_reserving_a_live_one_again_leaves_it_live() -> None:
    assert reserved_again(row(PENDING, live=True), "2026-01-02", 9).live


def test_reserving_an_absent_one_again_starts_on_the_new_day() -> None:
    again = reserved_again(row(ABSENT, settle_time_ms=5), "2026-01-02", 9)
    assert again == replace(first("req_1", "ann", "2026-01-02", 9), generation=4)


@pytest.mark.parametrize("state", [COUNTED, GIVEN_BACK])
def test_a_final_one_is_never_changed_again(state: ReservationState) -> None:
    final = row(state, settle_time_ms=5)
    assert reserved_again(final, "2026-01-02", 9) == final
    assert [settled(final, counted, 9) for counted in (True, False)] == [final, final]
    answers = [Answer(3, standing, counted) for standing in Standing for counted in (True, False)]
    assert {accounted(final, answer, 9) for answer in answers} == {final}


def test_an_absent_one_is_changed_only_by_reserve() -> None:
    absent = row(ABSENT, settle_time_ms=5)
    assert [settled(absent, counted, 9) for counted in (True, False)] == [absent, absent]
    answers = [Answer(3, standing, counted) for standing in Standing for counted in (True, False)]
    assert {accounted(absent, answer, 9) for answer in answers} == {absent}


@pytest.mark.parametrize(("counted", "state"), [(True, COUNTED), (False, GIVEN_BACK)])
def test_a_pending_one_settles_as_told(counted: bool, state: ReservationState) -> None:
    end = replace(ROW, state=state, settle_time_ms=9)
    assert settled(row(PENDING), counted, 9) == end
    # Whatever the generation asked about: a request that ended has ended.
    told = accounted(row(PENDING), Answer(1, Standing.ENDED, counted), 9)
    assert told == replace(end, live=True), "its settlement, which says what it used, is yet to come"
    assert settled(told, not counted, 99) == end, "the first word on its end holds"
    assert settled(end, counted, 99) == end


@pytest.mark.parametrize("asked", [1, 2, 4])
def test_absence_at_another_generation_changes_nothing(asked: int) -> None:
    assert accounted(row(PENDING), Answer(asked, Standing.ABSENT), 9) == row(PENDING)


def test_absence_at_this_generation_gives_the_place_back() -> None:
    assert accounted(row(PENDING), Answer(3, Standing.ABSENT), 9) == row(ABSENT, settle_time_ms=9)


def test_a_live_answer_marks_it_and_an_unknown_one_does_nothing() -> None:
    assert accounted(row(PENDING), Answer(3, Standing.LIVE), 9) == row(PENDING, live=True)
    assert accounted(row(PENDING), Answer(3, Standing.UNKNOWN), 9) == row(PENDING)
