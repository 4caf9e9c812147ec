"""Each mechanism broken once: the simulation must notice every one of them."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from sqlalchemy import text

from services.quota import reservations
from services.quota.places import Places
from services.quota.reservations import Answer, Standing
from services.scheduler import line as line_module
from services.scheduler import statements, store
from services.scheduler.sweeps import Sweeps

Break = Callable[[contextlib.ExitStack, Path], None]


def _instead(owner: Any, name: str, other: Any) -> Break:
    def apply(stack: contextlib.ExitStack, _: Path) -> None:
        assert hasattr(owner, name), f"{owner} has no {name} any more"
        stack.enter_context(mock.patch.object(owner, name, other))

    return apply


def _script(name: str, old: str, new: str) -> Break:
    """The same scripts, but for a line of one."""

    def apply(stack: contextlib.ExitStack, folder: Path) -> None:
        changed = folder / "lua"
        shutil.rmtree(changed, ignore_errors=True)
        shutil.copytree(line_module._LUA, changed)
        source = (changed / name).read_text()
        assert old in source, f"{name} has no such line any more: {old}"
        (changed / name).write_text(source.replace(old, new))
        stack.enter_context(mock.patch.object(line_module, "_LUA", changed))

    return apply


def _unfenced(statement: Any) -> Any:
    """The same update of a running row, whatever its attempt and its state."""
    kept = [clause for clause in statement._where_criteria if not re.search(r"\.(state|attempt)\b", str(clause))]
    assert len(kept) < len(statement._where_criteria)
    copy = statement._generate()
    copy._where_criteria = tuple(kept)
    return copy


def _several(*breaks: Break) -> Break:
    def apply(stack: contextlib.ExitStack, folder: Path) -> None:
        for one in breaks:
            one(stack, folder)

    return apply


async def _nothing(*_: Any, **__: Any) -> None: ...


async def _all_absent(self: Places, asked: Any) -> None:
    """A minute has passed: the place is somebody else's."""
    answers = {request_id: Answer(generation, Standing.ABSENT) for request_id, generation in asked}
    now_ms = self._clock.now_ms()

    def run(tx: Any) -> None:
        rows = tx.lock_reservations(list(answers))
        self._change(tx, [(row, reservations.accounted(row, answers[row.request_id], now_ms)) for row in rows])

    await self._store.write(run)


class _Same(str):
    """A run id that equals every other."""

    __slots__ = ()

    def __ne__(self, other: object) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = str.__hash__


async def _never_asked(_: Any) -> str:
    return _Same("")


COUNTED = ("completed", "cancelled")
BREAKS: dict[str, Break] = {
    "skip the fence": _several(
        _instead(statements, "FINISH", _unfenced(statements.FINISH)),
        _instead(statements, "REQUEUE", _unfenced(statements.REQUEUE)),
    ),
    "begin whatever the state is": _instead(statements, "BEGIN", _unfenced(statements.BEGIN)),
    "forget a release": _script("finish.lua", "redis.call('ZREM', key('leases'), ARGV[3])", "1"),
    "max_tokens as the estimate": _script(
        "spending.lua", "math.min(output, tonumber(r.max) or output)", "tonumber(r.max) or output"
    ),
    "drop the outbox row": _instead(statements, "TELL_QUOTA", text("SELECT 1")),
    "expire a reservation by time": _instead(Places, "account_for", _all_absent),
    "count whatever was cancelled": _instead(store, "counted", lambda request, end: end.value in COUNTED),
    "old copy of valkey answers": _instead(line_module, "_run_id", _never_asked),
    "number events anew after a rebuild": _instead(line_module.Identity, "floor", property(lambda _: 0)),
    "show what a late worker says": _script(
        "append.lua", "if redis.call('HGET', key('req:' .. id), 'open') ~= ARGV[4] then return 0 end", ""
    ),
    "no sweep of leases": _instead(Sweeps, "expired_leases", _nothing),
    "no sweep of the missing": _instead(Sweeps, "missing", _nothing),
    "no sweep of the untold": _instead(Sweeps, "untold", _nothing),
    "no sweep of deadlines": _instead(Sweeps, "deadlines", _nothing),
    "take estimates for the truth": _script("service.lua", "if difference == 0 then return end", "do return end"),
    "serve tiers alike": _script("dispatch.lua", "math.max(1, field(meta, 'share:' .. tier))", "1"),
    "send a little faster than allowed": _script("limits.lua", "limit <= 120 and 0.985 or 0.998", "1.1"),
}
NAMES = tuple(BREAKS)
HINTS = {
    "skip the fence": 19, "begin whatever the state is": 5, "forget a release": 0, "max_tokens as the estimate": 4,
    "drop the outbox row": 0, "expire a reservation by time": 2, "count whatever was cancelled": 1,
    "old copy of valkey answers": 13, "number events anew after a rebuild": 3, "show what a late worker says": 5,
    "no sweep of leases": 5, "no sweep of the missing": 19, "no sweep of the untold": 5, "no sweep of deadlines": 1,
    "take estimates for the truth": 20, "serve tiers alike": 2, "send a little faster than allowed": 2,
}  # fmt: skip
"""The seed that is tried first: one that noticed it when this was written. Others follow if the dice fell anew."""


@contextlib.contextmanager
def applied(name: str, folder: Path) -> Iterator[None]:
    """Runs with that mechanism broken; '' breaks nothing."""
    with contextlib.ExitStack() as stack:
        if name:
            BREAKS[name](stack, folder)
        yield
