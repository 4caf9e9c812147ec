"""What goes wrong, where and when: every await point of a process passes through here."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tests.simulation.history import History
from tests.simulation.loop import Dead, Process, VirtualLoop, process

T = TypeVar("T")
Outcome = tuple[Any, BaseException | None]


@dataclass(frozen=True)
class Rates:
    """How often an await point fails, by kind, while faults are on."""

    lose_request: float = 0.0
    lose_reply: float = 0.0
    double: float = 0.0
    delay: float = 0.0
    crash: float = 0.0
    crashable: tuple[str, ...] = ("scheduler", "quota")


QUIET = Rates()


@dataclass
class Faults:
    """Decides the fate of each call. Between `begin_s` and `end_s` of virtual time calls go wrong at `rates`."""

    loop: VirtualLoop
    dice: random.Random
    history: History
    rates: Rates = QUIET
    begin_s: float = 0.0
    end_s: float = 0.0
    latency_ms: tuple[float, float] = (0.2, 2.0)
    away: dict[str, float] = field(default_factory=dict)
    """Until when a store or service cannot be reached, by its name."""

    def note(self, text: str) -> None:
        self.history.note(self._at_ms(), text)

    def fault(self, text: str) -> None:
        self.history.fault(self._at_ms(), text)

    def is_away(self, target: str) -> bool:
        """Whether a store or service is out of reach at the moment."""
        return self.loop.time() < self.away.get(target, 0.0)

    async def through(
        self, target: str, what: str, effect: Callable[[], T], lost: Callable[[str], BaseException], *, twice: bool
    ) -> T:
        """Runs `effect` at `target` for the current process, unless something goes wrong on the way.

        `lost` makes the error of a call whose outcome the caller does not learn; `twice` allows it to happen twice.
        """
        who = process()
        await who.awake()
        label = f"{who.name} {target}.{what}"
        fate = self._fate(who, twice)
        await asyncio.sleep(self._hop_s(fate == "delay"))
        await who.awake()
        if self.is_away(target):
            self.note(f"{label}: away")
            raise lost("it is away")
        if fate == "lose_request":
            self.fault(f"request lost: {label}")
            raise lost("the request was lost")
        if fate == "crash before":
            self.fault(f"crash before: {label}")
            who.kill()
            raise Dead
        value, error = _attempt(effect)
        if fate == "double":
            self.fault(f"done twice: {label}")
            value, error = _attempt(effect)
        self.note(f"{label}{_told(value, error)}")
        if fate == "crash after":
            self.fault(f"crash after: {label}")
            who.kill()
            raise Dead
        await asyncio.sleep(self._hop_s(fate == "delay"))
        await who.awake()
        if fate == "lose_reply":
            self.fault(f"reply lost: {label}")
            raise lost("the reply was lost")
        if error is not None:
            raise error
        return value  # type: ignore[no-any-return]

    def strikes(self, chance: float) -> bool:
        """Whether something of that chance happens now."""
        return self._on and chance > 0 and self.dice.random() < chance

    @property
    def _on(self) -> bool:
        return self.begin_s <= self.loop.time() < self.end_s

    def _fate(self, who: Process, twice: bool) -> str:
        if not self._on:
            return ""
        roll, r = self.dice.random(), self.rates
        crash = r.crash if who.name.startswith(r.crashable) else 0.0
        for fate, chance in (
            ("crash before", crash / 2), ("crash after", crash / 2), ("lose_request", r.lose_request),
            ("lose_reply", r.lose_reply), ("double", r.double if twice else 0.0), ("delay", r.delay),
        ):  # fmt: skip
            if roll < chance:
                return fate
            roll -= chance
        return ""

    def _hop_s(self, delayed: bool) -> float:
        hop_ms = self.dice.uniform(*self.latency_ms)
        if delayed:
            hop_ms += self.dice.choice((20, 200, 2_000, 4_000))
        return hop_ms / 1000

    def _at_ms(self) -> int:
        return int(self.loop.time() * 1000)


def _attempt(effect: Callable[[], Any]) -> Outcome:
    try:
        return effect(), None
    except Exception as error:
        return None, error


def _told(value: Any, error: BaseException | None) -> str:
    if error is not None:
        return f" -> {type(error).__name__} {error}"
    return "" if value is None or isinstance(value, int | str | bool) is False else f" -> {value}"
