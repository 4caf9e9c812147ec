"""Who is served how much when all want more than there is; virtual time, the real scripts on a real Valkey.

`python -m benchmarks.fairness [--write FILE]`. Aims: two users of a tier who always have work queued never differ by
more than twice the cost of the largest request and what the two had in flight when the one ahead was last begun, on
actual cost; each tier gets its share within 2%. Beside it what the same users get first come, first served, and in
turns, where each answer's cost is known when it begins, which Headgate has to learn.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import shutil
import tempfile
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

import matplotlib.pyplot as plt
import yaml
from matplotlib.axes import Axes

from benchmarks import report
from benchmarks.served import Differences, LineOf, Served, service
from services.scheduler.planner.drive import Answer, Arrival, Drive, Journey, Plan
from services.scheduler.planner.virtual import virtual_line
from tests.servers.valkey import ValkeyServer

_PLANS = yaml.safe_load((Path(__file__).parents[1] / "config" / "plans.yaml").read_text())
SHARES: dict[str, int] = {tier["name"]: tier["share"] for tier in _PLANS["tiers"]}
ALL = sum(SHARES.values())
INPUT_TOKENS = 200
ORDERS = ("Headgate", "first come, first served", "in turns, one request each")
HEADS = ("load", "order", "answers", "largest difference, s", "nearest to its bound, s", "ratio")
TIER_HEADS = ("tier", "share", "due", *ORDERS)
VIRTUAL = "Virtual time: nothing here depends on the machine.\n"
POINTS = 48  # of each line of a plot


@dataclass(frozen=True)
class Sender:
    """Users who always have `depth` requests waiting, answered at `tokens` in the mean."""

    users: Sequence[str]
    tier: str
    depth: int
    tokens: int


@dataclass(frozen=True)
class Load:
    """Who sends, and what the provider allows."""

    name: str
    title: str
    senders: Sequence[Sender]
    tokens_a_minute: int
    minutes: int
    slots: int
    line_of: LineOf
    """Whose line of the plot a request belongs to."""


_USER: LineOf = attrgetter("user")
_TIER: LineOf = attrgetter("tier")
_TIERS = [Sender([f"{tier} {n}" for n in range(3)], tier, 8, 600) for tier in ("basic", "pro", "enterprise")]
_FLOOD = (Sender(["flood"], "free", 300, 600), Sender(["few 1", "few 2", "few 3"], "free", 4, 600))
_LONG = (Sender(["brief"], "free", 4, 200), Sender(["wordy"], "free", 4, 2_000))
LOADS = (
    Load("user", "one user has 300 waiting, three have four", _FLOOD, 60_000, 20, 64, _USER),
    Load("crowd", "200 free users with ten waiting each, three of each other tier with eight",
         (Sender([f"free {n}" for n in range(200)], "free", 10, 600), *_TIERS), 600_000, 15, 256, _TIER),
    Load("long", "one user's answers are ten times as long as the other's", _LONG, 60_000, 30, 64, _USER),
)  # fmt: skip


class Lengths:
    """The n-th answer of a user is equally long in every order; 50 tokens a second."""

    def __init__(self, load: Load) -> None:
        self._mean = {user: sender.tokens for sender in load.senders for user in sender.users}
        self._dice = {user: random.Random(user) for user in self._mean}

    def answer(self, arrival: Arrival) -> Answer:
        """From half of the mean to one and a half."""
        tokens = round(self._mean[arrival.user] * self._dice[arrival.user].uniform(0.5, 1.5))
        return Answer(tokens, 500 + 20 * tokens)


def _first(load: Load) -> list[Arrival]:
    everyone = [(sender, user) for sender in load.senders for user in sender.users]
    return [Arrival(0, user, s.tier, INPUT_TOKENS) for s, user in everyone for _ in range(s.depth)]


def _served(load: Load, arrival: Arrival, begun_ms: float, answer: Answer) -> Served:
    cost = 60 / load.tokens_a_minute * (INPUT_TOKENS + answer.output_tokens)
    return Served(arrival.user, arrival.tier, begun_ms, begun_ms + answer.took_ms, cost)


async def by_headgate(url: str, load: Load) -> list[Served]:
    """What the scripts begin, in that order."""
    plan, begun, waiting = Plan({"tokens": load.tokens_a_minute}, SHARES, load.slots), list[Journey](), Counter[str]()

    def again(journey: Journey) -> Iterator[Arrival]:
        begun.append(journey)
        # What is sent now is in line a virtual millisecond later: until then something else must be.
        waiting[f"{journey.begun_ms} {journey.arrival.user}"] += 1
        yield Arrival(journey.begun_ms or 0, journey.arrival.user, journey.arrival.tier, INPUT_TOKENS)

    async with virtual_line(url, load.name) as line:
        await Drive(line, load.name, plan, Lengths(load)).run(_first(load), again, until_ms=60_000 * load.minutes)
    assert max(waiting.values()) < min(s.depth for s in load.senders), "somebody had nothing queued"
    return [_served(load, j.arrival, j.begun_ms or 0, Answer(j.output_tokens, j.took_ms)) for j in begun]


def by_queue(load: Load, first: Sequence[Arrival]) -> list[Served]:
    """First come, first served: who is served comes back at the end. In turns, if each stands there but once."""
    queue, lengths, running, begun, now_ms = deque(first), Lengths(load), list[float](), list[Served](), 0.0
    while now_ms < 60_000 * load.minutes:
        while running and (running[0] <= now_ms or len(running) >= load.slots):
            now_ms = max(now_ms, heapq.heappop(running))
        queue.append(queue.popleft())
        begun.append(_served(load, queue[-1], now_ms, lengths.answer(queue[-1])))
        heapq.heappush(running, begun[-1].ended_ms)
        now_ms += 1000 * begun[-1].cost
    return begun


def plot(load: Load, runs: Mapping[str, Sequence[Served]], path: Path) -> None:
    """Service so far, by order."""
    plt.rcParams |= {"svg.hashsalt": "headgate", "svg.fonttype": "none"}
    figure, panels = plt.subplots(1, len(runs), figsize=(11, 3.4), sharey=True, layout="constrained")
    figure.suptitle(load.title[0].upper() + load.title[1:])
    for axes, (order, begun) in zip(panels, runs.items(), strict=True):
        _draw(axes, load, begun)
        axes.set(title=order, xlabel="minutes", xlim=(0, load.minutes), xticks=range(0, load.minutes + 1, 5))
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set(ylabel="service so far, provider-seconds", ylim=(0, None))
    panels[0].legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _draw(axes: Axes, load: Load, begun: Sequence[Served]) -> None:
    minutes = [load.minutes * n / POINTS for n in range(POINTS + 1)]
    steps = [service(begun, load.line_of, 60_000 * minute) for minute in minutes]
    for name in sorted(steps[-1], key=lambda name: -SHARES.get(name, 0)):
        (drawn,) = axes.plot(minutes, [step[name] for step in steps], linewidth=1.6, label=name)
        if due := SHARES.get(name, 0) / ALL:
            axes.plot(minutes[::6], [due * sum(step.values()) for step in steps[::6]], ":", color=drawn.get_color())


def rows(load: Load, runs: Mapping[str, Sequence[Served]]) -> Iterator[list[str]]:
    """How far two users of one tier were apart."""
    for order, begun in runs.items():
        seen = Differences(begun, 60_000 * load.minutes)
        difference, bound = seen.worst
        worst = f"{difference:,.1f} of {bound:.1f}"
        yield [load.title, order, f"{len(begun):,}", f"{seen.largest:,.1f}", worst, f"{difference / bound:.2f}"]


def tier_rows(load: Load, runs: Mapping[str, Sequence[Served]]) -> Iterator[list[str]]:
    """What part of all service a tier had, and how far off its share that is."""
    served = [service(begun, _TIER, 60_000 * load.minutes) for begun in runs.values()]
    for tier, share in SHARES.items():
        parts = [one[tier] / sum(one.values()) for one in served]
        cells = [f"{part:.1%} ({part * ALL / share:.3f} of it)" for part in parts]
        yield [tier, str(share), f"{share / ALL:.1%}", *cells]


def main() -> None:
    """Measures and prints."""
    options = report.parser(__doc__).parse_args()
    server = ValkeyServer(Path(tempfile.mkdtemp(prefix="headgate-fairness-")), ("--appendonly", "no"))
    users, tiers = list[list[str]](), list[list[str]]()
    try:
        server.start()
        for load in LOADS:
            first = _first(load)
            queues = by_queue(load, first), by_queue(load, [*dict.fromkeys(first)])
            runs = dict(zip(ORDERS, (asyncio.run(by_headgate(server.url, load)), *queues), strict=True))
            users += rows(load, runs)
            tiers += tier_rows(load, runs) if load.line_of is _TIER else []
            if options.write:
                plot(load, runs, options.write.with_name(f"fairness-{load.name}.svg"))
    finally:
        server.kill()
        shutil.rmtree(server.folder)
    report.publish(None, "", "Two users of one tier", HEADS, users)
    report.publish(None, "", "Service by tier", TIER_HEADS, tiers)
    if options.write:
        parts = (VIRTUAL, report.markdown(HEADS, users), report.markdown(TIER_HEADS, tiers))
        report.write_section(options.write, "fairness", "\n".join(parts))


if __name__ == "__main__":
    main()
