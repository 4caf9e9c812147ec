"""Starts the generator: `python -m services.generator`."""

from __future__ import annotations

import asyncio
import logging

from headgate.generator.v1.generator_pb2_grpc import add_GeneratorServiceServicer_to_server

from services.clock import SystemClock
from services.generator.attempt import Attempts
from services.generator.claude import Claude
from services.generator.diagrams import Board
from services.generator.prompts import Prompts
from services.generator.servicer import SERVICE, Servicer, refusal_for
from services.generator.settings import Settings
from services.process import StartError, run
from services.rpc.channel import Tls
from services.rpc.server import Server

LAST_WORDS_S = 1.0
"""For the statuses of calls that have just ended."""
log = logging.getLogger(__name__)


async def serve(settings: Settings, stopping: asyncio.Event) -> None:
    """Serves until `stopping`, then drains."""
    if settings.api_key is None and settings.base_url is None:
        raise StartError("ANTHROPIC_API_KEY is not set (or ANTHROPIC_BASE_URL, for a stand-in that needs no key).")
    # One more than there are slots: a probe takes none.
    claude = Claude(
        settings.api_key, settings.base_url, settings.upstream_silence_ms, settings.slots + 1, SystemClock()
    )
    board = Board()
    servicer = Servicer(Attempts(claude, board, Prompts.load()), settings.slots, settings.heartbeat_ms)
    server = Server([SERVICE], refusal_for, tls=tls_of(settings))
    add_GeneratorServiceServicer_to_server(servicer, server.grpc)
    try:
        port = await server.start(settings.listen)
    except OSError as error:
        raise StartError(f"HEADGATE_LISTEN: {error}.") from error
    log.info("listening on %s (port %d), %d slots", settings.listen, port, settings.slots)
    await stopping.wait()
    await server.health.enter_graceful_shutdown()
    # The server's own grace would also wait for whoever watches our health for as long as they live.
    await servicer.drain(settings.drain_ms)
    await server.drain(grace_s=LAST_WORDS_S)
    board.close()
    await claude.close()


def tls_of(settings: Settings) -> Tls | None:
    """The mutual-TLS identity; StartError if it is incomplete."""
    files = (settings.tls_certificate, settings.tls_key, settings.tls_authority)
    certificate, key, authority = files
    if certificate and key and authority:
        return Tls(certificate, key, authority)
    if any(files):
        raise StartError("HEADGATE_TLS_CERT, HEADGATE_TLS_KEY and HEADGATE_TLS_CA belong together: set all or none.")
    return None


def main() -> None:
    """The console script."""
    run("generator", Settings, serve)


if __name__ == "__main__":
    main()
