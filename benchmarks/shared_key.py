"""The key is used by somebody else too, for a third of its limit, of whom nothing is known but what answers show.

`python -m benchmarks.shared_key [--seconds N] [--write FILE]`. Aim: 0.9 of what is left used, 429s at most 3%.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
import time
from collections.abc import Sequence

from benchmarks import report
from benchmarks.book import Call, passed, refused, refused_share, requests_used
from benchmarks.http_load import post
from benchmarks.rig import INSTANT, system
from benchmarks.timeline import timeline

PER_MINUTE = 600
FOREIGN = "Somebody else's question"
FOREIGN_PER_MINUTE = PER_MINUTE // 3
HEADS = ("who", "calls", "let in", "429s", "of its calls", "of what is left used", "in the second half")


def main() -> None:
    """Measures and prints."""
    parser = report.parser(__doc__)
    parser.add_argument("--seconds", type=float, default=120.0)
    options = parser.parse_args()
    limits = {"HEADGATE_PROVIDER_PLAN": "scale", "HEADGATE_PROVIDER_RPM": str(PER_MINUTE)}
    prompts = [f"How parcel {n} travels" for n in range(int(1.2 * PER_MINUTE * options.seconds / 60))]
    with system(**limits, **INSTANT) as headgate, timeline(headgate, options.timeline, "shared-key"):
        port = int(headgate.upstream.url.rpartition(":")[2])
        foreign = threading.Thread(target=lambda: asyncio.run(_somebody(port, options.seconds)), daemon=True)
        foreign.start()
        begun_s = headgate.ask(prompts, within_s=options.seconds).begun_s
        foreign.join()
        calls = headgate.upstream.calls()
    digest = hashlib.sha256(FOREIGN.encode()).hexdigest()
    ours, others = ([call for call in calls if (call.prompt_hash == digest) is foreign] for foreign in (False, True))
    end_s = begun_s + options.seconds
    rows = []
    for who, these, rest in (("Headgate", ours, others), ("somebody else", others, ours)):
        shares = [_of_what_is_left(these, rest, s, end_s) for s in (begun_s, end_s - options.seconds / 2)]
        counts = str(len(these)), str(len(passed(these))), str(refused(these)), f"{refused_share(these):.2%}"
        rows.append([who, *counts, *(f"{share:.3f}" for share in shares)])
    title = f"A key of {PER_MINUTE} requests a minute, {FOREIGN_PER_MINUTE} of them sent by somebody else"
    report.publish(options.write, "shared-key", f"{title}, for {options.seconds:g} s", HEADS, rows)


def _of_what_is_left(these: Sequence[Call], rest: Sequence[Call], from_s: float, until_s: float) -> float:
    """Calls let in, of what the limit gave in that time less what the rest was let in with."""
    left = 1 - requests_used(rest, PER_MINUTE, from_s, until_s)
    return requests_used(these, PER_MINUTE, from_s, until_s) / left


async def _somebody(port: int, seconds: float) -> None:
    """Calls at an even pace and never again after a refusal."""
    body = {"model": "claude-sonnet-5-5", "max_tokens": 100, "messages": [{"role": "user", "content": FOREIGN}]}
    headers = {"X_Api_Key": "emulated", "Anthropic_Version": "2026-10-21", "Connection": "close"}
    request = post("/v1/messages", json.dumps(body).encode(), **headers)
    begun_s, sent = time.monotonic(), 0
    while (now_s := time.monotonic() - begun_s) < seconds:
        if now_s * FOREIGN_PER_MINUTE / 60 >= sent:
            sent += 1
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request)
            await reader.read()
            writer.close()
        else:
            await asyncio.sleep(sent * 60 / FOREIGN_PER_MINUTE - now_s)


if __name__ == "__main__":
    main()
