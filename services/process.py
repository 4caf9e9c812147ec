"""How every process of ours starts, stops and reports a mistake in its settings."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar

from services import settings, telemetry

S = TypeVar("S")

USAGE_ERROR = 2
"""Exit status of a start that cannot work: a wrong variable, a port in use, a schema too old."""


class StartError(Exception):
    """The process cannot start; the text is one sentence that says why and names the variable or place."""


def run(service: str, settings_class: type[S], main: Callable[[S, asyncio.Event], Awaitable[None]]) -> None:
    """Reads the settings and runs `main(settings, stopping)` until SIGTERM or SIGINT sets `stopping`."""
    level = os.environ.get("HEADGATE_LOG_LEVEL", "INFO")
    # Forced: a library that configures logging when it is imported (anthropic does, told by a variable) must not win.
    logging.basicConfig(level=level, format=f"%(asctime)s {service} %(message)s", force=True)
    # One line per gRPC or HTTP request is a trace's job, not a log's.
    for chatty in ("httpx2", "httpx", "alembic", "uvicorn.access"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        values = settings.load(settings_class, os.environ)
        telemetry.start(service)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_until_stopped(values, main))
    except (settings.SettingsError, StartError) as error:
        print(f"headgate-{service}: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(USAGE_ERROR)
    finally:
        telemetry.stop()


async def _until_stopped(values: S, main: Callable[[S, asyncio.Event], Awaitable[None]]) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    await main(values, stopping)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
