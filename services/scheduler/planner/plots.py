"""Figures as pictures, PNG and SVG. Needs matplotlib: the extra `headgate[plan]`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from services.money import DOLLAR
from services.scheduler.planner.figures import Figures
from services.scheduler.planner.tables import LIMITS

COLOURS = ("#5b7083", "#2a9d8f", "#c2410c", "#6d28d9", "#b45309", "#0369a1", "#be185d", "#4d7c0f")


class PlotError(Exception):
    """Nothing can be drawn; the text says why and what to do."""


def require() -> None:
    """Raises `PlotError` where matplotlib is missing: before anything is run for long."""
    try:
        import matplotlib
    except ImportError:
        raise PlotError("--out draws with matplotlib, which is not installed: pip install 'headgate[plan]'") from None
    matplotlib.use("Agg")
    matplotlib.rcParams |= {"svg.hashsalt": "headgate", "svg.fonttype": "none", "font.size": 8}


def draw(found: Sequence[Figures], folder: Path) -> list[Path]:
    """Writes waits, load and money, each as PNG and SVG; the files."""
    written = []
    for name, drawing in _DRAWINGS.items():
        figure = drawing(found)
        for kind in ("svg", "png"):
            written.append(folder / f"{name}.{kind}")
            figure.savefig(written[-1], dpi=110, metadata={"Date": None} if kind == "svg" else None)
        _pyplot().close(figure)
    return written


def _pyplot() -> Any:
    from matplotlib import pyplot

    return pyplot


def _waits(found: Sequence[Figures]) -> Any:
    """A panel for each plan: the line is the median, the field above it ends at the 90th percentile."""
    figure, panels = _panels(len(found))
    for axes, one in zip(panels, found, strict=True):
        for colour, (tier, hours) in zip(COLOURS, one.hours.items(), strict=False):
            low = [max(0.1, waits.median_ms / 1000) for waits in hours.values()]
            high = [max(0.1, waits.p90_ms / 1000) for waits in hours.values()]
            axes.plot(list(hours), low, color=colour, lw=1.4, label=tier)
            axes.fill_between(list(hours), low, high, color=colour, alpha=0.18, lw=0)
        axes.set(title=one.plan, yscale="log")
        axes.yaxis.set_major_formatter("{x:g}")
    panels[0].set_ylabel("wait, s: median to 90th percentile")
    panels[0].legend(frameon=False)
    return figure


def _load(found: Sequence[Figures]) -> Any:
    """A panel for each plan: requests served an hour as bars, and how much of each limit they use."""
    figure, panels = _panels(len(found))
    for axes, one in zip(panels, found, strict=True):
        axes.bar(range(24), one.served_an_hour, color="#dfe8f0")
        parts = axes.twinx()
        for colour, (limit, hours) in zip(COLOURS[1:], one.use_by_hour.items(), strict=False):
            parts.plot(range(24), hours, color=colour, lw=1.4, label=LIMITS[limit])
        parts.set(ylim=(0, 1.05), yticks=(0, 0.5, 1), yticklabels=("0", "50%", "100%"))
        parts.spines[["top"]].set_visible(False)
        parts.legend(frameon=False, loc="upper left")
        axes.set(title=one.plan)
    panels[0].set_ylabel("served in the hour (bars)")
    return figure


def _money(found: Sequence[Figures]) -> Any:
    """Cost, revenue and margin of each plan."""
    figure, axes = _pyplot().subplots(figsize=(2.5 + 1.2 * len(found), 2.8), layout="constrained")
    bars: Sequence[tuple[str, str, Callable[[Figures], int]]] = (
        ("cost", "#c2410c", lambda one: one.cost_month_nano_usd),
        ("revenue", "#2a9d8f", lambda one: one.revenue_month_nano_usd),
        ("margin", "#5b7083", lambda one: one.margin_month_nano_usd),
    )
    for n, (label, colour, of) in enumerate(bars):
        heights = [of(one) / DOLLAR for one in found]
        axes.bar([i + 0.27 * (n - 1) for i in range(len(found))], heights, 0.25, color=colour, label=label)
    axes.axhline(0, color="black", lw=0.6)
    axes.set(xticks=range(len(found)), xticklabels=[one.plan for one in found], ylabel="$ in 30 such days")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


_DRAWINGS: dict[str, Callable[[Sequence[Figures]], Any]] = {"waits": _waits, "load": _load, "money": _money}


def _panels(many: int) -> tuple[Any, Sequence[Any]]:
    figure, panels = _pyplot().subplots(
        1, many, figsize=(1 + 2.9 * many, 2.8), sharey=True, squeeze=False, layout="constrained"
    )
    for axes in panels[0]:
        axes.set(xlim=(-0.5, 23.5), xticks=range(0, 24, 6), xlabel="hour, UTC")
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels[0]
