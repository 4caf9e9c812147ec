"""What the store of requests must offer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from services.scheduler.life import (
    End,
    Refused,
    Request,
    Retry,
    Settlement,
    Standing,
    State,
    Submission,
    TierTerms,
    Turn,
)


class Requests(Protocol):
    """The durable truth. Every method is one transaction; all are safe to repeat."""

    async def submit(self, submission: Submission, now_ms: int, full: Refused | None = None) -> tuple[Request, bool]:
        """Accepts it, or returns the request of that id and True. `Refused` if it may not be accepted.

        One whose answer is known already is completed at once; any other is refused with `full`, if that is given.
        """
        ...

    async def get(self, request_id: str, *, prompt: bool = False, svg: bool = False) -> Request | None:
        """The row with its result, whoever owns it."""
        ...

    async def get_many(self, request_ids: Sequence[str]) -> list[Request]:
        """The rows with their results, in any order, of those that exist."""
        ...

    async def begin(self, request_id: str, attempts_so_far: int, now_ms: int) -> Request | None:
        """queued -> running with the next attempt, with prompt; None if it is not queued at that attempt.

        queued -> completed instead if an equal request has completed meanwhile.
        """
        ...

    async def deliver(self, request_id: str, attempt: int) -> bool:
        """Notes that output is about to be shown; False if the attempt is not the running one."""
        ...

    async def finish(
        self, request_id: str, attempt: int, end: End, turns: Sequence[Turn], now_ms: int, parked: Sequence[str] = ()
    ) -> list[Request]:
        """running -> an end, with its settlement in the outbox; nothing if that attempt is not running.

        Behind it those equal requests that are queued and end with it: a batch of all of them if it completed, those
        of `parked` if it failed as they would.
        """
        ...

    async def share(self, request: Request, end: End, now_ms: int) -> list[Request]:
        """A further batch of those that end with a request that completed."""
        ...

    async def requeue(
        self, request_id: str, attempt: int, retry: Retry, turns: Sequence[Turn], now_ms: int
    ) -> Request | None:
        """running -> queued; None if that attempt is not running."""
        ...

    async def charge(self, request_id: str, attempt: int, turns: Sequence[Turn]) -> None:
        """Adds the turns of an attempt that is over, whatever became of it, once; a guess only until it is known."""
        ...

    async def unpaid(self, many: int, ended_after_ms: int, ended_before_ms: int) -> list[Request]:
        """Rows that were cancelled in that time while an attempt ran whose turns nobody has added."""
        ...

    async def cancel(self, request_id: str, user_id: str, *, erase: bool, now_ms: int) -> tuple[Request | None, bool]:
        """Ends it if it has not ended; the row after that (None: not this user's), and whether this call did it."""
        ...

    async def expire(self, now_ms: int, many: int) -> list[Request]:
        """queued -> expired for those past their deadline."""
        ...

    async def account(self, items: Sequence[tuple[str, int]], now_ms: int) -> list[tuple[Standing, bool]]:
        """For each (id, generation): its standing and whether it counted; absent ones get a tombstone."""
        ...

    async def of_user(self, user_id: str, many: int, before: int | None) -> list[Request]:
        """A user's requests with prompt, newest first, accepted before that acceptance."""
        ...

    async def unfinished(self, state: State, after: int, many: int) -> list[Request]:
        """Rows in that state in order of acceptance, after that acceptance."""
        ...

    async def untold(self, many: int, ended_before_ms: int) -> list[Request]:
        """Rows that ended before that and whose ending script is not known to have run."""
        ...

    async def tell(self, seqs: Sequence[tuple[str, int]]) -> None:
        """Notes (id, number of the final event) once the ending script has run."""
        ...

    async def purge(self, ended_before_ms: int, many: int) -> int:
        """Deletes rows that ended before that, and tombstones as old; the number of rows deleted."""
        ...

    async def settlements(self, many: int) -> list[Settlement]:
        """The oldest rows of the outbox."""
        ...

    async def settled(self, outbox_ids: Sequence[int]) -> None:
        """Removes delivered rows of the outbox."""
        ...

    async def set_aside(self, outbox_id: int) -> None:
        """Keeps a row that its receiver will never take out of the others' way."""
        ...

    async def apply_tiers(self, changes: Sequence[tuple[str, TierTerms]]) -> list[tuple[TierTerms, list[Request]]]:
        """Keeps each user's newest tier, also in the rows that have not ended; those rows, by user."""
        ...

    async def outstanding(self, user_id: str) -> int:
        """How many requests of a user have not ended."""
        ...

    async def begun(self, pool: str, since_ms: int) -> int:
        """How many attempts the requests of a pool had that were attempted since then."""
        ...

    async def queue(self) -> list[tuple[str, str, int, int]]:
        """(pool, tier, queued, accepted_ms of the oldest) by pool and tier."""
        ...
