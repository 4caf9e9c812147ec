"""The bare SDK as its users run it: all calls at once, its own retries. Prints one line of JSON.

python -m benchmarks.sdk_client BASE_URL CALLS RETRIES
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import anthropic

MODEL = "claude-sonnet-5-5"


async def main(base_url: str, calls: int, retries: int) -> None:
    """Calls, and prints when the answers came."""
    answered_s: list[float] = []
    async with anthropic.AsyncAnthropic(
        api_key="bench", base_url=base_url, max_retries=retries, timeout=600, open_telemetry=False
    ) as client:

        async def call(number: int) -> None:
            messages = [{"role": "user", "content": f"How parcel {number} travels from the shop to its reader"}]
            try:
                await client.messages.create(model=MODEL, max_tokens=16_000, messages=messages)  # type: ignore[arg-type]
            except anthropic.APIError:
                return
            answered_s.append(time.perf_counter() - begun_s)

        begun_s = time.perf_counter()
        await asyncio.gather(*(call(number) for number in range(calls)))
    print(json.dumps({"answered_s": answered_s, "cpu_s": time.process_time()}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
