"""Places and waits: pure arithmetic over what view.lua says of a pool."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from services.scheduler.positions import NOTHING, Along, Standing, first_positions, position_of, read_along

ROUNDED_MS = 100
"""Waits are told in whole tenths of a second: more would be false precision."""
MAX_WAIT_MS = 7 * 86_400_000
"""Estimates stay finite: beyond a week the figure says nothing."""
DEFAULT_MEAN_MS = 8_000.0
"""Length of an attempt before the first was seen."""
SPEED_S = 300.0
"""Over how many seconds of work the speed is averaged."""
TRUSTED_S = 20.0
"""The limits themselves count as this many seconds of experience."""
RATE_SLOT_S = 30.0
RATE_SLOTS = 4
"""Of arrivals, before they say anything."""
RATE_WEIGHT = 0.15
"""Of each slot of arrivals: the last minutes decide."""
RATE_JUMP = 2.0
"""A slot counts as at most so many times what was usual: a burst is no stream."""
MEMORY_S = (300.0, 3_600.0)
"""What comes is expected to go on coming for as long as it was seen to, within these bounds."""
GAP_S = 15.0
"""Two looks further apart say nothing of what was between them."""
OPERATOR = "operator"
"""Who stops a pool by hand does not say for how long."""
SPEND_LIMIT = "spend_limit"
_ROUNDS = 30
"""Of refining the wait: each adds what arrives meanwhile, and nothing changes once that is small."""


@dataclass(frozen=True)
class Place:
    """A request's place in line."""

    position: int
    """1 + how many would go first; 0 when not queued."""
    wait_ms: int
    paused: str = ""
    """Why the wait cannot be trusted; one of the contract's words."""
    paused_until_ms: int | None = None


@dataclass(frozen=True)
class TierView:
    """One tier of a pool."""

    virtual_time: float
    share: float
    queued: int
    queued_cost: float
    """Sum of the costs of what is queued, in provider-seconds."""
    arrived: tuple[float, ...]
    """Cost of all that was ever placed, by class: how deep in the line it entered (under 1, 1 to 2, 3 to 6 ...)."""
    along: Along | None
    stopped_until_ms: int = 0
    """Until when a spend limit keeps all of it; 0: it may go."""


@dataclass(frozen=True)
class PoolView:
    """One pool at one moment."""

    now_ms: int
    virtual_time: float
    tiers: Mapping[str, TierView]
    limits: Mapping[str, float]
    levels: Mapping[str, float]
    part: float
    """Of the limits that is ours: others may use the key too."""
    concurrency: float
    running: int
    paused_until_ms: int
    paused_why: str
    mean_ms: float
    mean_output: float | None
    bucket: Mapping[str, Any] = field(default_factory=dict)
    """All that is kept of the limits and their use, by the names of the scripts."""

    @property
    def paused(self) -> str:
        """Why dispatch stands still; empty if it flows."""
        return self.paused_why if self.paused_until_ms > self.now_ms else ""

    @property
    def pause_ends_ms(self) -> int | None:
        """Until when it does; None if it flows or nobody knows."""
        return self.paused_until_ms if self.paused not in ("", OPERATOR) else None

    @property
    def pause_ms(self) -> int:
        """How long dispatch is known to stand still from now."""
        return (self.pause_ends_ms or self.now_ms) - self.now_ms

    @property
    def saved_s(self) -> float:
        """Provider-seconds that could be served at once."""
        return min((self.levels.get(name, 0.0) * 60 / limit for name, limit in self.limits.items()), default=0.0)

    @property
    def backlog_s(self) -> float:
        """Provider-seconds that cannot."""
        return sum(tier.queued_cost for tier in self.tiers.values() if not tier.stopped_until_ms) - self.saved_s


@dataclass(frozen=True)
class Spot:
    """Where view.lua found a request."""

    tier: str
    rank: int
    """0 is next of its tier."""
    depth: float
    """How many turns it stands behind one of a user who comes now."""
    cost: float
    not_before_ms: int
    stopped_until_ms: int = 0
    """Until when its user's spend limit keeps it; 0: it may go."""


def read_view(answer: Mapping[str, Any]) -> PoolView:
    """The pool as view.lua describes it (an empty table of Lua arrives as an empty object)."""
    bucket = answer["bucket"] or {}
    return PoolView(
        now_ms=int(answer["now"]),
        virtual_time=answer["V"],
        tiers={
            name: _tier(tier, _ends(bucket.get(f"stopped:{name}"), answer["now"]))
            for name, tier in (answer["tiers"] or {}).items()
        },
        limits=answer["limits"] or {},
        levels=answer["levels"] or {},
        part=float(bucket.get("part", 1)),
        concurrency=answer.get("concurrency") or math.inf,
        running=answer["running"],
        paused_until_ms=int(float(bucket.get("paused_until", 0))),
        paused_why=bucket.get("paused_why", ""),
        mean_ms=float(bucket.get("mean_ms", DEFAULT_MEAN_MS)),
        mean_output=float(bucket["mean_output"]) if "mean_output" in bucket else None,
        bucket=bucket,
    )


