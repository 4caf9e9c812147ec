"""A load generator that costs little: keep-alive connections that send the next request when the last is answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


@dataclass
class Measured:
    """What one run saw."""

    seconds: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)

    @classmethod
    def together(cls, parts: Sequence[Measured]) -> Measured:
        """What runs at the same time saw."""
        whole = cls(max(part.seconds for part in parts))
        for part in parts:
            whole.latencies_ms += part.latencies_ms
            for status, count in part.statuses.items():
                whole.statuses[status] = whole.statuses.get(status, 0) + count
        return whole

    @property
    def per_second(self) -> float:
        """Answers a second."""
        return len(self.latencies_ms) / self.seconds

    def percentile_ms(self, part: float) -> float:
        """Latency that `part` (0 to 1) of the answers did not exceed."""
        return sorted(self.latencies_ms)[min(len(self.latencies_ms) - 1, int(part * len(self.latencies_ms)))]


async def load(
    port: int, clients: int, seconds: float, request: Callable[[int], bytes], *, most: int = 10**9
) -> Measured:
    """Sends `request(number)` over `clients` connections for that long, at most so many; every answer must have a
    Content-Length."""
    measured, numbers = Measured(), iter(range(most))
    begun = time.perf_counter()
    deadline = begun + seconds

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in numbers:
            sent = time.perf_counter()
            if sent > deadline:
                break
            writer.write(request(number))
            status = await _answer(reader)
            measured.latencies_ms.append((time.perf_counter() - sent) * 1000)
            measured.statuses[status] = measured.statuses.get(status, 0) + 1
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    measured.seconds = time.perf_counter() - begun
    return measured


async def _answer(reader: asyncio.StreamReader) -> int:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
    )
    await reader.readexactly(length)
    return int(head.split(b" ", 2)[1])


def post(path: str, body: bytes, **headers: str) -> bytes:
    """One request as bytes."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
