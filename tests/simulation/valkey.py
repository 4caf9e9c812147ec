"""One real Valkey for all processes of a run, each command at one moment of virtual time.

Below redis-py's client, pool and connection stands `SimConnection`: it sends over one blocking socket, so that
the scripts are the server's and the order of things is the seed's. The server's clock is virtual too: a script that is
told no time is told the run's, and what expires does so by it.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import socket
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from redis.asyncio.connection import UnixDomainSocketConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from services.scheduler import line as line_module
from tests.simulation.faults import Faults

PATIENCE_S = line_module.SOCKET_TIMEOUT_S
EXPIRE_EVERY_S = 5.0
SHOWN = 8
"""Ids of one script that the history names."""
_TTLS = """local found = {}
for _, k in ipairs(redis.call('KEYS', '*')) do
  local left = redis.call('PTTL', k)
  if left > 0 then table.insert(found, k) table.insert(found, left) end
end
return found"""


class _Socket:
    """The server's one client: RESP3 for the live feed, told in the shapes of RESP2."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._file = self._socket.makefile("rb")
        self.published: deque[tuple[str, str]] = deque()
        self.call(b"HELLO", b"3")
        self.call(b"PSUBSCRIBE", b"hg:*")

    def call(self, *arguments: bytes) -> Any:
        """One command. What it published is in `published` when this returns; a refusal is returned, not raised."""
        self._socket.sendall(_packed(arguments) + b"*1\r\n$4\r\nPING\r\n")
        answer = self._read_past_pushes()
        while self._read_past_pushes() != b"PONG":
            continue
        return answer

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def _read_past_pushes(self) -> Any:
        while True:
            kind, value = self._read()
            if kind != b">":
                return value
            if value[0] == b"pmessage":
                self.published.append((value[2].decode(), value[3].decode()))
            elif value[0] == b"psubscribe":
                return value

    def _read(self) -> tuple[bytes, Any]:
        line = self._file.readline()
        kind, rest = line[:1], line[1:-2]
        if kind in b"*~>":
            return kind, [self._read()[1] for _ in range(int(rest))]
        if kind == b"%":
            return kind, [self._read()[1] for _ in range(2 * int(rest))]
        if kind in (b"$", b"="):
            body = self._file.read(int(rest) + 2)[:-2]
            return kind, body[4:] if kind == b"=" else body
        if kind == b":":
            return kind, int(rest)
        if kind == b"-":
            text = rest.decode()
            return kind, NoScriptError(text) if text.startswith("NOSCRIPT") else ResponseError(text)
        return kind, None if kind == b"_" else rest


def _packed(arguments: Iterable[bytes]) -> bytes:
    parts = list(arguments)
    return b"".join([b"*%d\r\n" % len(parts), *(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)])


def _unpacked(data: bytes) -> Iterator[list[bytes]]:
    """The commands that redis-py packed."""
    at = 0
    while at < len(data):
        end = data.index(b"\r\n", at)
        count, at, command = int(data[at + 1 : end]), end + 2, []
        for _ in range(count):
            end = data.index(b"\r\n", at)
            size = int(data[at + 1 : end])
            command.append(data[end + 2 : end + 2 + size])
            at = end + 4 + size
        yield command


