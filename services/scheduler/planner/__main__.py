"""`headgate-plan`: what if? The scheduler's own scripts in virtual time, for several provider plans at once."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import math
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from services import sql
from services.clock import DAY_MS, SystemClock
from services.config import ConfigError
from services.process import USAGE_ERROR, StartError
from services.scheduler.planner import plots
from services.scheduler.planner.figures import UNITS_MS, Figures, Promise, smallest
from services.scheduler.planner.record import record
from services.scheduler.planner.server import private_valkey
from services.scheduler.planner.simulate import simulate
from services.scheduler.planner.site import Site, SiteError, read_site
from services.scheduler.planner.synthetic import CURVES, Mix, make
from services.scheduler.planner.tables import tables
from services.scheduler.planner.traffic import MOST_DAYS, Traffic, TrafficError, read_traffic
from services.scheduler.providers import PlanError
from services.scheduler.settings import MigrateSettings
from services.settings import SettingsError, config_dir, load

MIGRATIONS = Path(__file__).parents[1] / "migrations"
VERSION_TABLE = "scheduler_version"
USUAL_PART = 0.2
"""Of what a tier's users may send, unless it is said: made up; who pays for a limit seldom uses it up."""
MOST_USERS = 1_000_000
INTERRUPTED = 130
_WRONG = (
    TrafficError, SiteError, PlanError, ConfigError, yaml.YAMLError, plots.PlotError, StartError,
    SettingsError, sql.SchemaOutdated, sql.StoreUnavailable,
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    recording = arguments[:1] == ["record"]
    options = _record_parser().parse_args(arguments[1:]) if recording else _parser().parse_args(arguments)
    # What is ours, the private Valkey and its folder, goes away on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        return _record(options) if recording else _plan(options)
    except _WRONG as error:
        print(f"headgate-plan: {str(error).rstrip('.')}.", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "headgate-plan",
        description="What waits, costs and margins a provider plan would give: the scheduler's own scripts in virtual "
        "time, against made-up traffic or a recording (`headgate-plan record > traffic.csv`).",
    )
    add = parser.add_argument
    add("--plans", type=_names, default=["5x", "20x"], metavar="A,B,…", help="of config/providers.yaml (5x,20x)")
    add("--model", help="whose prices and pool count (the default one)")
    add("--traffic", type=Path, metavar="FILE.csv", help="a recording; takes the place of the made-up traffic below")
    add("--users", type=_amounts(int), metavar="TIER=N,…", help="users; with --traffic: who pays, if not those in it")
    add("--requests-a-day", type=_amounts(float), default={}, metavar="TIER=N,…",
        help="that each user sends (a fifth of the tier's limit)")  # fmt: skip
    add("--day-curve", type=_curve, default="office", metavar="CURVE",
        help=f"{', '.join(CURVES)}, hours as 9-11, or a file of 24 numbers, one for each hour (office)")  # fmt: skip
    add("--input-tokens", type=_whole(1, 100_000), default=500, metavar="N", help="in the mean (500)")
    add("--output-tokens", type=_whole(1, 16_000), default=1_500, metavar="N", help="in the mean (1500)")
    add("--days", type=_whole(1, MOST_DAYS), default=1, metavar="N")
    add("--seed", type=int, default=1, metavar="N", help="of what is made up (1)")
    add("--max-wait", type=_duration_ms, default=3_600_000, metavar="TIME", help="what waits longer expires (1h)")
    add("--keep-wait", metavar="TIME@pN[:TIER]", help="find the smallest plan that keeps it, such as 60s@p90:pro")
    add("--out", type=Path, metavar="FOLDER", help="draw there, as PNG and SVG")
    add("--json", action="store_true", help="for programs: one JSON object")
    add("--valkey", metavar="URL", help="a Valkey to use instead of a private one; its pool's keys are deleted")
    return parser


def _record_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("headgate-plan record", description="Writes recorded traffic to standard output.")
    parser.add_argument("--days", type=_whole(1, MOST_DAYS), default=7, metavar="N", help="how far back (7)")
    return parser


def _plan(options: argparse.Namespace) -> int:
    site = read_site(config_dir(), options.plans, options.model)
    traffic = _traffic(options, site)
    try:
        promise = Promise.of(options.keep_wait, site.tiers) if options.keep_wait else None
    except ValueError as error:
        raise SiteError(f"--keep-wait {error}") from None
    if options.out:
        plots.require()
    with nullcontext(options.valkey) if options.valkey else private_valkey() as url:
        found = asyncio.run(_simulated(url, site, traffic, options.max_wait, promise))
    if options.json:
        print(json.dumps(document(found)))
    else:
        _show(found, options.keep_wait)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        for file in plots.draw(found, options.out):
            print(f"wrote {file}", file=sys.stderr)
    return 0


async def _simulated(
    url: str, site: Site, traffic: Traffic, max_wait_ms: int, promise: Promise | None
) -> list[Figures]:
    found = []
    with Console(stderr=True).status(f"{len(traffic.arrivals):,} requests under {len(site.plans)} plans"):
        async for one in simulate(url, site, traffic, max_wait_ms, promise):
            found.append(one)
    return found


def _show(found: Sequence[Figures], keep_wait: str | None) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=150)
    for part in tables(found, keep_wait):
        console.print(part, markup=not isinstance(part, str), highlight=isinstance(part, Table))


