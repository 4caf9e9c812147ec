"""gRPC without a network: the generated stubs and servicers meet here, through `Faults` instead of a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import Any

import grpc
from grpc_health.v1 import health_pb2
from headgate.scheduler.v1 import scheduler_pb2

from services.rpc.status import Refusal, abort
from tests.simulation.faults import Faults
from tests.simulation.loop import Dead, Process, process

DEADLINE_S = 10.0
HEALTH = "/grpc.health.v1.Health/Watch"
UNAVAILABLE, DEADLINE = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED


def failed(code: grpc.StatusCode, text: str) -> grpc.aio.AioRpcError:
    """A call that gRPC itself failed."""
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), text)


class _Context:
    """What `services.rpc.status.abort` needs."""

    async def abort_with_status(self, status: Any) -> None:
        trailing = grpc.aio.Metadata(*status.trailing_metadata)
        raise grpc.aio.AioRpcError(status.code, grpc.aio.Metadata(), trailing, status.details)


async def _told(error: Exception, refusal_for: Callable[[Exception], Refusal | None]) -> grpc.aio.AioRpcError:
    """What the other side of the wire learns of an error."""
    if isinstance(error, grpc.aio.AioRpcError):
        return error
    refusal = error if isinstance(error, Refusal) else refusal_for(error)
    if refusal is None:
        return failed(grpc.StatusCode.INTERNAL, type(error).__name__)
    try:
        await abort(_Context(), refusal)  # type: ignore[arg-type]
    except grpc.aio.AioRpcError as told:
        return told


class Network:
    """Who serves at which address."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.servers: dict[str, list[SimServer]] = {}
        self.changed: asyncio.Event = asyncio.Event()
        self.unforeseen: list[str] = []
        """Errors of a servicer that no mapping knows."""

    def join(self, server: SimServer) -> None:
        self.servers.setdefault(server.address, []).append(server)
        self.tell()

    def leave(self, server: SimServer) -> None:
        if server in self.servers.get(server.address, []):
            self.servers[server.address].remove(server)
            self.tell()

    def tell(self) -> None:
        """Something about the servers changed."""
        self.changed.set()
        self.changed = asyncio.Event()

    def pick(self, address: str) -> SimServer | None:
        ready = [server for server in self.servers.get(address, []) if server.serving and server.process.alive]
        return self.faults.dice.choice(ready) if ready else None


class SimServer:
    """`services.rpc.server.Server` as far as the mains use it."""

    network: Network

    def __init__(self, names: Sequence[str], refusal_for: Callable[[Exception], Refusal | None], **_: Any) -> None:
        self.refusal_for = refusal_for
        self.grpc = self
        self.process: Process = process()
        self.handlers: dict[str, Any] = {}
        self.address = ""
        self.serving = False
        self.calls = 0

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """The registered ones are enough."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        self.handlers |= {f"/{service}/{method}": handler for method, handler in handlers.items()}

    async def start(self, address: str) -> int:
        self.address, self.serving = address, True
        self.network.join(self)
        self.process.on_death.append(lambda: self.network.leave(self))
        return 0

    async def drain(self, *, settle_s: float = 0.0, grace_s: float = 5.0) -> None:
        self.serving = False
        self.network.tell()
        await asyncio.sleep(settle_s)
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                while self.calls:
                    await asyncio.sleep(0.05)
        self.network.leave(self)


class SimChannel:
    """`grpc.aio.Channel` as far as the generated stubs use it."""

    network: Network

    def __init__(self, address: str, *, deadline_s: float = DEADLINE_S, safe_to_repeat: Sequence[str] = (), **_: Any):
        self._address = address
        self._deadline_s = deadline_s
        self._repeatable = {f"/{method}" for method in safe_to_repeat}

    def unary_unary(self, path: str, *_: Any, **__: Any) -> Callable[..., Any]:
        return lambda request, timeout=None, **___: self._call(path, request, timeout or self._deadline_s)

    def unary_stream(self, path: str, *_: Any, **__: Any) -> Callable[..., Any]:
        if path == HEALTH:
            return lambda request, **___: self._health()
        return lambda request, timeout=None, **___: SimStream(self.network, self._address, path, request, timeout)

    def stream_stream(self, path: str, *_: Any, **__: Any) -> Callable[..., Any]:
        return lambda requests, timeout=None, **___: SimStream(self.network, self._address, path, requests, timeout)

    def stream_unary(self, path: str, *_: Any, **__: Any) -> Callable[..., Any]:
        raise AssertionError(f"nobody streams to {path}")

    async def close(self) -> None:
        """Nothing is held."""

    async def __aenter__(self) -> SimChannel:
        return self

    async def __aexit__(self, *_: Any) -> None: ...

    async def _call(self, path: str, request: Any, timeout_s: float) -> Any:
        tries_left = 2 if path in self._repeatable else 0
        while True:
            try:
                async with asyncio.timeout(timeout_s):
                    return await self._once(path, request)
            except TimeoutError:
                raise failed(DEADLINE, "it took too long") from None
            except grpc.aio.AioRpcError as error:
                if error.code() is not UNAVAILABLE or not tries_left or list(error.trailing_metadata() or ()):
                    raise
                tries_left -= 1
                await asyncio.sleep(0.1)

    async def _once(self, path: str, request: Any) -> Any:
        """One call: a task of the server's process, whose answer may never come back."""
        faults, who, method = self.network.faults, process(), path.rpartition("/")[2]
        label = f"{who.name} {self._address}.{method}{_about(request)}"
        fate = faults._fate(who, twice=True)
        await asyncio.sleep(faults._hop_s(fate == "delay"))
        await who.awake()
        server = None if faults.is_away(self._address) else self.network.pick(self._address)
        if server is None:
            raise failed(UNAVAILABLE, "nobody serves there")
        if fate == "lose_request":
            faults.fault(f"request lost: {label}")
            raise failed(UNAVAILABLE, "the request was lost")
        faults.note(label)
        answer = server.process.spawn(self._serve(server, path, request))
        if fate == "double":
            faults.fault(f"done twice: {label}")
            await asyncio.wait([answer])
            answer = server.process.spawn(self._serve(server, path, request))
        await asyncio.wait([answer])
        await asyncio.sleep(faults._hop_s(False))
        await who.awake()
        if fate == "lose_reply":
            faults.fault(f"reply lost: {label}")
            raise failed(UNAVAILABLE, "the reply was lost")
        if answer.cancelled():
            raise failed(UNAVAILABLE, "the server is gone")
        if error := answer.exception():
            raise error
        return answer.result()

    async def _serve(self, server: SimServer, path: str, request: Any) -> Any:
        server.calls += 1
        try:
            await server.process.awake()
            answer = await server.handlers[path].unary_unary(_copied(request), None)
            return _copied(answer)
        except (asyncio.CancelledError, Dead):
            raise
        except Exception as error:
            raise await self._refused(server, path, error) from error
        finally:
            server.calls -= 1

    async def _refused(self, server: SimServer, path: str, error: Exception) -> grpc.aio.AioRpcError:
        told = await _told(error, server.refusal_for)
        if told.code() is grpc.StatusCode.INTERNAL:
            self.network.unforeseen.append(f"{path}: {error!r}")
        return told

    async def _health(self) -> AsyncIterator[Any]:
        """SERVING while somebody serves there; ends when nobody is there any more."""
        told = None
        while True:
            servers = [s for s in self.network.servers.get(self._address, []) if s.process.alive]
            if not servers and told is not None:
                raise failed(UNAVAILABLE, "the server is gone")
            status = health_pb2.HealthCheckResponse.SERVING if any(s.serving for s in servers) else 2
            if servers and status != told:
                told = status
                yield health_pb2.HealthCheckResponse(status=status)
            await self.network.changed.wait()


