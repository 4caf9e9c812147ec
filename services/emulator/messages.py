"""POST /v1/messages: admits, counts and speaks one answer."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from services.clock import Clock
from services.emulator import calls, faults, wire
from services.emulator.answers import Conversation, answer_to, conversation_of, pieces_of
from services.emulator.limits import Limits

TICK_MS = 50
"""Tokens due are sent together this often: 20 sends a second keep 200 streams cheap and still look like typing."""
INSTANT_TOKENS_PER_SECOND = 20_000
NO_BREAK = {"cut", "silence", "error_event", "not_json", "no_stop"}


@dataclass
class Pace:
    """How fast answers come; may be changed while running."""

    first_token_ms: float
    tokens_per_second: float


@dataclass
class World:
    """All that the emulator knows and counts."""

    clock: Clock
    rng: random.Random
    seed: str
    limits: Limits
    pace: Pace
    faults: faults.Faults
    calls: calls.Calls


@dataclass
class Answer:
    """One answer that was admitted."""

    request_id: str
    model: str
    pool: str
    pieces: list[str]
    input_tokens: int
    stop_reason: str
    fault: faults.Fault | None
    headers: dict[str, str]
    call: calls.Call
    sent: int = 0


async def serve(request: Request, world: World) -> Response:
    """Answers one call, or raises nothing: refusals are answers too."""
    request_id = f"req_{world.rng.randbytes(12).hex()}"
    try:
        body = wire.read(request.headers, await request.body())
        wire.check(body)
    except wire.Refused as refusal:
        world.calls.end(world.calls.begin(world.clock.now_ms(), "", refusal.status, b"", ""), calls.COMPLETE)
        return refused(refusal, request_id, {})
    talk = conversation_of(body)
    try:
        answer = _admit(world, body, talk, request_id)
    except wire.Refused as refusal:
        headers = world.limits.headers(wire.MODELS[body["model"]][0], world.clock.now_ms())
        return refused(refusal, request_id, headers)
    speaker = Speaker(world, answer)
    return StreamedAnswer(speaker) if body.get("stream") is True else PlainAnswer(speaker)


def refused(refusal: wire.Refused, request_id: str, headers: Mapping[str, str]) -> JSONResponse:
    """An error in the provider's form."""
    retry = {"retry-after": f"{refusal.retry_after_s:g}"} if refusal.retry_after_s else {}
    return JSONResponse(refusal.body(request_id), refusal.status, {"request-id": request_id, **headers, **retry})


def _admit(world: World, body: dict[str, Any], talk: Conversation, request_id: str) -> Answer:
    now_ms = world.clock.now_ms()
    pool = wire.MODELS[body["model"]][0]
    fault = world.faults.next(talk.last)
    name = fault.name if fault else ""
    refusal = _refusal(fault) if fault and fault.refuses else None
    if refusal is None:
        exceeded = world.limits.admit(pool, talk.input_tokens, now_ms)
        if exceeded:
            unit = exceeded.dimension.replace("-", " ")
            text = f"This request would exceed your organization's rate limit of {exceeded.limit} {unit} per minute."
            refusal = wire.Refused(429, "rate_limit_error", text, retry_after_s=exceeded.retry_after_s)
    call = world.calls.begin(now_ms, body["model"], refusal.status if refusal else 200, talk.digest, name)
    call.conversation_digest = talk.first_digest
    if refusal:
        world.calls.end(call, calls.COMPLETE)
        raise refusal
    call.input_tokens = talk.input_tokens
    pieces = pieces_of("" if name == "refusal" else answer_to(talk, world.seed, name))
    most = min(body["max_tokens"], fault.after_tokens if fault and name == "max_tokens" else len(pieces))
    reason = "refusal" if name == "refusal" else "max_tokens" if most < len(pieces) else "end_turn"
    headers = {"request-id": request_id, **world.limits.headers(pool, now_ms)}
    return Answer(request_id, body["model"], pool, pieces[:most], talk.input_tokens, reason, fault, headers, call)


def _refusal(fault: faults.Fault) -> wire.Refused:
    status, error_type, text = faults.STATUSES[fault.name]
    waits = fault.name in ("429", "429_ramp")
    retry_after_s = fault.retry_after_s if fault.retry_after_s is not None else 1 if waits else 0
    return wire.Refused(status, error_type, text, faults.CODES.get(fault.name, ""), retry_after_s)


