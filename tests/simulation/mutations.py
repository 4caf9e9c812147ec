"""Each mechanism broken once: the simulation must notice every one of them."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from sqlalchemy import text

from services.quota import reservations
from services.quota.places import Places
from services.quota.reservations import Answer, Standing
from services.scheduler import charges, statements
from services.scheduler import line as line_module
from services.scheduler.spend import Spend
from services.scheduler.sweeps import Sweeps
from tests.simulation.faults import QUIET, Rates
from tests.simulation.scenario import UNEVEN, Event, Scenario, scenario_of, spending

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
SPENDING = "tell no pool what was spent"
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
    "count whatever was cancelled": _instead(charges, "counted", lambda request, end: end.value in COUNTED),
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
    "send a little faster than allowed": _script(
        "limits.lua", "local function pace(limit)", "local function pace(limit) do return 1.1 end"
    ),
    SPENDING: _instead(Spend, "count", _nothing),
}
NAMES = tuple(BREAKS)


PATIENCE_S = 200.0
"""Most of what is broken shows by what never comes to rest; the whole product rests much sooner."""


@dataclass(frozen=True)
class Provocation:
    """Runs in which a mechanism is needed. The same runs of the whole product break no promise (`--control`)."""

    seeds: tuple[int, ...]
    faults: tuple[str, ...] = ()
    """Again and again, for a little longer than a lease lasts."""
    rates: Rates = QUIET
    for_s: float = 10.0
    max_spend_nano_usd: int | None = None

    def scenario(self, seed: int) -> Scenario:
        scenario = scenario_of(seed, faulty=False)
        if self.max_spend_nano_usd is not None:
            scenario = spending(scenario, self.max_spend_nano_usd)
        scenario.patience_s = PATIENCE_S if scenario.load != UNEVEN else scenario.patience_s
        if not (self.faults or self.rates is not QUIET):
            return scenario
        scenario.faulty, scenario.schedulers, scenario.rates = True, 2, self.rates
        scenario.arrivals = scenario.arrivals[:30]
        scenario.begin_s, scenario.end_s = 3.0, scenario.last_arrival_s + 30.0
        for number in range(5 if self.faults else 0):
            what = self.faults[number % len(self.faults)]
            scenario.events.append(Event(5.0 + 11.0 * number, what, whom=str(number), for_s=self.for_s))
        return scenario


FREEZING = Provocation((0, 7, 14, 6, 13, 20), ("scheduler freezes",), for_s=9.5)
LOSING = Provocation((0, 7, 1, 14), rates=Rates(lose_request=0.03, lose_reply=0.03))
PROVOKED = {
    "skip the fence": FREEZING,
    "begin whatever the state is": LOSING,
    "forget a release": Provocation((0,)),
    "max_tokens as the estimate": Provocation((4, 11)),
    "drop the outbox row": Provocation((0,)),
    "expire a reservation by time": Provocation((2, 4)),
    "count whatever was cancelled": Provocation((1, 0)),
    "old copy of valkey answers": Provocation((0, 7, 14), ("valkey comes back old",)),
    "number events anew after a rebuild": Provocation((0, 7), ("valkey loses everything",)),
    "show what a late worker says": FREEZING,
    "no sweep of leases": Provocation((0, 7), ("scheduler is killed",)),
    "no sweep of the missing": Provocation((0, 7, 1), ("valkey is away", "scheduler is killed")),
    "no sweep of the untold": LOSING,
    "no sweep of deadlines": Provocation((1, 2, 8)),
    "take estimates for the truth": Provocation((20, 6, 13)),
    "serve tiers alike": Provocation((2, 9)),
    "send a little faster than allowed": Provocation((2, 8)),
    # Some ten answers.
    SPENDING: Provocation((0, 1, 3), max_spend_nano_usd=50_000_000),
}


@contextlib.contextmanager
def applied(name: str, folder: Path) -> Iterator[None]:
    """Runs with that mechanism broken; '' breaks nothing."""
    with contextlib.ExitStack() as stack:
        if name:
            BREAKS[name](stack, folder)
        yield