class SimStream:
    """A streaming call: the server's side is a task of its process, the client reads one message after the other."""

    def __init__(self, network: Network, address: str, path: str, request: Any, timeout_s: float | None) -> None:
        self._network = network
        self._messages: asyncio.Queue[Any] = asyncio.Queue()
        self._who = process()
        self._over = False
        self._server: asyncio.Task[None] | None = None
        self._timer: Any = None
        server = None if network.faults.is_away(address) else network.pick(address)
        label = f"{self._who.name} {address}.{path.rpartition('/')[2]}{_about(request)}"
        if server is None:
            self._messages.put_nowait(failed(UNAVAILABLE, "nobody serves there"))
            return
        network.faults.note(f"{label} -> {server.process.name}")
        self._server = server.process.spawn(self._serve(server, path, request))
        self._server.add_done_callback(self._ended)
        self._who.on_death.append(self.cancel)
        if timeout_s is not None:
            self._timer = network.faults.loop.call_later(timeout_s, self._end_with, failed(DEADLINE, "too long"))

    async def read(self) -> Any:
        """The next message, or EOF; raises how the call ended."""
        try:
            message = await self._messages.get()
            await self._who.awake()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if isinstance(message, BaseException) or message is grpc.aio.EOF:
            self._messages.put_nowait(message)
        if isinstance(message, BaseException):
            raise message
        return message

    async def __aiter__(self) -> AsyncIterator[Any]:
        while (message := await self.read()) is not grpc.aio.EOF:
            yield message

    def cancel(self) -> None:
        """Ends the call; the server notices."""
        if self._timer:
            self._timer.cancel()
        if self.cancel in self._who.on_death:
            self._who.on_death.remove(self.cancel)
        if not self._over and self._server is not None:
            self._over = True
            self._server.cancel()

    async def _serve(self, server: SimServer, path: str, request: Any) -> None:
        handler, faults = server.handlers[path], self._network.faults
        await asyncio.sleep(faults._hop_s(False))
        answers = (
            handler.unary_stream(_copied(request), None)
            if handler.unary_stream
            else handler.stream_stream(request, None)
        )
        try:
            async for answer in answers:
                await asyncio.sleep(faults._hop_s(False))
                self._messages.put_nowait(_copied(answer))
            self._messages.put_nowait(grpc.aio.EOF)
        except Exception as error:
            told = await _told(error, server.refusal_for)
            if told.code() is grpc.StatusCode.INTERNAL:
                self._network.unforeseen.append(f"{path}: {error!r}")
            self._messages.put_nowait(told)
        finally:
            await answers.aclose()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            self._messages.put_nowait(failed(UNAVAILABLE, "the server is gone"))
        elif error := task.exception():
            self._network.unforeseen.append(repr(error))
        self._over = True

    def _end_with(self, error: BaseException) -> None:
        self._messages.put_nowait(error)
        self.cancel()


def _copied(message: Any) -> Any:
    """As it comes out on the other side of a wire."""
    return type(message).FromString(message.SerializeToString())


def _about(request: Any) -> str:
    found = getattr(request, "request_id", "")
    if not found and isinstance(request, scheduler_pb2.AccountRequest):
        found = " ".join(item.request_id for item in request.items)
    if not found and hasattr(request, "settlements"):
        found = " ".join(f"{s.request_id}{'=' + str(s.counted) if s.final else ''}" for s in request.settlements)
    return f"({found})" if found else ""