class SimValkey:
    """The server as its clients find it: it can lose everything, come back old, be away, or stall."""

    def __init__(self, path: str, faults: Faults) -> None:
        self._faults = faults
        self._socket = _Socket(path)
        self._socket.call(b"FLUSHALL")
        self._socket.call(b"SCRIPT", b"FLUSH")
        self._names: dict[bytes, str] = {}
        self._boots = 0
        self.skew_ms = 0
        self.stalled_until_s = 0.0
        self.published: list[tuple[int, str, str]] = []
        """(moment, channel, message) of everything that was ever published."""
        self._feeds: dict[SimConnection, set[str]] = {}
        self._expiring: dict[bytes, float] = {}

    @property
    def run_id(self) -> str:
        """What INFO names; no number, for redis-py would make one of it."""
        return f"{'boot':x>32}{self._boots:08d}"

    @property
    def boots(self) -> int:
        """Connections made before the newest boot are broken."""
        return self._boots

    def close(self) -> None:
        self._socket.close()

    # What the checker reads.

    def ask(self, *arguments: str | bytes | int) -> Any:
        """A command of nobody's: no time, no fault."""
        return self._socket.call(*(a if isinstance(a, bytes) else str(a).encode() for a in arguments))

    # What happens to it.

    def restart(self) -> None:
        """As it was, under another run id."""
        self._boots += 1
        for connection in list(self._feeds):
            connection.broke()
        self._feeds.clear()

    def lose_everything(self) -> None:
        """Comes back empty."""
        self.restart()
        self._socket.call(b"FLUSHALL")
        self._expiring.clear()

    def copy(self) -> list[tuple[bytes, bytes]]:
        """All it holds at this moment."""
        return [(key, self._socket.call(b"DUMP", key)) for key in sorted(self._socket.call(b"KEYS", b"*"))]

    def come_back_as(self, copy: list[tuple[bytes, bytes]]) -> None:
        """Comes back as it was when `copy` was made."""
        self.lose_everything()
        for key, value in copy:
            self._socket.call(b"RESTORE", key, b"0", value)

    async def expire(self) -> None:
        """Lets keys expire by virtual time, for ever."""
        while True:
            await asyncio.sleep(EXPIRE_EVERY_S)
            found = self._socket.call(b"EVAL", _TTLS.encode(), b"0")
            now_s = self._faults.loop.time()
            # Real time passes too, but less than a second of it: a life of whole seconds is read rightly.
            lives = {found[i]: now_s + math.ceil(found[i + 1] / 1000) for i in range(0, len(found), 2)}
            self._expiring = {key: min(end, self._expiring.get(key, end)) for key, end in sorted(lives.items())}
            for key in [key for key, end in self._expiring.items() if end <= now_s]:
                self._socket.call(b"DEL", key)
                del self._expiring[key]

    # What its clients do.

    async def greet(self, connection: SimConnection) -> int:
        """A new connection; the boot it belongs to."""
        await self._through("connect", lambda: None)
        return self._boots

    async def serve(self, connection: SimConnection, commands: list[list[bytes]]) -> list[Any]:
        """Executes what a connection sent, all at one moment."""
        what = "+".join(dict.fromkeys(self._name(command) for command in commands))
        wait_s = self.stalled_until_s - self._faults.loop.time()
        if wait_s > PATIENCE_S:
            # It is read once the server goes on, when its sender has long given up.
            loop, boot = self._faults.loop, self._boots
            loop.call_at(self.stalled_until_s, lambda: boot == self._boots and self._execute(connection, commands))
            self._faults.note(f"valkey.{what}: stalled")
            await asyncio.sleep(PATIENCE_S)
            raise RedisTimeoutError("stalled")
        if wait_s > 0:
            await asyncio.sleep(wait_s)

        def effect() -> list[Any]:
            if connection.boot != self._boots:
                raise RedisConnectionError("the connection is gone")
            return self._execute(connection, commands)

        answers: list[Any] = await self._through(what, effect)
        return answers

    async def _through(self, what: str, effect: Any) -> Any:
        return await self._faults.through("valkey", what, effect, RedisConnectionError, twice=False)

    def _execute(self, connection: SimConnection, commands: list[list[bytes]]) -> list[Any]:
        answers = [self._one(connection, command) for command in commands]
        for channel, message in self._socket.published:
            self.published.append((int(self._faults.loop.time() * 1000), channel, message))
            for feed, channels in self._feeds.items():
                if channel in channels:
                    feed.hear(["message", channel, message])
        self._socket.published.clear()
        return answers

    def _one(self, connection: SimConnection, command: list[bytes]) -> Any:
        name = command[0].upper()
        if name in (b"EVAL", b"EVALSHA") and len(command) > 5 and command[5] == b"":
            command[5] = str(self._faults.loop.now_ms + self.skew_ms).encode()
        if name == b"SUBSCRIBE":
            channels = self._feeds.setdefault(connection, set())
            for channel in command[1:]:
                channels.add(channel.decode())
                connection.hear(["subscribe", channel.decode(), len(channels)])
            return _NOTHING
        if connection in self._feeds and name == b"PING":
            connection.hear(["pong", ""])
            return _NOTHING
        if name == b"INFO":
            return f"# Server\r\nrun_id:{self.run_id}\r\n".encode()
        answer = self._socket.call(*command)
        if name == b"SCAN":
            # One look: how many it would take depends on the server's own secret.
            return [b"0", sorted(self._socket.call(b"KEYS", command[command.index(b"MATCH") + 1]))]
        return answer

    def _name(self, command: list[bytes]) -> str:
        if command[0].upper() == b"EVAL":
            digest = hashlib.sha1(command[1]).hexdigest().encode()
            self._names[digest] = _script_name(command[1].decode())
            return f"{self._names[digest]}{_shown(command)}"
        if command[0].upper() == b"EVALSHA":
            return f"{self._names.get(command[1], 'script')}{_shown(command)}"
        return command[0].decode().lower()

    def leave(self, connection: SimConnection) -> None:
        """A connection was closed."""
        self._feeds.pop(connection, None)


