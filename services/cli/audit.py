"""`headgate audit`: who changed what."""

from __future__ import annotations

import argparse
from typing import Any
from urllib.parse import urlencode

from rich.table import Table
from rich.text import Text

from services.cli.client import Client, Connect
from services.cli.screen import Screen, print_json, visible

PAGE = 100


def add_command(commands: Any, admin: argparse.ArgumentParser, client: Connect) -> None:
    """Adds it to the parser."""
    command = commands.add_parser("audit", parents=[admin], help="who changed what, newest first")
    command.add_argument("subject", nargs="?", default="", help="only what concerns this user, key, pool or event")
    command.add_argument("--limit", type=int, default=50, metavar="N", help="how many entries (50)")
    command.set_defaults(run=lambda options, screen: _run(options, screen, client(options)))


def _run(options: argparse.Namespace, screen: Screen, client: Client) -> int:
    table = Table("when", "who", "what", "to what", "from", "to", box=None, pad_edge=False)
    left, cursor = options.limit, ""
    while left > 0:
        wanted = {"limit": min(left, PAGE), "cursor": cursor, "subject": options.subject}
        page = client.call("GET", "/api/admin/audit?" + urlencode({k: v for k, v in wanted.items() if v}))
        for item in page["items"]:
            if options.json:
                print_json(item)
            table.add_row(*(Text(visible(item[name])) for name in ("time", "actor", "action", "subject", "old", "new")))
        left, cursor = left - len(page["items"]), page["nextCursor"]
        if not cursor:
            break
    if not options.json:
        screen.table(table)
    return 0
