"""Ten thousand WebSocket clients in a process of their own, which costs next to nothing: bare sockets that only read.

What they were told is counted by type. They answer pings, for a client that does not is closed.
"""

from __future__ import annotations

import multiprocessing
import selectors
import socket
import time
from collections import Counter
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

OPENING = 100
"""Sockets that are being opened at once."""
ASK_S = 0.05
PONG = b"\x8a\x80\x00\x00\x00\x00"


class Readers:
    """The process as its parent sees it."""

    def __init__(self, port: int, watched: Sequence[tuple[str, str]]) -> None:
        """`watched` are (request id, API key), one socket for each."""
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_run, args=(port, list(watched), theirs), daemon=True)
        self._process.start()

    def ready(self, within_s: float) -> None:
        """Waits until every socket is told that it watches."""
        if not self._ours.poll(within_s):
            raise SystemExit(f"the watchers were not all there within {within_s:g} s")
        self._ours.recv()

    def counts(self) -> Counter[str]:
        """What was told since this was asked last, by type; also "closed" sockets and "cpu_ms" of this process."""
        self._ours.send(None)
        return Counter(self._ours.recv())

    def stop(self) -> None:
        """Ends the process and with it every socket."""
        self._process.kill()
        self._process.join()


class _Reader:
    def __init__(self, port: int, request_id: str, key: str) -> None:
        self.buffer = bytearray()
        self.socket = socket.create_connection(("127.0.0.1", port))
        lines = ["GET /ws HTTP/1.1", "Host: localhost", "Upgrade: websocket", "Connection: Upgrade"]
        lines += ["Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Version: 13", f"X-API-Key: {key}"]
        subscribe = b'{"type":"subscribe","requestId":"%s"}' % request_id.encode()
        self.socket.sendall("\r\n".join(lines).encode() + b"\r\n\r\n")
        while b"\r\n\r\n" not in self.buffer:
            self.read()
        if not self.buffer.startswith(b"HTTP/1.1 101"):
            raise SystemExit(f"a watcher was refused: {bytes(self.buffer[:200])!r}")
        del self.buffer[: self.buffer.index(b"\r\n\r\n") + 4]
        # A mask of zeros leaves the text as it is.
        self.socket.sendall(bytes([0x81, 0x80 | len(subscribe), 0, 0, 0, 0]) + subscribe)
        self.socket.setblocking(False)

    def read(self) -> bool:
        """Takes what has come; false at the end."""
        data = self.socket.recv(65_536)
        self.buffer += data
        return bool(data)

    def texts(self) -> list[bytes]:
        """The whole messages that came; pings are answered."""
        found = []
        while len(self.buffer) >= 2:
            size, head = self.buffer[1], 2
            if size >= 126:
                head = 4 if size == 126 else 10
                size = int.from_bytes(self.buffer[2:head], "big") if len(self.buffer) >= head else 2**63
            if len(self.buffer) < head + size:
                break
            kind, text = self.buffer[0] & 0x0F, bytes(self.buffer[head : head + size])
            del self.buffer[: head + size]
            if kind == 9:
                self.socket.sendall(PONG[:1] + bytes([0x80 | len(text)]) + PONG[2:] + text)
            elif kind == 1:
                found.append(text)
        return found


def _run(port: int, watched: Sequence[tuple[str, str]], parent: Connection) -> None:
    waiting, selector, counts = list(reversed(watched)), selectors.DefaultSelector(), Counter[str]()
    opened, told, last_cpu_s = 0, 0, time.process_time()
    while True:
        while waiting and opened - told < OPENING:
            reader = _Reader(port, *waiting.pop())
            selector.register(reader.socket, selectors.EVENT_READ, reader)
            opened += 1
        for key, _ in selector.select(ASK_S):
            for kind in _hear(selector, key.data):
                counts[kind] += 1
                told += kind == "subscribed"
                if told == len(watched) and kind == "subscribed":
                    parent.send(None)
        if parent.poll():
            parent.recv()
            now_s = time.process_time()
            parent.send({**counts, "cpu_ms": round((now_s - last_cpu_s) * 1000)})
            counts, last_cpu_s = Counter(), now_s


def _hear(selector: selectors.BaseSelector, reader: Any) -> list[str]:
    try:
        open_still = reader.read()
    except OSError:
        open_still = False
    if not open_still:
        selector.unregister(reader.socket)
        reader.socket.close()
        return ["closed"]
    return [text.split(b'"', 4)[3].decode() for text in reader.texts()]
