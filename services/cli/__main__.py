"""The `headgate` command: a client of the gateway's HTTP API, and `headgate up` and `plan`."""

from __future__ import annotations

import argparse
import functools
import importlib
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rich.markup import escape

from services.cli import audit, capacity, economics, limits, usage
from services.cli.client import Client, CliError
from services.cli.screen import Progress, Screen, complain, place, print_json

FAILED, USAGE, INTERRUPTED = 1, 2, 130
KINDS = (
    "mermaid", "flowchart", "sequence", "class", "state", "er", "gantt", "mindmap", "pie", "journey", "timeline",
    "quadrant", "gitgraph", "c4", "block", "architecture", "sankey",
)  # fmt: skip
_part = functools.partial(quote, safe="")
LOCAL = {"up": "services.embedded.__main__", "plan": "services.scheduler.planner.__main__"}
"""Commands that are no clients, by the module whose `main` runs them."""
UNITS_MS = {"": 1_000, "s": 1_000, "m": 60_000, "h": 3_600_000}


class UsageError(Exception):
    """The command cannot be run as it was written."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] and arguments[0] in LOCAL:
        # By name: the command is a client and must not depend on the services it starts.
        status: int = importlib.import_module(LOCAL[arguments[0]]).main(arguments[1:])
        return status
    options = _parser().parse_args(arguments)
    try:
        status = options.run(options, Screen())
        return status
    except UsageError as error:
        complain(str(error))
        return USAGE
    except CliError as error:
        if options.json and error.body:
            print_json(error.body)
        complain(str(error))
        return FAILED
    except KeyboardInterrupt:
        complain("stopped watching; what was accepted goes on, see: headgate status ID, headgate cancel ID")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has left; nothing more may be written, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("headgate", description="Diagrams through the gate, from the command line.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--url", help="the gateway (HEADGATE_URL, else http://127.0.0.1:8080)")
    shared.add_argument("--json", action="store_true", help="for programs: one JSON object a line")
    user = argparse.ArgumentParser(add_help=False, parents=[shared])
    user.add_argument("--key", help="your key (HEADGATE_API_KEY)")
    admin = argparse.ArgumentParser(add_help=False, parents=[shared])
    admin.add_argument("--key", help="the admin key (HEADGATE_ADMIN_KEY, else HEADGATE_DATA_DIR/admin.key)")

    generate = commands.add_parser("generate", parents=[user], help="draw a diagram")
    generate.add_argument("prompt", help="what to draw; - reads it from standard input")
    generate.add_argument("--kind", default="mermaid", choices=KINDS)
    generate.add_argument("--svg", type=Path, metavar="FILE", help="write the picture there")
    generate.add_argument("--output", type=Path, metavar="FILE", help="write the source there")
    generate.add_argument("--max-wait", type=_duration_ms, metavar="TIME", help="longest wait in line: 90s, 10m, 1h")
    generate.set_defaults(run=_generate)
    status = commands.add_parser("status", parents=[user], help="ask about a request")
    cancel = commands.add_parser("cancel", parents=[user], help="end a request")
    cancel.add_argument("--erase", action="store_true", help="also erase prompt and answer")
    status.set_defaults(erase=False)
    for command, method in ((status, "GET"), (cancel, "DELETE")):
        command.add_argument("id")
        command.set_defaults(run=_request, method=method)

    users = commands.add_parser("users", help="administer users").add_subparsers(required=True, metavar="ACTION")
    add = users.add_parser("add", parents=[admin], help="create a user with a key")
    add.add_argument("user", nargs="?", help="the id; one is made if it is left out")
    add.add_argument("--tier")
    add.add_argument("--email")
    add.set_defaults(run=_users_add)
    own = users.add_parser("limits", parents=[admin], help="give a user terms of their own; none takes one back")
    own.add_argument("user")
    limits.add_options(own)
    own.set_defaults(run=_users_limits)
    tier = users.add_parser("tier", parents=[admin], help="move a user to another tier")
    tier.add_argument("user")
    tier.add_argument("tier")
    tier.set_defaults(run=_users_tier)
    keys = commands.add_parser("keys", help="administer keys").add_subparsers(required=True, metavar="ACTION")
    for group, action, run, words in (
        (users, "show", _users_show, "show a user"),
        (keys, "list", _keys_list, "a user's keys"),
        (keys, "add", _keys_add, "issue a further key"),
    ):
        command = group.add_parser(action, parents=[admin], help=words)
        command.add_argument("user")
        command.set_defaults(run=run)
    revoke = keys.add_parser("revoke", parents=[admin], help="revoke a key, at once and for good")
    revoke.add_argument("key_id", metavar="keyId")
    revoke.set_defaults(run=_keys_revoke)
    usage.add_commands(commands, users, admin, _admin_client)
    audit.add_command(commands, admin, _admin_client)
    economics.add_commands(commands, admin, _admin_client)
    capacity.add_commands(commands, admin, _admin_client, _tell)
    commands.add_parser("up", help="run all of Headgate on this machine", add_help=False)
    commands.add_parser("plan", help="what if: waits, costs and margins under other provider plans", add_help=False)
    return parser


def _duration_ms(text: str) -> int:
    found = re.fullmatch(r"(\d{1,6})([smh]?)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"'{text}' is no time: write 90s, 10m or 1h")
    return int(found[1]) * UNITS_MS[found[2]]


def _user_client(options: argparse.Namespace) -> Client:
    key = options.key or os.environ.get("HEADGATE_API_KEY", "")
    if not key:
        raise UsageError("no key: give --key or set HEADGATE_API_KEY.")
    return Client(_url(options), {"X-API-Key": key})


def _admin_client(options: argparse.Namespace) -> Client:
    key = options.key or os.environ.get("HEADGATE_ADMIN_KEY", "").split(",")[0].strip()
    if not key:
        file = Path(os.environ.get("HEADGATE_DATA_DIR") or ".headgate") / "admin.key"
        try:
            key = file.read_text().strip()
        except OSError:
            raise UsageError(
                f"no admin key: give --key, set HEADGATE_ADMIN_KEY, or run where {file} can be read."
            ) from None
    return Client(_url(options), {"Authorization": f"Bearer {key}"})


def _url(options: argparse.Namespace) -> str:
    port = os.environ.get("HEADGATE_HTTP_PORT") or "8080"
    url: str = options.url or os.environ.get("HEADGATE_URL") or f"http://127.0.0.1:{port}"
    return url


def _generate(options: argparse.Namespace, screen: Screen) -> int:
    client = _user_client(options)
    prompt = sys.stdin.read() if options.prompt == "-" else options.prompt
    body: dict[str, Any] = {"prompt": prompt, "diagramType": options.kind}
    if options.max_wait is not None:
        body["options"] = {"maxWait": options.max_wait}
    accepted = client.submit(body)
    if options.json:
        print_json(accepted)
    request_id = accepted["requestId"]
    end = _follow(client, accepted, options, screen)
    if end["type"] != "completed":
        raise CliError(str(end.get("error") or "The diagram could not be made."))
    if options.output:
        _write(options.output, end["result"] + "\n")
    if options.svg:
        _write(options.svg, client.text(f"/api/diagram/{request_id}/diagram.svg"))
    if not options.json:
        _show(end, options, screen)
    return 0


def _follow(client: Client, accepted: dict[str, Any], options: argparse.Namespace, screen: Screen) -> dict[str, Any]:
    progress, end = Progress(), accepted | {"type": accepted["status"]}
    with screen.line(place(accepted)) as line:
        for end in client.events(accepted["requestId"]):
            if options.json:
                print_json(end)
            elif line is not None and end["type"] not in ("completed", "failed"):
                line.update(escape(progress.words(end)))
    return end


def _show(end: dict[str, Any], options: argparse.Namespace, screen: Screen) -> None:
    for file in filter(None, (options.output, options.svg)):
        screen.note(f"Wrote {file}")
    if not options.output:
        screen.diagram(end["result"])
    if end.get("truncated"):
        screen.note("The answer was cut at the token limit; the diagram may be incomplete.")


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CliError(f"{file} cannot be written: {error.strerror}.") from None


def _request(options: argparse.Namespace, screen: Screen) -> int:
    path = f"/api/diagram/{_part(options.id)}" + ("?erase=true" if options.erase else "")
    request = _user_client(options).call(options.method, path)
    if options.json:
        print_json(request)
    elif request["status"] == "queued":
        screen.say(place(request))
    elif request["status"] == "completed":
        screen.note("Completed")
        screen.diagram(request.get("result", ""))
    else:
        screen.say(request["status"].capitalize() + (f": {request['error']}" if request.get("error") else ""))
    return 0


def _users_add(options: argparse.Namespace, screen: Screen) -> int:
    wanted = {"userId": options.user, "tier": options.tier, "email": options.email}
    body = {name: value for name, value in wanted.items() if value is not None}
    made = _admin_client(options).call("POST", "/api/admin/users", body)
    words = f"{made['userId']} ({made['tier']})\nKey {made['keyId']}, shown only now: {made['apiKey']}"
    return _tell(made, words, options, screen)


def _users_tier(options: argparse.Namespace, screen: Screen) -> int:
    path = f"/api/admin/users/{_part(options.user)}/tier"
    user = _admin_client(options).call("PUT", path, {"tier": options.tier})
    return _tell(user, f"{user['userId']}: {user['previousTier']} → {user['tier']}", options, screen)


def _users_limits(options: argparse.Namespace, screen: Screen) -> int:
    changes = limits.changes(options)
    if not changes:
        raise UsageError("nothing to change: name a limit, such as --requests-per-day 50.")
    user = _admin_client(options).call("PUT", f"/api/admin/users/{_part(options.user)}/limits", changes)
    return _tell(user, f"{user['userId']}: {limits.words(user['limits'])}", options, screen)


def _users_show(options: argparse.Namespace, screen: Screen) -> int:
    user = _admin_client(options).call("GET", f"/api/admin/users/{_part(options.user)}")
    words = f"{user['userId']}: {user['tier']}, {user['status']}, {user['used']} of {user['limit']} today"
    words += f"\n{limits.words(user['limits'])}" if user["limits"] else ""
    return _tell(user, words, options, screen)


def _keys_list(options: argparse.Namespace, screen: Screen) -> int:
    keys = _admin_client(options).call("GET", f"/api/admin/users/{_part(options.user)}/keys")["items"]
    for key in keys:
        state = f"revoked {key['revokedAt']}" if key["revoked"] else "valid"
        _tell(key, f"{key['keyId']}  issued {key['createdAt']}  {state}", options, screen)
    return 0


def _keys_add(options: argparse.Namespace, screen: Screen) -> int:
    key = _admin_client(options).call("POST", f"/api/admin/users/{_part(options.user)}/keys")
    return _tell(key, f"Key {key['keyId']}, shown only now: {key['apiKey']}", options, screen)


def _keys_revoke(options: argparse.Namespace, screen: Screen) -> int:
    key = _admin_client(options).call("DELETE", f"/api/admin/keys/{_part(options.key_id)}")
    return _tell(key, f"{key['keyId']} is revoked", options, screen)


def _tell(value: dict[str, Any], words: str, options: argparse.Namespace, screen: Screen) -> int:
    if options.json:
        print_json(value)
    else:
        screen.say(words)
    return 0


if __name__ == "__main__":
    sys.exit(main())