class Speaker:
    """Speaks one answer at its pace and counts what was said."""

    def __init__(self, world: World, answer: Answer) -> None:
        self.answer = answer
        self.world = world
        self._fault = answer.fault.name if answer.fault else ""
        slow = answer.fault if answer.fault and answer.fault.name == "slow" else None
        self._tokens_per_second = slow.tokens_per_second if slow else world.pace.tokens_per_second

    async def chunks(self) -> AsyncIterator[bytes]:
        """The stream's bytes. Ends early, and not `complete`, where a fault says so."""
        answer, fault = self.answer, self.answer.fault
        if self._fault == "mute":
            await asyncio.Event().wait()
        yield wire.opening(f"msg_{answer.request_id[4:]}", answer.model, answer.input_tokens)
        stop_at = fault.after_tokens if fault and self._fault in NO_BREAK else None
        async for text in self.texts(stop_at):
            yield wire.delta(text)
        if self._fault == "silence":
            await asyncio.Event().wait()
        elif self._fault == "error_event":
            yield wire.event("error", error={"type": "overloaded_error", "message": "Overloaded"})
        elif self._fault == "not_json":
            yield b'event: content_block_delta\ndata: {"type": "content_block_delta", <html>\n\n'
        elif self._fault not in NO_BREAK:
            yield wire.closing(answer.stop_reason, answer.input_tokens, max(1, answer.sent))

    async def texts(self, stop_at: int | None = None) -> AsyncIterator[str]:
        """Texts in the answer's rhythm, at most `stop_at` tokens."""
        answer, clock = self.answer, self.world.clock
        end = len(answer.pieces) if stop_at is None else min(stop_at, len(answer.pieces))
        await clock.sleep(self.world.pace.first_token_ms)
        began_ms = clock.now_ms()
        while answer.sent < end:
            due = end
            if self._tokens_per_second < INSTANT_TOKENS_PER_SECOND:
                due = min(end, 1 + int((clock.now_ms() - began_ms) * self._tokens_per_second / 1000))
            if due > answer.sent:
                said, answer.sent = answer.sent, due
                self.world.limits.produced(answer.pool, due - said, clock.now_ms())
                yield "".join(answer.pieces[said:due])
            if answer.sent < end:
                await clock.sleep(max(TICK_MS, 1000 / self._tokens_per_second))

    def end(self, ended: str) -> None:
        """Writes the call into the book."""
        self.answer.call.output_tokens = max(1, self.answer.sent)
        self.world.calls.end(self.answer.call, ended)

    @property
    def breaks(self) -> bool:
        """Whether the connection is cut where the chunks end."""
        return self._fault == "cut"

    @property
    def ended_by_itself(self) -> str:
        """How the call ended if the client stayed to the end."""
        return calls.CUT if self._fault in NO_BREAK else calls.COMPLETE


class StreamedAnswer(Response):
    """Server-sent events. Written on bare ASGI: one task a stream that notices a client who leaves."""

    def __init__(self, speaker: Speaker) -> None:
        super().__init__(headers=speaker.answer.headers, media_type="text/event-stream")
        self.raw_headers = [(n, v) for n, v in self.raw_headers if n != b"content-length"]
        self.raw_headers.append((b"cache-control", b"no-cache"))
        self._speaker = speaker

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def speak() -> None:
            start: Message | None = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
            async for chunk in self._speaker.chunks():
                if start:
                    await send(start)
                    start = None
                await send({"type": "http.response.body", "body": chunk, "more_body": True})

        stayed = await unless_gone(receive, speak)
        self._speaker.end(self._speaker.ended_by_itself if stayed else calls.CLIENT_CLOSED)
        # A response that is never finished makes the server close the connection under the client.
        if stayed and not self._speaker.breaks:
            await send({"type": "http.response.body", "body": b"", "more_body": False})


class PlainAnswer(Response):
    """One JSON message, when all of it is there."""

    def __init__(self, speaker: Speaker) -> None:
        super().__init__()
        self._speaker = speaker

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer, pace = self._speaker.answer, self._speaker.world.pace

        async def speak() -> None:
            if answer.fault and answer.fault.name in ("mute", "silence"):
                await asyncio.Event().wait()
            wait_ms = len(answer.pieces) * 1000 / pace.tokens_per_second
            instant = pace.tokens_per_second >= INSTANT_TOKENS_PER_SECOND
            await self._speaker.world.clock.sleep(pace.first_token_ms + (0 if instant else wait_ms))
            answer.sent = len(answer.pieces)
            self._speaker.world.limits.produced(answer.pool, answer.sent, self._speaker.world.clock.now_ms())

        stayed = await unless_gone(receive, speak)
        self._speaker.end(calls.COMPLETE if stayed else calls.CLIENT_CLOSED)
        if stayed:
            used = wire.usage(answer.input_tokens, max(1, answer.sent))
            text = "".join(answer.pieces)
            body = wire.message(f"msg_{answer.request_id[4:]}", answer.model, text, answer.stop_reason, used)
            await JSONResponse(body, headers=answer.headers)(scope, receive, send)


async def unless_gone(receive: Receive, work: Callable[[], Any]) -> bool:
    """Does the work to its end, unless the client leaves first; whether it stayed."""
    leaving = asyncio.ensure_future(_left(receive))
    working = asyncio.ensure_future(work())
    try:
        await asyncio.wait({leaving, working}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
            return True
        return False
    finally:
        for task in (leaving, working):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
