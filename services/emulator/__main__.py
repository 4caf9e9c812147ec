"""Starts the emulator: `python -m services.emulator`."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import Iterator

import uvicorn

from services.clock import SystemClock
from services.emulator.app import app_of
from services.emulator.calls import Calls
from services.emulator.faults import Faults
from services.emulator.limits import INPUT, OUTPUT, REQUESTS, TOKENS, Limits, Rates
from services.emulator.messages import Pace, World
from services.emulator.settings import Settings
from services.process import StartError, run


def world_of(settings: Settings) -> World:
    """A fresh world with these limits and this pace."""
    rates = Rates(
        {
            REQUESTS: settings.requests_per_minute,
            TOKENS: settings.tokens_per_minute,
            INPUT: settings.input_tokens_per_minute,
            OUTPUT: settings.output_tokens_per_minute,
        },
        settings.request_burst_ms,
        settings.token_burst_ms,
    )
    rng = random.Random(settings.seed)  # noqa: S311 - for ids and faults of an emulator
    pace = Pace(settings.first_token_ms, settings.tokens_per_second)
    return World(SystemClock(), rng, settings.seed, Limits(rates), pace, Faults(rng), Calls())


class QuietServer(uvicorn.Server):
    """Leaves signals to our own process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(settings: Settings, stopping: asyncio.Event) -> None:
    """Listens until `stopping`; open streams are cut then, as a provider's would be."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        raise StartError(f"HEADGATE_EMULATOR_PORT {settings.port} on {settings.host}: {error.strerror}.") from error
    config = uvicorn.Config(
        app_of(world_of(settings)),
        log_level="critical",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=1,
    )
    server = QuietServer(config)
    serving = asyncio.create_task(server.serve([listener]))
    print(f"listening http://{settings.host}:{listener.getsockname()[1]}", flush=True)  # noqa: T201
    await asyncio.wait({serving, asyncio.create_task(stopping.wait())}, return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    await serving


def main() -> None:
    """The console script."""
    run("emulator", Settings, serve)


if __name__ == "__main__":
    main()