_NOTHING = object()
"""The answer comes as a message of the feed."""


def _shown(command: list[bytes]) -> str:
    """The ids that a script was given, so that the history of a request can be found."""
    ids = [argument.decode() for argument in command[6:] if argument.startswith(b"req_")]
    more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
    return f"({' '.join(ids[:SHOWN])}{more})" if ids else ""


def _script_name(text: str) -> str:
    folder = Path(line_module._LUA)
    return next((file.stem for file in sorted(folder.glob("*.lua")) if text.endswith(file.read_text())), "script")


class SimConnection(UnixDomainSocketConnection):
    """redis-py's connection over `SimValkey`: all above the socket is redis-py's own."""

    server: SimValkey

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.boot = -1
        self._answers: deque[Any] = deque()
        self._heard = asyncio.Event()

    # The owner of each is the run, and the run ends with its loop.
    def __del__(self, _warnings: Any = None) -> None: ...

    async def _connect(self) -> None:
        self.boot = await self.server.greet(self)
        self._answers.clear()
        self._reader = self._writer = _Open()  # type: ignore[assignment]
        await self.on_connect()

    async def on_connect(self) -> None:
        """Nothing to agree on."""

    async def disconnect(self, *_: Any, **__: Any) -> None:
        self.server.leave(self)
        self._reader = self._writer = None
        self._heard.set()

    async def can_read(self) -> bool:
        if self.boot != self.server.boots:
            raise RedisConnectionError("the connection is gone")
        return bool(self._answers)

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        if not self.is_connected:
            await self.connect_check_health(check_health=False)
        data = command if isinstance(command, bytes) else b"".join(command)
        try:
            answers = await self.server.serve(self, list(_unpacked(data)))
        except BaseException:
            await self.disconnect(nowait=True)
            raise
        self._answers += [answer for answer in answers if answer is not _NOTHING]

    async def read_response(self, disable_decoding: bool = False, timeout: float | None = None, **_: Any) -> Any:
        try:
            async with asyncio.timeout(None if timeout in (None, math.inf) else timeout):
                while not self._answers:
                    if not self.is_connected:
                        raise RedisConnectionError("the connection is gone")
                    self._heard.clear()
                    await self._heard.wait()
        except TimeoutError:
            return None
        answer = self._answers.popleft()
        if isinstance(answer, RedisError):
            raise answer
        return answer if disable_decoding else _decoded(answer)

    def hear(self, message: list[Any]) -> None:
        """A message of the feed."""
        self._answers.append(message)
        self._heard.set()

    def broke(self) -> None:
        """The server went away under it."""
        self._reader = self._writer = None
        self._heard.set()


class _Open:
    def close(self) -> None: ...


def _decoded(answer: Any) -> Any:
    if isinstance(answer, list):
        return [_decoded(part) for part in answer]
    return answer.decode() if isinstance(answer, bytes) else answer
