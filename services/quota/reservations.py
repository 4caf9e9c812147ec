"""What happens to a reservation: decisions without any I/O.

pending -> counted | given_back (both final) | absent (may be reserved again). Nothing expires:
a place given to another by time was taken again by a late message, two of a limit of one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum

from services.quota.model import Reservation, ReservationState, UserDay


class Standing(Enum):
    """What the scheduler says of a request."""

    LIVE = "live"
    ENDED = "ended"
    ABSENT = "absent"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Answer:
    """The scheduler's word on a request at the generation that was asked about."""

    generation: int
    standing: Standing
    counted: bool = False


def first(request_id: str, user_id: str, day: str, now_ms: int) -> Reservation:
    """The reservation of a request that never had one."""
    return Reservation(request_id, user_id, day, 1, ReservationState.PENDING, False, now_ms)


def holds_place(reservation: Reservation) -> bool:
    """Whether it takes a place of its day."""
    return reservation.state in (ReservationState.PENDING, ReservationState.COUNTED)


def freed_places(changes: Iterable[tuple[Reservation, Reservation]]) -> Counter[UserDay]:
    """How many places go back where (before) became (after), by user and day."""
    return Counter((b.user_id, b.day) for b, a in changes if holds_place(b) and not holds_place(a))


def reserved_again(row: Reservation, day: str, now_ms: int) -> Reservation:
    """After another Reserve: a final one stays, a pending one keeps its day, an absent one moves to `day`."""
    if row.state is ReservationState.PENDING:
        return replace(row, generation=row.generation + 1, reserve_time_ms=now_ms)
    if row.state is ReservationState.ABSENT:
        return replace(first(row.request_id, row.user_id, day, now_ms), generation=row.generation + 1)
    return row


def settled(row: Reservation, counted: bool, now_ms: int) -> Reservation:
    """After its settlement: the first word on its end holds. It changes exactly once, and is not `live` then."""
    if row.state is ReservationState.PENDING:
        return replace(_ended(row, counted, now_ms), live=False)
    return replace(row, live=False)


def _ended(row: Reservation, counted: bool, now_ms: int) -> Reservation:
    state = ReservationState.COUNTED if counted else ReservationState.GIVEN_BACK
    # Live until settled: the scheduler has it, and what it used is yet to come.
    return replace(row, state=state, live=True, settle_time_ms=now_ms)


def accounted(row: Reservation, answer: Answer, now_ms: int) -> Reservation:
    """After the scheduler's answer.

    The place of an absent request goes back only at the very generation that was asked about:
    the tombstone refuses that one and lower ones, while a newer Submit may still be accepted.
    """
    if row.state is not ReservationState.PENDING:
        return row
    if answer.standing is Standing.LIVE:
        return replace(row, live=True)
    if answer.standing is Standing.ENDED:
        return _ended(row, answer.counted, now_ms)
    if answer.standing is Standing.ABSENT and row.generation == answer.generation:
        return replace(row, state=ReservationState.ABSENT, live=False, settle_time_ms=now_ms)
    return row
