"""600 requests at once at 1,200 a minute, against an upstream that is strict each second: ours beside its peers.

`python -m benchmarks.burst [--peers-venv FOLDER] [--without-peers] [--write FILE]`. LiteLLM is installed into that
folder if it is not there. Aim: the last answer within 1.03 of ideal, 429s at most 0.1%.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from benchmarks import report
from benchmarks.book import Call, ideal_s, refused
from benchmarks.peers import PEERS, Peer, run, version
from benchmarks.rig import INSTANT, system
from benchmarks.timeline import timeline

REQUESTS = 600
PER_MINUTE = 1_200
IDEAL_S = ideal_s(REQUESTS, PER_MINUTE)
LIMITS = {"HEADGATE_PROVIDER_PLAN": "scale", "HEADGATE_PROVIDER_RPM": str(PER_MINUTE)}
HEADS = ("client", "answered", "last answer, s", "time/ideal", "upstream calls", "429s", "CPU s, clients + between")


def main() -> None:
    """Measures and prints."""
    parser = report.parser(__doc__)
    parser.add_argument("--peers-venv", type=Path, default=Path(".venv-peers"), metavar="FOLDER")
    parser.add_argument("--without-peers", action="store_true", help="only ours, in half a minute")
    options = parser.parse_args()
    rows = [_ours(options.timeline)]
    if not options.without_peers:
        rows += [_peer(peer, options.peers_venv.absolute()) for peer in PEERS]
    title = f"{REQUESTS} requests at once at {PER_MINUTE:,} a minute, ideal {IDEAL_S:.0f} s"
    report.publish(options.write, "burst", title, HEADS, rows)


def _ours(folder: Path | None) -> list[str]:
    with system(**LIMITS, **INSTANT) as headgate, timeline(headgate, folder, "burst"):
        prompts = [f"How parcel {n} travels from the shop to its reader" for n in range(REQUESTS)]
        answers = headgate.ask(prompts, within_s=4 * IDEAL_S)
        calls = headgate.upstream.calls()
    clients = answers.cpu_s.pop("clients")
    return _row("Headgate", answers.answered_s, calls, f"{clients:.1f} + {sum(answers.cpu_s.values()):.1f}")


def _peer(peer: Peer, venv: Path) -> list[str]:
    try:
        outcome = run(peer, REQUESTS, PER_MINUTE, venv)
    except (subprocess.SubprocessError, AssertionError) as error:
        return [peer.name, f"could not be installed or run: {error}", *["-"] * (len(HEADS) - 2)]
    name = peer.name if peer.router_retries is None else peer.name.replace("proxy", f"proxy {version(venv)}")
    cpu = f"{outcome.clients_cpu_s:.1f} + {outcome.between_cpu_s:.1f}"
    return _row(name, outcome.answered_s, outcome.calls, cpu)


def _row(name: str, answered_s: Sequence[float], calls: Sequence[Call], cpu: str) -> list[str]:
    last_s = max(answered_s, default=0.0)
    over = "" if len(answered_s) == REQUESTS else ", gave up"
    return [
        name, f"{len(answered_s)} of {REQUESTS}", f"{last_s:.1f}", f"{last_s / IDEAL_S:.3f}{over}",
        f"{len(calls):,}", f"{refused(calls):,}", cpu,
    ]  # fmt: skip


if __name__ == "__main__":
    main()
