"""What a person reads once everything is up."""

from __future__ import annotations

from collections.abc import Mapping

BOLD, DIM, GREEN, PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[32m", "\x1b[0m"


def welcome(url: str, *, admin_key: str, demo_keys: Mapping[str, str], emulated: bool, colour: bool) -> str:
    """Where to go and with which key; the last line is `ready URL`. `admin_key` says where that key is."""
    bold, dim, green, plain = (BOLD, DIM, GREEN, PLAIN) if colour else ("",) * 4
    first_key = next(iter(demo_keys.values()), "KEY")
    width = max((len(tier) for tier in demo_keys), default=0)
    who = (
        "The built-in emulator answers in place of the Claude API: its diagrams are made up, its limits are real.\n"
        f"{dim}Set ANTHROPIC_API_KEY to draw with Claude.{plain}"
        if emulated
        else "The Claude API answers, on your key."
    )
    keys = "".join(f"  {tier:<{width}}  {key}\n" for tier, key in demo_keys.items())
    return (
        f"\n{who}\n\n"
        f"{bold}Page{plain}       {url}/\n"
        f"{bold}Admin key{plain}  {admin_key}\n"
        f"{bold}Demo keys{plain}\n{keys}"
        f"{bold}Try{plain}\n"
        f"  curl -s -X POST {url}/api/diagram/generate -H 'X-API-Key: {first_key}' \\\n"
        '    -d \'{"prompt": "How a user signs in"}\'\n\n'
        f"{green}ready {url}{plain}\n"
    )
