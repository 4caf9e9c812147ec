"""`headgate capacity`: how full the provider's limits are, and switching its plan."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from services.cli.client import Client, Connect
from services.cli.screen import Screen

BAR_CELLS = 30
WORDS = {
    "requestsPerMinute": "requests/min",
    "tokensPerMinute": "tokens/min",
    "inputTokensPerMinute": "input tokens/min",
    "outputTokensPerMinute": "output tokens/min",
    "requestsPerDay": "requests/day",
    "concurrency": "at once",
}

Tell = Callable[[Any, str, argparse.Namespace, Screen], int]
"""Prints the value for programs or the words for people; the exit status."""


def add_commands(commands: Any, admin: argparse.ArgumentParser, client_of: Connect, tell: Tell) -> None:
    """Hooks `capacity` into the parser."""
    capacity = commands.add_parser("capacity", parents=[admin], help="how full the provider's limits are")
    # Arguments, not commands of their own: those would set --key and --json back to their defaults.
    capacity.add_argument(
        "action", nargs="?", choices=("use", "pause", "resume"),
        help="use: switch to a provider plan; pause, resume: stop a pool and let it go on",
    )  # fmt: skip
    capacity.add_argument("name", nargs="?", help="the plan or the pool")
    capacity.set_defaults(run=lambda options, screen: _run(capacity, client_of(options), options, screen, tell))


def _run(
    parser: argparse.ArgumentParser, client: Client, options: argparse.Namespace, screen: Screen, tell: Tell
) -> int:
    if options.action and not options.name:
        parser.error(f"{options.action} needs a name")
    if not options.action:
        found = client.call("GET", "/api/admin/capacity")
        return tell(found, picture(found), options, screen)
    if options.action == "use":
        changed = client.call("PUT", "/api/admin/provider-plan", {"plan": options.name})
        return tell(changed, f"Provider plan: {changed['previousPlan']} → {changed['plan']}", options, screen)
    pool = client.call("POST", f"/api/admin/pools/{quote(options.name, safe='')}/{options.action}")
    words = "stands still until it is resumed" if options.action == "pause" else "goes on"
    return tell(pool, f"Pool {pool['pool']} {words}", options, screen)


def picture(found: Mapping[str, Any]) -> str:
    """A bar for each limit."""
    lines: list[str] = []
    for pool in found["pools"]:
        lines += ["", pool["pool"], *map(_limit, pool["limits"])]
        if pool["advice"]:
            lines.append(f"  {pool['advice']}")
    return "\n".join(lines[1:]) or "No pool can be read at the moment."


def _limit(limit: Mapping[str, Any]) -> str:
    used, peak, most = limit["used"], limit["peak"], limit["limit"]
    words = f"  {WORDS[limit['dimension']]:<18}{bar(used, peak, most)} {used / most:>4.0%} of {most:,}"
    words += f" ({limit['source']}), peak {peak / most:.0%}"
    if limit["refusals"]:
        words += f", {limit['refusals']} refused"
    if limit["exhaustedAt"]:
        words += f", full on {limit['exhaustedAt'][:10]} if it grows on"
    return words


def bar(used: int, peak: int, limit: int) -> str:
    """Filled as far as it is used, with a mark where it was at most."""
    filled, mark = (min(BAR_CELLS, -(-BAR_CELLS * amount // limit)) for amount in (used, peak))
    cells = "█" * filled + "░" * (BAR_CELLS - filled)
    return cells[: mark - 1] + "▌" + cells[mark:] if mark > filled else cells