def _ends(moment: str | None, now_ms: float) -> int:
    """A moment that is still to come, else 0."""
    return int(moment) if moment and int(moment) > now_ms else 0


def _tier(told: Mapping[str, Any], stopped_until_ms: int) -> TierView:
    queued, cost = told["queued"], told["sum"]
    along = read_along(told["along"], queued, cost) if "along" in told else None
    return TierView(float(told["T"]), told["share"], queued, cost, tuple(told["arrived"]), along, stopped_until_ms)


def read_spot(found: Mapping[str, Any]) -> Spot:
    """A place of view.lua."""
    not_before_ms, stopped_until_ms = int(found.get("not_before") or 0), int(found.get("stopped") or 0)
    return Spot(found["tier"], found["rank"], found["depth"], found["cost"], not_before_ms, stopped_until_ms)


@dataclass
class Learned:
    """What a pool was seen to do: how fast it serves, and how much each tier goes on sending."""

    last: PoolView | None = None
    served_s: float = 0.0
    busy_s: float = 0.0
    rates: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """Provider-seconds that arrive a second, by tier and class."""
    since_s: dict[str, float] = field(default_factory=dict)
    """For how long a tier was seen to send about as much."""
    _slot: PoolView | None = None
    _slots: int = 0

    def memory_s(self, tier: str) -> float:
        """For how long it will probably go on."""
        least, most = MEMORY_S
        # Who has just begun to look does not know what is usual.
        return 1.0 if self._slots < RATE_SLOTS else min(most, max(least, self.since_s.get(tier, 0.0)))

    def rate(self, tier: str) -> float:
        """All that a tier sends."""
        return sum(self.rates.get(tier, ()))

    def overtaking(self, tier: str, depth: float) -> float:
        """What of its tier overtakes a request so deep in line, on its whole way to the front.

        Users take turns, so what enters at no depth goes before one at another's second turn as long as that waits,
        and what enters at the third turn before one at the sixth during half of its way.
        """
        rates = enumerate(self.rates.get(tier, ()))
        return math.fsum(rate * (1 - (2**of - 1) / depth) for of, rate in rates if 2**of - 1 < depth)

    @property
    def speed(self) -> float:
        """Provider-seconds served a second while work waits: 1 if estimates were right and limits the only bound."""
        return max(0.01, (self.served_s + TRUSTED_S) / (self.busy_s + TRUSTED_S))

    def see(self, view: PoolView) -> None:
        """Another look at the pool."""
        last, self.last = self.last, view
        if last is None or not 0 < view.now_ms - last.now_ms <= GAP_S * 1000:
            self._slot = view
            return
        # Enough waited to be busy with all the time.
        if last.backlog_s > (view.now_ms - last.now_ms) / 1000 and not (last.paused or view.paused):
            self._learn_speed(last, view)
        self._learn_rates(view)

    def _learn_speed(self, last: PoolView, view: PoolView) -> None:
        seconds = (view.now_ms - last.now_ms) / 1000
        kept = math.exp(-seconds / SPEED_S)
        # What others left of the key is not what we are capable of.
        served = max(0.0, _left(view) - _left(last)) * drift_of(last) / last.part
        self.served_s = self.served_s * kept + served
        self.busy_s = self.busy_s * kept + seconds

    def _learn_rates(self, view: PoolView) -> None:
        slot = self._slot or view
        seconds = (view.now_ms - slot.now_ms) / 1000
        if seconds < RATE_SLOT_S:
            return
        self._slot, self._slots = view, self._slots + 1
        weight = max(1 / self._slots, 1 - (1 - RATE_WEIGHT) ** (seconds / RATE_SLOT_S))
        for name, tier in view.tiers.items():
            before = slot.tiers[name].arrived if name in slot.tiers else (0.0,) * len(tier.arrived)
            seen = [max(0.0, now - then) / seconds for now, then in zip(tier.arrived, before, strict=True)]
            usual = self.rates.get(name, (0.0,) * len(seen))
            # 0.02: what one that never sent anything may jump to.
            most = RATE_JUMP * max(sum(usual), 0.02) if self._slots > 1 else sum(seen)
            part = min(1.0, most / max(sum(seen), 1e-9))
            self.since_s[name] = self.since_s.get(name, 0.0) + seconds if part == 1.0 else 0.0
            self.rates[name] = tuple(u + weight * (s * part - u) for u, s in zip(usual, seen, strict=True))


def _left(view: PoolView) -> float:
    """All that ever left the line."""
    return sum(sum(tier.arrived) - tier.queued_cost for tier in view.tiers.values())


def drift_of(view: PoolView) -> float:
    """What is queued at today's limits, over what it was thought to cost when it was placed."""
    known = [(t.queued_cost, t.along.drift) for t in view.tiers.values() if t.along and t.queued]
    total = sum(cost for cost, _ in known)
    return sum(cost * drift for cost, drift in known) / total if total > 0 else 1.0


