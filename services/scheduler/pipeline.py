"""Runs scripts in Valkey, those that are asked for together in one write and one read.

At most one batch is on its way; what is asked for meanwhile is the next. Nothing is sent twice: a script whose answer
was lost may have run.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, ResponseError

BATCH = 128
"""Scripts of one batch at most: bounds what is lost with a connection, and how long the first waits for the last."""


class _Call(NamedTuple):
    name: str
    command: tuple[Any, ...]
    answer: asyncio.Future[Any]


class Scripts:
    """The scripts by name. Errors are redis's own; a lost connection is the error of every call that waits."""

    def __init__(self, client: Redis, texts: Mapping[str, str], *, timeout_s: float) -> None:
        self._connections: Any = client.connection_pool
        self._texts = texts
        self._hashes = {name: hashlib.sha1(text.encode()).hexdigest() for name, text in texts.items()}  # noqa: S324
        self._timeout_s = timeout_s
        self._waiting: deque[_Call] = deque()
        self._sending: asyncio.Task[None] | None = None

    async def run(self, name: str, key: str, *arguments: Any) -> Any:
        """The answer of one script."""
        answer = asyncio.get_running_loop().create_future()
        self._waiting.append(_Call(name, ("EVALSHA", self._hashes[name], 1, key, *arguments), answer))
        if self._sending is None:
            self._sending = asyncio.create_task(self._send())
        return await answer

    async def _send(self) -> None:
        batch: list[_Call] = []
        try:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
                # Of those that nobody waits for none is begun.
                batch = [call for call in batch if not call.answer.done()]
                if batch:
                    await self._exchange(batch)
        except BaseException as error:
            # Those behind would each wait as long for the same.
            _fail([*batch, *self._waiting], error)
            self._waiting.clear()
            if not isinstance(error, Exception):
                raise
        finally:
            self._sending = None

    async def _exchange(self, batch: list[_Call]) -> None:
        connection = await self._connections.get_connection()
        try:
            async with asyncio.timeout(self._timeout_s):
                await connection.send_packed_command(connection.pack_commands(call.command for call in batch))
                for call in batch:
                    try:
                        answer = await connection.read_response(timeout=math.inf)
                    except NoScriptError:
                        # It did not run: the server was restarted. EVAL also teaches it the script.
                        command = ("EVAL", self._texts[call.name], *call.command[2:])
                        self._waiting.append(call._replace(command=command))
                    except ResponseError as error:
                        _fail([call], error)
                    else:
                        if not call.answer.done():
                            call.answer.set_result(answer)
        finally:
            await self._connections.release(connection)


def _fail(calls: Iterable[_Call], error: BaseException) -> None:
    for call in calls:
        if call.answer.done():
            continue
        if isinstance(error, Exception):
            call.answer.set_exception(error)
        else:
            call.answer.cancel()