def document(found: Sequence[Figures]) -> dict[str, Any]:
    """What `--json` prints."""
    best = smallest(found)
    plans = [dataclasses.asdict(one) | {"margin_month_nano_usd": one.margin_month_nano_usd} for one in found]
    return {"plans": plans, "smallest_plan_that_keeps_the_wait": best.plan if best else None}


def _traffic(options: argparse.Namespace, site: Site) -> Traffic:
    users: Mapping[str, int] | None = options.users
    for name in {**(users or {}), **options.requests_a_day}:
        if name not in site.tiers:
            raise SiteError(f"tier '{name}' is not one of {', '.join(site.tiers)}")
    if options.traffic:
        traffic = read_traffic(options.traffic, site.tiers)
        return traffic if users is None else dataclasses.replace(traffic, users=users)
    if not users:
        raise SiteError("who sends? Give --traffic FILE.csv, or --users as in free=1000,pro=100")
    usual = {name: USUAL_PART * tier.requests_per_day for name, tier in site.tiers.items()}
    curve = CURVES[options.day_curve] if isinstance(options.day_curve, str) else options.day_curve
    return make(
        Mix(users, usual | options.requests_a_day, curve, options.input_tokens, options.output_tokens,
            options.days, options.seed)
    )  # fmt: skip


def _record(options: argparse.Namespace) -> int:
    url = load(MigrateSettings, os.environ).database_url
    sql.require_schema(url, MIGRATIONS, version_table=VERSION_TABLE)
    written = asyncio.run(_recorded(url, SystemClock().now_ms() - options.days * DAY_MS))
    print(f"{written:,} requests", file=sys.stderr)
    return 0


async def _recorded(url: str, since_ms: int) -> int:
    database = sql.connect(url)
    try:
        return await record(database, since_ms, sys.stdout)
    finally:
        await database.close()


def _names(text: str) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not 1 <= len(names) <= 8:
        raise argparse.ArgumentTypeError("name 1 to 8 plans, separated by commas")
    return names


def _amounts(number: Callable[[str], float]) -> Callable[[str], dict[str, float]]:
    def parse(text: str) -> dict[str, float]:
        found: dict[str, float] = {}
        for part in text.split(","):
            name, _, amount = part.strip().partition("=")
            try:
                found[name] = number(amount)
            except ValueError:
                found[name] = math.nan
            if not 0 <= found[name] <= MOST_USERS:
                raise argparse.ArgumentTypeError(f"'{part}' is not TIER=NUMBER with a number from 0 to {MOST_USERS}")
        return found

    return parse


def _curve(text: str) -> str | list[float]:
    if text in CURVES:
        return text
    found = re.fullmatch(r"(\d{1,2})-(\d{1,2})", text)
    if found and int(found[1]) < int(found[2]) <= 24:
        return [float(int(found[1]) <= hour < int(found[2])) for hour in range(24)]
    try:
        weights = [float(word) for word in re.split(r"[\s,]+", Path(text).read_text().strip())]
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(
            f"'{text}' is neither {', '.join(CURVES)}, hours as 9-11, nor a file"
        ) from error
    if len(weights) != 24 or not all(0 <= weight < math.inf for weight in weights) or not sum(weights):
        raise argparse.ArgumentTypeError(f"{text}: it needs 24 numbers, none negative and one above 0")
    return weights


def _duration_ms(text: str) -> int:
    found = re.fullmatch(r"(\d{1,8})(ms|s|m|h)", text)
    if not found or not 1 <= int(found[1]) * UNITS_MS[found[2]] <= MOST_DAYS * DAY_MS:
        raise argparse.ArgumentTypeError(f"'{text}' is no time: write 90s, 10m or 1h")
    return int(found[1]) * UNITS_MS[found[2]]


def _whole(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"\d{1,9}", text) or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from {least} to {most}")
        return int(text)

    return parse


if __name__ == "__main__":
    sys.exit(main())
