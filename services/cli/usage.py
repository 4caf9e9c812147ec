"""`headgate usage` and `headgate users list`: who used how much, and when."""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlencode

from rich.table import Table
from rich.text import Text

from services.cli.client import Client, Connect
from services.cli.screen import Screen, print_json, visible
from services.money import dollars

PAGE = 1000
BAR_CHARACTERS = 40
BLOCKS = " ▏▎▍▌▋▊▉█"
"""A bar's last character, by eighths."""


def add_commands(commands: Any, users: Any, admin: argparse.ArgumentParser, client: Connect) -> None:
    """Adds `usage` to the commands and `list` to those of `users`."""
    usage = commands.add_parser("usage", parents=[admin], help="what was used, by hour or day")
    usage.add_argument("--days", type=int, metavar="N", help="the days that end with today (30, by hour 1)")
    usage.add_argument("--by", choices=("day", "hour"), default="day")
    usage.add_argument("--group", choices=("tier", "model", "kind"), help="divide it")
    usage.set_defaults(run=lambda options, screen: _usage(options, screen, client(options)))
    listing = users.add_parser("list", parents=[admin], help="users by what they used, highest first")
    listing.add_argument("prefix", nargs="?", help="only whose id or address begins with this")
    listing.add_argument("--sort", choices=("cost", "requests", "tokens"), default="cost")
    listing.add_argument("--days", type=int, default=30, metavar="N", help="the days that end with today (30)")
    listing.add_argument("--tier", help="only users of this tier")
    listing.add_argument("--limit", type=int, default=50, metavar="N", help="how many (50)")
    listing.set_defaults(run=lambda options, screen: _users(options, screen, client(options)))


def _usage(options: argparse.Namespace, screen: Screen, client: Client) -> int:
    days = options.days or (1 if options.by == "hour" else 30)
    wanted = {"days": days, "by": options.by, "group": options.group or ""}
    items = client.call("GET", "/api/admin/usage?" + urlencode(wanted))["items"]
    if options.json:
        for item in items:
            print_json(item)
        return 0
    time = "day" if options.by == "day" else "hour"
    rows = [(_moment(item["time"], options.by), item.get(options.group or "", ""), item) for item in items]
    table = Table(box=None, pad_edge=False)
    for head in (time, *([options.group] if options.group else [])):
        table.add_column(head)
    for head in ("requests", "cached", "tokens", "cost"):
        table.add_column(head, justify="right")
    for moment, group, item in rows:
        figures = (f"{item['requests']:,}", f"{item['cached']:,}", f"{item['tokens']:,}", dollars(item["costNanoUsd"]))
        table.add_row(moment, *([Text(visible(group))] if options.group else []), *figures)
    screen.table(table)
    cost: defaultdict[str, int] = defaultdict(int)
    for moment, _, item in rows:
        cost[moment] += item["costNanoUsd"]
    screen.say("\n".join(["", f"cost by {time}", *plot(list(cost.items()))] if rows else ["Nothing was used."]))
    return 0


def _users(options: argparse.Namespace, screen: Screen, client: Client) -> int:
    table = Table(box=None, pad_edge=False)
    for head in ("user", "tier"):
        table.add_column(head)
    for head in ("requests", "tokens", "cost", "revenue"):
        table.add_column(head, justify="right")
    for item in _pages(options, client):
        if options.json:
            print_json(item)
            continue
        name = Text(visible(item["userId"]), style="dim" if item["status"] == "suspended" else "")
        figures = (f"{item['requests']:,}", f"{item['tokens']:,}")
        table.add_row(name, item["tier"], *figures, dollars(item["costNanoUsd"]), dollars(item["revenueNanoUsd"]))
    if not options.json:
        screen.table(table)
    return 0


def _pages(options: argparse.Namespace, client: Client) -> Iterator[dict[str, Any]]:
    left, cursor = options.limit, ""
    wanted = {"sort": options.sort, "days": options.days, "prefix": options.prefix, "tier": options.tier}
    while left > 0:
        asked = {**wanted, "limit": min(left, PAGE), "cursor": cursor}
        page = client.call("GET", "/api/admin/users?" + urlencode({k: v for k, v in asked.items() if v}))
        yield from page["items"]
        left, cursor = left - len(page["items"]), page["nextCursor"]
        if not cursor:
            return


def _moment(time: str, by: str) -> str:
    return time[:10] if by == "day" else time[:16].replace("T", " ")


def plot(values: Sequence[tuple[str, int]]) -> list[str]:
    """A bar for each value, the largest as long as there is room."""
    most, width = max(max((value for _, value in values), default=0), 1), max(len(name) for name, _ in values)
    lines = []
    for name, value in values:
        eighths = max(value, 0) * BAR_CHARACTERS * 8 // most
        bar = BLOCKS[8] * (eighths // 8) + BLOCKS[eighths % 8].strip()
        lines.append(f"{name:{width}}  {bar:{BAR_CHARACTERS}}  {dollars(value)}")
    return lines
