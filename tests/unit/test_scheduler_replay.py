"""What Replay says of a request that ends while it is looked up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headgate.scheduler.v1 import scheduler_pb2 as pb

from services.scheduler.life import Request, State
from services.scheduler.servicer import SchedulerServicer
from services.scheduler.waits import Place
from tests.unit.test_scheduler_outcomes import RUNNING, a_request

LOGGED = [(1, {"type": "processing", "attempt": 1}), (2, {"type": "ended"})]


class Stores:
    """The row as it was read, and the log as it was a moment later."""

    def __init__(self, row: Request) -> None:
        self._row = row

    async def get_many(self, _: Sequence[str]) -> list[Request]:
        return [self._row]

    async def events(self, _: str, __: str, after: int) -> list[tuple[int, dict[str, Any]]]:
        return [(seq, event) for seq, event in LOGGED if seq > after]

    async def place(self, _: Request) -> Place:
        return Place(0, 0)


async def replayed(row: Request, after: int | None) -> pb.Replayed:
    stores: Any = Stores(row)
    servicer = SchedulerServicer(
        stores, stores, stores, stores, stores, stores, stores, clock=stores, on_settlement=lambda: None
    )
    question = pb.ReplayRequest(items=[pb.ReplayItem(request_id=row.request_id, after=after)])
    return (await servicer.Replay(question, None)).replayed[0]


async def test_the_end_of_a_request_that_was_still_running_is_left_to_be_told() -> None:
    """Its number, told beside the state that it had before, hid the end from whoever watched (found by simulation)."""
    answer = await replayed(RUNNING, None)
    assert (answer.seq, answer.request.state) == (1, pb.STATE_RUNNING)
    assert [event.WhichOneof("event") for event in (await replayed(RUNNING, 0)).events] == ["processing"]


async def test_the_end_of_a_request_that_had_ended_is_told_under_its_number() -> None:
    row = a_request(state=State.COMPLETED, attempt=1)
    answer = await replayed(row, 1)
    assert (answer.seq, answer.events[-1].seq, answer.events[-1].WhichOneof("event")) == (2, 2, "ended")
