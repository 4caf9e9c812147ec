"""The emulator's HTTP surface: the provider's, and /_emulator for whoever tests with it."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from services.emulator import wire
from services.emulator.answers import conversation_of
from services.emulator.calls import MOST_CALLS
from services.emulator.faults import Fault
from services.emulator.limits import INPUT, OUTPUT, REQUESTS, TOKENS
from services.emulator.messages import World, refused, serve

LIMIT_NAMES = {"rpm": REQUESTS, "tpm": TOKENS, "itpm": INPUT, "otpm": OUTPUT}
FAULT_NAMES = {
    "fault": "name", "times": "times", "probability": "probability", "match": "match", "retry_after": "retry_after_s",
    "after_tokens": "after_tokens", "tokens_per_second": "tokens_per_second",
}  # fmt: skip


def app_of(world: World) -> Starlette:
    """The application over one world."""

    def with_world(
        handler: Callable[[Request, World], Awaitable[Response]],
    ) -> Callable[[Request], Awaitable[Response]]:
        async def handle(request: Request) -> Response:
            try:
                return await handler(request, world)
            except wire.Refused as error:
                refusal = error
            except (TypeError, ValueError) as error:
                refusal = wire.Refused(400, "invalid_request_error", str(error))
            return refused(refusal, f"req_{world.rng.randbytes(12).hex()}", {})

        return handle

    return Starlette(
        routes=[
            Route("/v1/messages", with_world(serve), methods=["POST"]),
            Route("/v1/messages/count_tokens", with_world(_count), methods=["POST"]),
            Route("/v1/models", with_world(_models)),
            Route("/v1/models/{model}", with_world(_model)),
            Route("/_emulator/faults", with_world(_fault), methods=["POST", "DELETE"]),
            Route("/_emulator/limits", with_world(_limits), methods=["GET", "PUT"]),
            Route("/_emulator/foreigner", with_world(_foreigner), methods=["GET", "PUT"]),
            Route("/_emulator/pace", with_world(_pace), methods=["PUT"]),
            Route("/_emulator/calls", with_world(_calls), methods=["GET", "DELETE"]),
        ],
        exception_handlers={404: _unknown, 405: _unknown},
    )


async def _unknown(request: Request, error: Exception) -> Response:
    return refused(wire.Refused(404, "not_found_error", "Not found"), "req_unknown", {})


async def _count(request: Request, world: World) -> Response:
    body = wire.read(request.headers, await request.body())
    wire.check(body, counting=True)
    return JSONResponse({"input_tokens": conversation_of(body).input_tokens})


async def _models(request: Request, world: World) -> Response:
    wire.read(request.headers, b"{}")
    data = [_described(model) for model in wire.MODELS]
    return JSONResponse({"data": data, "has_more": False, "first_id": data[0]["id"], "last_id": data[-1]["id"]})


async def _model(request: Request, world: World) -> Response:
    wire.read(request.headers, b"{}")
    name = request.path_params["model"]
    if name not in wire.MODELS:
        raise wire.Refused(404, "not_found_error", f"model: {name}")
    return JSONResponse(_described(name))


def _described(model: str) -> dict[str, Any]:
    name = wire.MODELS[model][1]
    return {"type": "model", "id": model, "display_name": name, "created_at": "2026-06-01T00:00:00Z"}


async def _fault(request: Request, world: World) -> Response:
    if request.method == "DELETE":
        world.faults.clear()
        return JSONResponse({})
    asked = await _object(request, set(FAULT_NAMES))
    world.faults.add(Fault(**{FAULT_NAMES[key]: value for key, value in asked.items()}))
    return JSONResponse({})


async def _limits(request: Request, world: World) -> Response:
    if request.method == "PUT":
        asked = await _object(request, {*LIMIT_NAMES, "request_burst_ms", "token_burst_ms", "full"})
        full = asked.pop("full", False)
        if not isinstance(full, bool):
            raise ValueError("full: true or false is needed")
        rates = world.limits.rates
        per_minute = dict(rates.per_minute)
        for key in asked.keys() & LIMIT_NAMES.keys():
            limit = asked.pop(key)
            per_minute[LIMIT_NAMES[key]] = limit if limit is None and key != "rpm" else _above(key, limit, 0)
        for key in asked:
            _above(key, asked[key], -1)
        world.limits.change(replace(rates, per_minute=per_minute, **asked), world.clock.now_ms(), full=full)
    rates = world.limits.rates
    bursts = {"request_burst_ms": rates.request_burst_ms, "token_burst_ms": rates.token_burst_ms}
    return JSONResponse({**{key: rates.per_minute.get(name) for key, name in LIMIT_NAMES.items()}, **bursts})


async def _foreigner(request: Request, world: World) -> Response:
    """Somebody else with the same key, who uses `share` of every limit; how many calls they made, by pool."""
    limits, now_ms = world.limits, world.clock.now_ms()
    if request.method == "PUT":
        share = _above("share", (await _object(request, {"share"})).get("share"), -1e-9)
        if share > 1:
            raise ValueError("share: a number from 0 to 1 is needed")
        limits.share_with(share, sorted({pool for pool, _ in wire.MODELS.values()}), now_ms)
    for pool in limits.foreigners:
        limits.headers(pool, now_ms)
    calls = {pool: foreigner.calls for pool, foreigner in limits.foreigners.items()}
    return JSONResponse({"share": max((f.share for f in limits.foreigners.values()), default=0), "calls": calls})


async def _pace(request: Request, world: World) -> Response:
    asked = await _object(request, {"first_token_ms", "tokens_per_second"})
    first_token_ms = asked.get("first_token_ms", world.pace.first_token_ms)
    tokens_per_second = asked.get("tokens_per_second", world.pace.tokens_per_second)
    world.pace.first_token_ms = _above("first_token_ms", first_token_ms, -1)
    world.pace.tokens_per_second = _above("tokens_per_second", tokens_per_second, 0)
    return JSONResponse(
        {"first_token_ms": world.pace.first_token_ms, "tokens_per_second": world.pace.tokens_per_second}
    )


async def _calls(request: Request, world: World) -> Response:
    if request.method == "DELETE":
        world.calls.clear()
        return JSONResponse({})
    after = int(request.query_params.get("after", "0"))
    return JSONResponse(world.calls.view(after, int(request.query_params.get("limit", str(MOST_CALLS)))))


async def _object(request: Request, known: set[str]) -> dict[str, Any]:
    asked = json.loads(await request.body())
    if not isinstance(asked, dict) or asked.keys() - known:
        raise ValueError(f"Only {', '.join(sorted(known))} are known here.")
    return asked


def _above(name: str, value: Any, least: float) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > least:
        raise ValueError(f"{name}: a number above {least} is needed")
    return value
