"""`headgate economics` and `headgate tiers`: what comes in, what goes out, and by which tier."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from rich.table import Table
from rich.text import Text

from services.cli.client import Client, Connect
from services.cli.screen import Screen, print_json, visible
from services.money import CENT

BAR_CHARACTERS = 20
"""With these the widest table of amounts up to millions fits 80 columns."""
LEGEND = "█ cost that revenue covers   ▓ cost beyond it   ░ what is left"
_LIMITS = {
    "requestsPerMinute": "requests/minute",
    "tokensPerDay": "tokens/day",
    "spendNanoUsdPerMonth": "cost/month",
    "spendNanoUsdPerDay": "cost/day",
}
"""Limits that not every tier has."""

_AMOUNTS = ("revenueNanoUsd", "costNanoUsd", "marginNanoUsd")


def add_commands(commands: Any, admin: argparse.ArgumentParser, connect: Connect) -> None:
    """Adds both to the parser."""
    economics = commands.add_parser("economics", parents=[admin], help="revenue, cost and margin by tier and day")
    economics.add_argument("--days", default="30", metavar="N", help="the days that end with today (30)")
    economics.add_argument("--tier", default="", metavar="NAME", help="the days of one tier only")
    economics.add_argument("--csv", action="store_true", help="for spreadsheets: a row a day and tier")
    economics.set_defaults(run=lambda options, screen: _economics(options, screen, connect(options)))
    tiers = commands.add_parser("tiers", parents=[admin], help="the tiers with limits, prices and users")
    tiers.set_defaults(run=lambda options, screen: _tiers(options, screen, connect(options)))


def _economics(options: argparse.Namespace, screen: Screen, client: Client) -> int:
    path = f"/api/admin/economics?{urlencode({'days': options.days})}"
    if options.csv:
        print(client.text(path + "&format=csv"), end="")
        return 0
    report = client.call("GET", path)
    if options.json:
        print_json(report)
        return 0
    screen.say(f"{report['from']} to {report['to']}, today with the tiers held now")
    screen.table(_by_tier([*report["tiers"], report["total"] | {"tier": "all"}]))
    screen.say("")
    screen.table(_by_day([day for day in report["days"] if options.tier in ("", day["tier"])]))
    screen.say(LEGEND)
    if report["topUsers"]:
        screen.say("\nThe users that cost most")
        screen.table(_by_user(report["topUsers"]))
    for sentence in (*map(losing, report["tiers"]), _saved(report["total"])):
        if sentence:
            screen.say(sentence)
    return 0


def _by_tier(rows: Sequence[Mapping[str, Any]]) -> Table:
    table, longest = _table("tier", "users", "revenue", "cost", "margin"), _longest(rows)
    for row in rows:
        table.add_row(Text(row["tier"]), _count(row.get("users")), *_money(row), bar(row, longest))
    return table


def _by_day(rows: Iterable[Mapping[str, Any]]) -> Table:
    days: dict[str, dict[str, int]] = {}
    for row in rows:
        sums = days.setdefault(row["day"], dict.fromkeys(_AMOUNTS, 0))
        for name in _AMOUNTS:
            sums[name] += row[name]
    table, longest = _table("day", "revenue", "cost", "margin"), _longest(days.values())
    for day, sums in days.items():
        table.add_row(day, *_money(sums), bar(sums, longest))
    return table


def _by_user(rows: Iterable[Mapping[str, Any]]) -> Table:
    table = _table("user", "tier", "revenue", "cost", "margin", "requests")
    for row in rows:
        table.add_row(Text(visible(row["userId"])), Text(row["tier"]), *_money(row), _count(row["requests"]))
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    return table


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _money(row: Mapping[str, int]) -> list[Text]:
    return [Text(rounded(row[name]), style="red" if row[name] < 0 else "") for name in _AMOUNTS]


def _longest(rows: Iterable[Mapping[str, int]]) -> int:
    return max((max(row["revenueNanoUsd"], row["costNanoUsd"]) for row in rows), default=0)


def bar(row: Mapping[str, int], longest: int) -> Text:
    """Cost and revenue as one bar, `longest` being the full width."""
    revenue, cost = row["revenueNanoUsd"], row["costNanoUsd"]
    covered, whole = ((BAR_CHARACTERS * amount + longest // 2) // (longest or 1) for amount in sorted((revenue, cost)))
    rest = Text("▓" * (whole - covered), "red") if cost > revenue else Text("░" * (whole - covered), "green")
    return Text("█" * covered, "green") + rest


def losing(tier: Mapping[str, Any]) -> str:
    """A sentence for a tier that costs more than it brings in; nothing for others."""
    if not tier["unsustainable"]:
        return ""
    cost, revenue = tier["costNanoUsd"], tier["revenueNanoUsd"]
    words = f"{tier['tier']} loses money: it cost {rounded(cost)} and brought in {rounded(revenue)}."
    if revenue:
        # Rounded up: what is named must be enough.
        words += f" To break even it would have to bring in {-(-100 * cost // revenue)}% of that."
    return words


def _saved(total: Mapping[str, int]) -> str:
    equals, cache = total["savedByEqualsNanoUsd"], total["savedByPromptCacheNanoUsd"]
    if not (equals or cache):
        return ""
    return f"Saved: {rounded(equals)} by answering equal requests once, {rounded(cache)} by the provider's cache."


def rounded(nano_usd: int) -> str:
    """For people: in cents, with four digits where it is less than one."""
    digits = 4 if 0 < abs(nano_usd) < CENT else 2
    unit = 10 ** (9 - digits)
    amount = (abs(nano_usd) + unit // 2) // unit
    whole, rest = divmod(amount, 10**digits)
    return f"{'-' if nano_usd < 0 else ''}${whole:,}.{rest:0{digits}}"


def _tiers(options: argparse.Namespace, screen: Screen, client: Client) -> int:
    # Without the administrator's key: the list is for everybody, and that key is nobody's.
    tiers = Client(client.url, {}).call("GET", "/api/tiers")["items"]
    held = {row["tier"]: row["users"] for row in client.call("GET", "/api/admin/economics?days=1")["tiers"]}
    rows = [tier | {"users": held.get(tier["name"], 0)} for tier in tiers]
    if options.json:
        for row in rows:
            print_json(row)
        return 0
    further = {name: title for name, title in _LIMITS.items() if any(name in row for row in rows)}
    table = _table("tier", "users", "price", "requests/day", "outstanding", "share", *further.values())
    for row in rows:
        cells = [_count(row[name]) for name in ("requestsPerDay", "outstanding", "share")]
        cells += [_limit(name, row.get(name)) for name in further]
        table.add_row(Text(visible(row["name"])), _count(row["users"]), Text(visible(row["price"])), *cells)
    screen.table(table)
    return 0


def _limit(name: str, value: int | None) -> str:
    return rounded(value) if "NanoUsd" in name and value is not None else _count(value)
