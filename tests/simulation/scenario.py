"""What a seed stands for: who sends what and when, what the provider allows, and what breaks."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from tests.simulation.faults import QUIET, Rates
from tests.simulation.provider import AT_LENGTH

TIERS = {"free": 1, "basic": 2, "pro": 4, "enterprise": 8}
SAME = 0.08
"""Part of what is sent that equals something that was sent just before."""
UNEVEN = "some ask at length"
LOADS = ("steady", "burst", "diurnal", "one user floods", "one tier floods", "heavy tails", UNEVEN)


@dataclass(frozen=True)
class Arrival:
    """One thing that a user does."""

    at_s: float
    user: str
    prompt: str
    key: str
    """Idempotency-Key, or nothing."""
    priority: int = 0
    max_wait_s: int = 3_600
    cancel_after_s: float | None = None
    also_twice: bool = False
    """Sent a second time at once, as an impatient client does."""


@dataclass(frozen=True)
class Event:
    """Something that breaks at a moment; `for_s` is how long it lasts."""

    at_s: float
    what: str
    whom: str = ""
    for_s: float = 0.0


@dataclass
class Scenario:
    """All that happens in a run, but for the fates of single calls."""

    seed: int
    load: str
    faulty: bool
    users: dict[str, str]
    """Tier by user."""
    arrivals: list[Arrival]
    limits: dict[str, float]
    lengths: tuple[float, float, int]
    slots: int
    schedulers: int
    workers: int
    rates: Rates = QUIET
    events: list[Event] = field(default_factory=list)
    begin_s: float = 0.0
    end_s: float = 0.0
    """Between them single calls fail."""
    max_spend_nano_usd: int | None = None
    """Of the whole run, which is over long before midnight."""
    patience_s: float = 1_200.0
    """How long after the last arrival and the last fault all must have ended: two workers' slots and 86 requests, some
    at length, took 660 s of answering (seed 223)."""

    @property
    def last_arrival_s(self) -> float:
        return max(arrival.at_s for arrival in self.arrivals)

    def __str__(self) -> str:
        limits = ", ".join(f"{limit:g} {name}" for name, limit in self.limits.items())
        return (
            f"seed {self.seed}: {self.load}, {len(self.arrivals)} requests of {len(self.users)} users, "
            f"{limits} a minute, {self.schedulers} schedulers, {self.workers} workers, "
            f"{'faults' if self.faulty else 'no faults'}"
        )


def scenario_of(seed: int, *, faulty: bool | None = None) -> Scenario:
    """The scenario of a seed. Three of four have faults."""
    dice = random.Random(f"scenario {seed}")
    load, broken = LOADS[seed % len(LOADS)], dice.random() < 0.75
    broken = broken if faulty is None else faulty
    users = {f"{tier}-{n}": tier for tier in TIERS for n in range(dice.randint(1, 3))}
    per_minute = dice.choice((25, 60, 120, 300))
    if load == UNEVEN:
        # Two of one tier, few of whose answers are in flight at once: what one gets beyond the other is theirs to see.
        users, per_minute = {"pro-0": "pro", "pro-1": "pro", "basic-0": "basic"}, 60
    limits = _limits(dice, per_minute, load)
    lengths = (350.0, 0.9, 6_000) if load == "heavy tails" else (400.0, 0.4, 1_500)
    scenario = Scenario(
        seed, load, broken, users, [], limits, lengths, slots=dice.choice((8, 16, 64)),
        schedulers=dice.choice((1, 2, 2)), workers=dice.choice((1, 2)),
    )  # fmt: skip
    if load == "heavy tails":
        scenario.slots = 64
    elif load == UNEVEN:
        scenario.slots, scenario.workers, scenario.lengths = 2, 1, (150.0, 0.4, 3_000)
    _arrivals(dice, scenario, per_minute)
    if broken:
        _break(dice, scenario)
    return scenario


def spending(scenario: Scenario, max_spend_nano_usd: int) -> Scenario:
    """The same with a limit; what is not served within a minute expires, for nothing goes on before midnight."""
    arrivals = [replace(arrival, max_wait_s=min(arrival.max_wait_s, 60)) for arrival in scenario.arrivals]
    return replace(scenario, arrivals=arrivals, max_spend_nano_usd=max_spend_nano_usd)


def _limits(dice: random.Random, per_minute: int, load: str) -> dict[str, float]:
    limits: dict[str, float] = {"requests": per_minute}
    if load == UNEVEN:
        limits |= {"output_tokens": per_minute * 150}
    elif load == "heavy tails" or dice.random() < 0.5:
        # Tokens are the scarcer ones here: the median answer and prompt, a little less often than requests allow.
        limits |= {"input_tokens": per_minute * 450, "output_tokens": per_minute * dice.choice((300, 450, 900))}
    return limits


def _arrivals(dice: random.Random, scenario: Scenario, per_minute: int) -> None:
    """About as many as go out in a minute and a half, so that a queue forms and is worked off."""
    many = max(12, min(90, int(per_minute * dice.uniform(0.8, 1.6))))
    span_s = 60.0 * many / per_minute
    moments: dict[str, Callable[[], float]] = {
        "burst": lambda: dice.uniform(0.0, 0.2),
        UNEVEN: lambda: dice.uniform(0.0, 0.2),
        "diurnal": lambda: (0.5 + 0.5 * math.sin(dice.uniform(-math.pi / 2, math.pi / 2))) ** 2,
    }
    moment = moments.get(scenario.load, dice.random)
    times = sorted(1.0 + span_s * 0.7 * moment() for _ in range(many))
    names = list(scenario.users)
    flooding = dice.choice(names)
    crowd = [name for name in names if scenario.users[name] == scenario.users[flooding]]
    arrivals = scenario.arrivals
    for number, at_s in enumerate(times):
        user = dice.choice(names)
        if scenario.load == "one user floods" and dice.random() < 0.7:
            user = names[0]
        elif scenario.load == "one tier floods" and dice.random() < 0.7:
            user = dice.choice(crowd)
        arrivals.append(_arrival(dice, scenario, number, at_s, user))


def _arrival(dice: random.Random, scenario: Scenario, number: int, at_s: float, user: str) -> Arrival:
    fussy = dice.random() < (0.3 if scenario.faulty else 0.1)
    prompt = f"{scenario.seed}/{number} " + "x" * dice.randint(20, 400)
    if scenario.load == UNEVEN and user.endswith("-0"):
        # The first of each tier; their neighbours do not.
        prompt += f" {AT_LENGTH}"
    elif scenario.arrivals and dice.random() < SAME:
        # What somebody just asked for.
        prompt = dice.choice(scenario.arrivals[-6:]).prompt
    return Arrival(
        at_s, user, prompt,
        key=f"key-{number}" if dice.random() < 0.6 else "",
        priority=dice.choice((-3, 5)) if fussy and dice.random() < 0.5 else 0,
        max_wait_s=dice.choice((5, 20, 60)) if fussy and dice.random() < 0.4 else 3_600,
        cancel_after_s=dice.uniform(0.0, 30.0) if fussy and dice.random() < 0.5 else None,
        also_twice=scenario.faulty and dice.random() < 0.1,
    )  # fmt: skip


def _break(dice: random.Random, scenario: Scenario) -> None:
    scenario.begin_s, scenario.end_s = 3.0, scenario.last_arrival_s + 30.0
    wild = dice.choice((0.3, 1.0, 2.0))
    scenario.rates = Rates(
        lose_request=0.004 * wild, lose_reply=0.006 * wild, double=0.004 * wild, delay=0.006 * wild,
        crash=0.0008 * wild,
    )  # fmt: skip
    chances = {
        "valkey loses everything": 0.5, "valkey comes back old": 0.4, "valkey restarts": 0.3, "valkey is away": 0.3,
        "valkey stalls": 0.3, "scheduler's sql is away": 0.3, "quota's sql is away": 0.2, "quota is away": 0.3,
        "scheduler is killed": 0.7, "scheduler is stopped": 0.5, "scheduler freezes": 0.5, "quota is killed": 0.3,
        "worker is killed": 0.6,
        "worker is stopped": 0.3, "worker freezes": 0.3,
        "clock steps": 0.4, "valkey's clock steps": 0.2,
        "overload": 0.5, "errors": 0.3, "answers are cut": 0.4, "limits change": 0.2, "tier changes": 0.5,
    }  # fmt: skip
    for what, chance in chances.items():
        while dice.random() < chance:
            at_s = dice.uniform(scenario.begin_s, scenario.end_s)
            scenario.events.append(Event(at_s, what, whom=str(dice.randrange(1000)), for_s=dice.uniform(0.5, 25.0)))
            chance /= 2
    scenario.events.sort(key=lambda event: event.at_s)
