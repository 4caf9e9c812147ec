"""The scheduler's own scripts in virtual time, over one connection that blocks: nothing else happens meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from redis import Redis, ResponseError

from services.clock import DAY_MS
from services.scheduler.line import SOCKET_TIMEOUT_S, Identity, ValkeyLine, base_key, connect, script_texts

START_MS = 11_575 * DAY_MS
"""When virtual time begins: any midnight does."""
UNREAD = 64
"""Answers that may wait to be read: they must fit into the socket's buffer."""
UNASKED = frozenset({"place", "start", "finish", "limit"})
"""Scripts whose answers a drive does not look at."""


class _Scripts:
    """Runs scripts one after the other. Those in `unasked` are not waited for: Valkey is at work while we go on."""

    def __init__(self, url: str) -> None:
        self._client = Redis.from_url(url, decode_responses=True, socket_timeout=SOCKET_TIMEOUT_S)
        self._hashes = {name: str(self._client.script_load(text)) for name, text in script_texts().items()}
        self._connection: Any = self._client.connection_pool.get_connection()
        self._unread = 0
        self.unasked: frozenset[str] = frozenset()

    async def run(self, name: str, key: str, *arguments: Any) -> Any:
        """The answer of one script; 0 for one that is not waited for."""
        self._connection.send_packed_command([_packed("EVALSHA", self._hashes[name], 1, key, *arguments)])
        self._unread += 1
        return 0 if name in self.unasked and self._unread < UNREAD else self.catch_up()

    def catch_up(self) -> Any:
        """Reads every answer; the last one. The first refusal is raised."""
        answers = [self._read() for _ in range(self._unread)]
        self._unread = 0
        for answer in answers:
            if isinstance(answer, ResponseError):
                raise answer
        return answers[-1] if answers else None

    def _read(self) -> Any:
        try:
            return self._connection.read_response()
        except ResponseError as error:
            return error

    def close(self) -> None:
        self._client.connection_pool.release(self._connection)
        self._client.close()


def _packed(*arguments: object) -> bytes:
    """A command as Valkey reads it; the client's own packing took a third of our time."""
    parts = [b"*%d\r\n" % len(arguments)]
    for argument in arguments:
        text = str(argument).encode()
        parts.append(b"$%d\r\n%s\r\n" % (len(text), text))
    return b"".join(parts)


class VirtualLine(ValkeyLine):
    """A line whose clock is `virtual_now_ms`."""

    def __init__(self, client: Any, scripts: _Scripts) -> None:
        super().__init__(client, Identity(1), virtual_now_ms=START_MS, scripts=scripts)
        self._of_valkey = scripts

    @contextmanager
    def hurrying(self) -> Iterator[None]:
        """Within it scripts whose answers are of no interest are not waited for; what they refuse is raised later."""
        self._of_valkey.unasked = UNASKED
        try:
            yield
            self._of_valkey.catch_up()
        finally:
            self._of_valkey.unasked = frozenset()


@asynccontextmanager
async def virtual_line(url: str, pool: str) -> AsyncIterator[VirtualLine]:
    """A line in virtual time on the Valkey at `url`, whose keys of that pool are deleted first."""
    client = connect(url, None)
    try:
        async for key in client.scan_iter(f"{base_key(pool)}*", count=1000):
            await client.unlink(key)
        await client.hset(f"{base_key(pool)}meta", "epoch", "1")
        scripts = _Scripts(url)
        try:
            yield VirtualLine(client, scripts)
        finally:
            scripts.close()
    finally:
        await client.aclose()
