"""A stand-in for the gateway that speaks its public contract and does what a test tells it to."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from services.gateway.pages import POLICY

WEB = Path(__file__).resolve().parents[2] / "services" / "gateway" / "web"
KEYS = {tier: f"hg_{tier}_demo" for tier in ("free", "basic", "pro", "enterprise")}
LIMITS = {"free": 10, "basic": 100, "pro": 500, "enterprise": 5000}
DEADLINE_S = 15.0
SOURCE = "flowchart TD\n    A[Basket] --> B{Paid?}\n    B -- yes --> C[Doorstep]\n    B -- no --> D[Ask again]\n"
SVG = """<svg xmlns="http://www.w3.org/2000/svg" width="100%" viewBox="0 0 240 160"><style>
.n{fill:#dcf0f4;stroke:#0b6478}</style>
<rect class="n" x="70" y="10" width="100" height="40" rx="6"/><path d="M120 50v40" stroke="#345"/>
<rect class="n" x="70" y="90" width="100" height="40" rx="6"/>
<text x="120" y="35" text-anchor="middle">Basket</text></svg>"""


def _utc(in_s: int) -> str:
    """The time in that many seconds, as the contract writes it."""
    return (datetime.now(UTC) + timedelta(seconds=in_s)).strftime("%Y-%m-%dT%H:%M:%SZ")


RESET = _utc(15_000)


@dataclass
class Asked:
    """One request the page made and what the stand-in knows of it."""

    request_id: str
    prompt: str
    kind: str
    body: dict[str, Any]
    theirs: bool = False
    """Another person's: no key of the tests sees it, its id alone does."""
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        """Whether its last event was sent."""
        return self.body["status"] in ("completed", "failed", "cancelled", "expired")


class Standin:
    """The server, in a thread of its own; its public methods are called from the test's thread."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, Any]]] = []
        self.asked: dict[str, Asked] = {}
        self.posts: list[dict[str, Any]] = []
        self.subscriptions: list[tuple[str, int | None]] = []
        self.used = 3
        self.sockets_refused = False
        self.emulated = True
        self.demo_keys: dict[str, str] = KEYS
        self.svg = SVG
        self._changed = threading.Condition()
        self._numbers = itertools.count(1)
        self._seqs = itertools.count(1)
        self._sockets: dict[WebSocket, set[str]] = {}
        self._pollers: list[asyncio.Event] = []
        self._listeners: dict[str, list[asyncio.Queue[dict[str, Any]]]] = {}
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.port = 0

    # -- the test's side

    @property
    def url(self) -> str:
        """Where the studio is."""
        return f"http://127.0.0.1:{self.port}/"

    def start(self) -> None:
        """Listens on a free port the first time, on the same one after `stop`."""
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        started = threading.Event()
        config = uvicorn.Config(self._app(started), log_level="critical", lifespan="on", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]}, daemon=True)
        self._thread.start()
        assert started.wait(DEADLINE_S), "the stand-in did not start"

    def stop(self) -> None:
        """Closes every connection and the port, as a crash would."""
        assert self._server is not None
        assert self._thread is not None
        self._server.should_exit = True
        self._server.force_exit = True
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()
        self._sockets.clear()

    def refuse_next(self, status: int, code: str, **more: Any) -> None:
        """The next POST is answered so."""
        self.answers.append((status, {"error": code, "code": code, "message": code, "traceId": "0" * 32, **more}))

    def wait_until(self, condition: Callable[[], Any], what: str) -> Any:
        """The first true value of `condition`, which is looked at after every change."""
        with self._changed:
            assert self._changed.wait_for(lambda: bool(condition()), DEADLINE_S), f"never came: {what}"
            return condition()

    def wait_for_request(self, number: int = 1) -> Asked:
        """The `number`th accepted request, once somebody watches it."""
        self.wait_until(lambda: len(self.asked) >= number, f"request {number}")
        asked = list(self.asked.values())[number - 1]
        self.wait_until(lambda: asked.ended or asked.request_id in self.watched(), "a watcher")
        return asked

    @property
    def polled(self) -> bool:
        """Whether somebody waits for a change over HTTP."""
        return bool(self._pollers)

    def watched(self) -> set[str]:
        """Ids that open sockets are subscribed to."""
        return set().union(*self._sockets.values()) if self._sockets else set()

    def listened(self, asked: Asked) -> bool:
        """Whether somebody listens to it by its id alone."""
        return bool(self._listeners.get(asked.request_id))

    def tell(self, asked: Asked, kind: str, **fields: Any) -> None:
        """Sends an event to everybody who watches and keeps it for those who come later."""
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(self._tell(asked, kind, fields), self._loop).result(DEADLINE_S)

    def complete(self, asked: Asked, source: str = SOURCE, **more: Any) -> None:
        """Ends the request with a picture."""
        fields = {"svgUrl": self._svg_url(asked.request_id), "usage": {}, "cached": False, "truncated": False}
        self.tell(asked, "completed", result=source, **fields, **more)

    def _svg_url(self, request_id: str) -> str:
        # Another name of this host, as a gateway behind a proxy would write: the page must ask its own origin.
        return f"http://headgate.example/api/diagram/{request_id}/diagram.svg"

    def add(
        self, prompt: str, status: str = "completed", kind: str = "flowchart", *, theirs: bool = False, **more: Any
    ) -> Asked:
        """A request from earlier days."""
        number = next(self._numbers)
        request_id = f"req_{number:022d}"
        body = {"requestId": request_id, "status": status, "acceptedAt": f"2026-01-02T10:{number:02d}:00Z", **more}
        if status == "completed":
            body |= {
                "result": SOURCE,
                "svgUrl": self._svg_url(request_id),
                "endedAt": f"2026-01-02T10:{number:02d}:09Z",
            }
        asked = Asked(request_id, prompt, kind, body, theirs)
        self.asked[request_id] = asked
        return asked

    # -- the server's side

    def _app(self, started: threading.Event) -> ASGIApp:
        @asynccontextmanager
        async def note_loop(app: Starlette) -> AsyncIterator[None]:
            self._loop = asyncio.get_running_loop()
            started.set()
            yield

        routes = [
            Route("/", lambda request: FileResponse(WEB / "index.html")),
            Route("/headgate.js", lambda request: FileResponse(WEB / "headgate.js")),
            Mount("/assets", StaticFiles(directory=WEB / "assets")),
            Route("/demo-keys.json", lambda request: JSONResponse(self.demo_keys)),
            Route("/api/me", self._me),
            Route("/api/wait", self._wait),
            Route("/api/diagrams", self._list),
            Route("/api/diagram/generate", self._generate, methods=["POST"]),
            Route("/api/diagram/{id}", self._get, methods=["GET", "DELETE"]),
            Route("/api/diagram/{id}/diagram.svg", self._picture),
            Route("/api/diagram/{id}/events", self._events),
            WebSocketRoute("/ws", self._socket),
        ]
        app = Starlette(routes=routes, lifespan=note_loop)
        return self._with_headers(app)

    def _with_headers(self, app: ASGIApp) -> ASGIApp:
        async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
            async def with_headers(message: Message) -> None:
                if message["type"] == "http.response.start":
                    more = [(b"content-security-policy", POLICY.encode())]
                    if self.emulated:
                        more.append((b"headgate-emulated", b"true"))
                    message = {**message, "headers": [*message["headers"], *more]}
                await send(message)

            await app(scope, receive, with_headers)

        return wrapped

    def _tier(self, headers: Headers) -> str | None:
        key = headers.get("x-api-key")
        return next((tier for tier, known in KEYS.items() if known == key), None)

    def _unknown_key(self) -> Response:
        return JSONResponse({"error": "UNAUTHENTICATED", "code": "UNAUTHENTICATED", "message": "No such key."}, 401)

    async def _me(self, request: Request) -> Response:
        tier = self._tier(request.headers)
        if tier is None:
            return self._unknown_key()
        me = {"userId": "usr_1", "tier": tier, "used": self.used, "limit": LIMITS[tier], "resetTime": RESET}
        return JSONResponse({**me, "outstanding": 0})

    async def _wait(self, request: Request) -> Response:
        return JSONResponse({"position": 1, "estimatedWait": 2000})

    async def _list(self, request: Request) -> Response:
        if self._tier(request.headers) is None:
            return self._unknown_key()
        items = [self._public(asked) for asked in reversed(self.asked.values()) if not asked.theirs]
        return JSONResponse({"items": items, "nextCursor": None})

    def _public(self, asked: Asked) -> dict[str, Any]:
        return {**asked.body, "prompt": asked.prompt, "diagramType": asked.kind}

    async def _generate(self, request: Request) -> Response:
        if self._tier(request.headers) is None:
            return self._unknown_key()
        sent = json.loads(await request.body())
        self.posts.append({**sent, "idempotencyKey": request.headers.get("idempotency-key")})
        status, body = self.answers.pop(0) if self.answers else (202, {})
        if status != 202:
            self._notify()
            headers = {"Retry-After": str(body.pop("retryAfter"))} if "retryAfter" in body else {}
            return JSONResponse(body, status, headers=headers)
        request_id = f"req_{next(self._numbers):022d}"
        body = {"requestId": request_id, "status": "queued", "position": 12, "estimatedWait": 40_000, **body}
        body |= {"acceptedAt": _utc(0)}
        self.asked[request_id] = Asked(request_id, sent["prompt"], sent["diagramType"], dict(body))
        self.used += 1
        self._notify()
        return JSONResponse(body, 202)

    async def _get(self, request: Request) -> Response:
        if self._tier(request.headers) is None:
            return self._unknown_key()
        asked = self._seen(request)
        if asked is None:
            return self._nothing()
        if request.method == "DELETE" and not asked.ended:
            await self._tell(asked, "failed", {"status": "cancelled", "code": "CANCELLED", "error": "Cancelled."})
        elif "wait" in request.query_params and not asked.ended:
            changed = asyncio.Event()
            self._pollers.append(changed)
            self._notify()
            await changed.wait()
        return JSONResponse(self._public(asked))

    def _seen(self, request: Request) -> Asked | None:
        asked = self.asked.get(request.path_params["id"])
        return None if asked is None or (asked.theirs and request.headers.get("x-api-key")) else asked

    def _nothing(self) -> Response:
        return JSONResponse({"error": "NOT_FOUND", "code": "NOT_FOUND", "message": "There is no such request."}, 404)

    async def _events(self, request: Request) -> Response:
        asked = self._seen(request)
        if asked is None:
            return self._nothing()
        if request.method == "HEAD":
            return Response(media_type="text/event-stream")
        heard: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        head = {"requestId": asked.request_id, "seq": 1}
        state = asked.body["status"]
        # Never the prompt, the time or the cost: the id alone does not give those.
        shown = {
            name: asked.body[name] for name in ("result", "svgUrl", "position", "estimatedWait") if name in asked.body
        }
        heard.put_nowait({**head, "type": {"queued": "status"}.get(state, state), "attempt": 1, **shown})
        self._listeners.setdefault(asked.request_id, []).append(heard)
        self._notify()

        async def told() -> AsyncIterator[str]:
            yield "retry: 1000\n\n"
            while True:
                event = await heard.get()
                yield f"id: {event['seq']}\nevent: {event['type']}\ndata: {json.dumps(event)}\n\n"
                if event["type"] in ("completed", "failed"):
                    return

        return StreamingResponse(told(), media_type="text/event-stream")

    async def _picture(self, request: Request) -> Response:
        if self._seen(request) is None:
            return self._nothing()
        return Response(self.svg, media_type="image/svg+xml", headers={"X-Content-Type-Options": "nosniff"})

    async def _socket(self, socket_: WebSocket) -> None:
        if self.sockets_refused:
            await socket_.close(1013)
            return
        await socket_.accept()
        self._sockets[socket_] = set()
        try:
            while True:
                await self._understand(socket_, json.loads(await socket_.receive_text()))
        except (WebSocketDisconnect, KeyError, RuntimeError):
            pass
        finally:
            self._sockets.pop(socket_, None)
            self._notify()

    async def _understand(self, socket_: WebSocket, message: dict[str, Any]) -> None:
        match message["type"]:
            case "subscribe":
                await self._subscribe(socket_, message["requestId"], message.get("after"))
            case "unsubscribe":
                self._sockets[socket_].discard(message["requestId"])
            case "ping":
                await socket_.send_json({"type": "pong"})
            case "auth":
                await socket_.send_json({"type": "authenticated"})

    async def _subscribe(self, socket_: WebSocket, request_id: str, after: int | None) -> None:
        self.subscriptions.append((request_id, after))
        await socket_.send_json({"type": "subscribed", "requestId": request_id})
        asked = self.asked.get(request_id)
        if asked is None:
            body = {"code": "NOT_FOUND", "error": "This request was not accepted.", "status": "failed", "seq": 0}
            await socket_.send_json({"type": "failed", "requestId": request_id, **body})
            return
        missed = asked.events[-1:] if after is None else [e for e in asked.events if e["seq"] > after]
        for event in missed:
            await socket_.send_json(event)
        self._sockets[socket_].add(request_id)
        self._notify()

    async def _tell(self, asked: Asked, kind: str, fields: dict[str, Any]) -> None:
        event = {"type": kind, "requestId": asked.request_id, "seq": next(self._seqs), **fields}
        asked.events.append(event)
        state = {"status": "queued", "retrying": "queued", "processing": "processing", "delta": "processing"}
        asked.body |= {**fields, "status": fields.get("status", state.get(kind, kind))}
        for socket_, ids in list(self._sockets.items()):
            if asked.request_id in ids:
                await socket_.send_json(event)
        for heard in self._listeners.get(asked.request_id, ()):
            heard.put_nowait(event)
        for poller in self._pollers:
            poller.set()
        self._pollers.clear()
        self._notify()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()