@dataclass(frozen=True)
class Sending:
    """What comes of a tier."""

    rate: float
    """Provider-seconds a second."""
    memory_s: float
    """For how long that will probably go on."""

    def within(self, wait_s: float) -> float:
        """Provider-seconds that come in so much time."""
        return self.rate * self.memory_s * (1 - math.exp(-wait_s / self.memory_s))


@dataclass(frozen=True)
class Ahead:
    """What will be served up to and with a request."""

    position: int
    own: float
    """Cost of its own tier's, itself included."""
    overtaking: Sending
    """What of its own tier comes and goes first."""
    share: float
    time: float
    """What its tier's is now."""
    others: tuple[tuple[float, float, float, Sending], ...]
    """For each other tier: its time now, its share, cost it has queued, what it sends."""

    def cost(self, wait_s: float) -> float:
        """All of it, if so much time passes."""
        own = self.own + self.overtaking.within(wait_s)
        finish = self.time + own / self.share
        return own + sum(
            min(max(0.0, (finish - time) * share), queued + sending.within(wait_s))
            for time, share, queued, sending in self.others
        )


def standings(view: PoolView, whole: PoolView, of: str = "") -> dict[str, Standing]:
    """The tiers of a glance, with the lines of a whole look not long before; of those that stand still only `of`."""
    found = {}
    for name, tier in view.tiers.items():
        if tier.stopped_until_ms and name != of:
            continue
        seen = whole.tiers.get(name)
        along = tier.along or ((seen and seen.along) or NOTHING).up_to(tier.queued, tier.queued_cost)
        # One with nothing in line will begin at the pool's virtual time.
        start = tier.virtual_time if tier.queued else max(tier.virtual_time, view.virtual_time)
        found[name] = Standing(start, tier.share, tier.queued, along)
    return found


def ahead_of(view: PoolView, whole: PoolView, learned: Learned, spot: Spot) -> Ahead:
    """What goes before a request and with it."""
    tiers = standings(view, whole, spot.tier)
    mine = tiers.get(spot.tier) or Standing(view.virtual_time, 1.0, 0, NOTHING)
    own = mine.along.cost_of_first(spot.rank) + spot.cost
    finish = mine.virtual_time + own / mine.share
    others = tuple(
        (t.virtual_time, t.share, view.tiers[name].queued_cost, Sending(learned.rate(name), learned.memory_s(name)))
        for name, t in tiers.items()
        if name != spot.tier
    )
    overtaking = Sending(learned.overtaking(spot.tier, spot.depth), learned.memory_s(spot.tier))
    position = position_of(tiers, spot.tier, spot.rank, finish)
    return Ahead(position, own, overtaking, mine.share, mine.virtual_time, others)


def place_of(view: PoolView, whole: PoolView, learned: Learned, spot: Spot, slots: int) -> Place:
    """The place of a request in line; `slots` attempts can run at once."""
    ahead = ahead_of(view, whole, learned, spot)
    seconds_each = drift_of(whole) / (learned.speed * view.part)
    wait_ms = max(_flow_ms(view, ahead, seconds_each), _slots_ms(view, ahead.position, slots))
    stopped_until_ms = max(
        spot.stopped_until_ms, view.tiers[spot.tier].stopped_until_ms if spot.tier in view.tiers else 0
    )
    stopped_ms = max(0, stopped_until_ms - view.now_ms)
    wait_ms = min(MAX_WAIT_MS, max(wait_ms + max(view.pause_ms, stopped_ms), spot.not_before_ms - view.now_ms))
    if stopped_ms > view.pause_ms and view.paused != OPERATOR:
        return Place(ahead.position, rounded(wait_ms), SPEND_LIMIT, stopped_until_ms)
    return Place(ahead.position, rounded(wait_ms), view.paused, view.pause_ends_ms)


def _flow_ms(view: PoolView, ahead: Ahead, seconds_each: float) -> float:
    """Time until the limits have let that much through, and what comes meanwhile and goes first."""
    if not view.limits:
        return 0.0
    wait_s = 0.0
    for _ in range(_ROUNDS):
        wait_s = max(0.0, ahead.cost(wait_s) * seconds_each - view.saved_s)
    return wait_s * 1000


def _slots_ms(view: PoolView, position: int, slots: float) -> float:
    """Time until enough running attempts have ended."""
    slots = min(slots, view.concurrency)
    if slots <= 0:
        return view.mean_ms * position
    return max(0, position - max(0, slots - view.running)) * view.mean_ms / slots


def rounded(wait_ms: float) -> int:
    """Up to whole tenths of a second."""
    return math.ceil(max(0.0, wait_ms) / ROUNDED_MS) * ROUNDED_MS


def exact_positions(whole: PoolView) -> dict[str, int]:
    """The first hundred, by id."""
    return first_positions(standings(whole, whole))
