"""What running scripts in pipelines promises: to each call its own outcome, and nothing done twice."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import BlockingConnectionPool, Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from services.scheduler.line import Identity, connect
from services.scheduler.pipeline import BATCH, Scripts
from tests.servers.valkey import ValkeyServer

TEXTS = {
    "echo": "return ARGV[1]",
    "count": "return redis.call('INCR', KEYS[1])",
    "refuse": "return redis.error_reply('NO ' .. ARGV[1])",
}


@asynccontextmanager
async def scripts_on(url: str, timeout_s: float = 5.0) -> AsyncIterator[tuple[Scripts, Redis]]:
    client = connect(url, None)
    yield Scripts(client, TEXTS, timeout_s=timeout_s), client
    await client.aclose()


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> asyncio.Queue[None]:
    """Gets an item for each connection that is taken, and with it each batch that is on its way."""
    batches: asyncio.Queue[None] = asyncio.Queue()
    take = BlockingConnectionPool.get_connection

    async def noted(pool: BlockingConnectionPool) -> Any:
        batches.put_nowait(None)
        return await take(pool)

    monkeypatch.setattr(BlockingConnectionPool, "get_connection", noted)
    return batches


async def test_calls_that_wait_together_travel_together(valkey: ValkeyServer, taken: asyncio.Queue[None]) -> None:
    async with scripts_on(valkey.url) as (scripts, _):
        answers = await asyncio.gather(*(scripts.run("echo", "k", n) for n in range(BATCH + 10)))
        assert answers == [str(n) for n in range(BATCH + 10)]
        # Two batches, and each once more for a server that did not know the script.
        assert taken.qsize() <= 4


async def test_each_call_has_its_own_error(valkey: ValkeyServer) -> None:
    async with scripts_on(valkey.url) as (scripts, _):
        calls = [scripts.run("refuse" if n % 3 == 0 else "echo", "k", n) for n in range(30)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        for n, answer in enumerate(answers):
            if n % 3:
                assert answer == str(n)
            else:
                assert isinstance(answer, ResponseError)
                assert str(answer) == f"NO {n}"


async def test_a_server_that_forgot_the_scripts_learns_them_and_runs_each_call_once(valkey: ValkeyServer) -> None:
    async with scripts_on(valkey.url) as (scripts, client):
        await scripts.run("count", "n")
        await client.script_flush()
        answers = await asyncio.gather(*(scripts.run("count", "n") for _ in range(20)))
        assert sorted(answers) == list(range(2, 22))


async def test_a_call_that_was_given_up_takes_no_answer_of_another(
    valkey: ValkeyServer, taken: asyncio.Queue[None]
) -> None:
    async with scripts_on(valkey.url) as (scripts, _):
        await scripts.run("echo", "k", "warm")
        while not taken.empty():
            taken.get_nowait()
        tasks = [asyncio.create_task(scripts.run("echo", "k", n)) for n in range(20)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        await taken.get()
        for task in tasks[2::2]:
            task.cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert answers[1::2] == [str(n) for n in range(1, 20, 2)]
        assert await scripts.run("echo", "k", "after") == "after"


@asynccontextmanager
async def deaf_to_answers(server: ValkeyServer, folder: Path) -> AsyncIterator[tuple[str, Callable[[], None]]]:
    """A way to the server that, once told to, passes on what is asked and breaks before the answer."""
    broken = False

    def break_it() -> None:
        nonlocal broken
        broken = True

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool) -> None:
        nonlocal broken
        with suppress(OSError):
            while data := await reader.read(65_536):
                if answers and broken:
                    broken = False
                    break
                writer.write(data)
        writer.close()

    async def through(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, to = await asyncio.open_unix_connection(f"{server.folder}/valkey.sock")
        await asyncio.gather(pump(reader, to, answers=False), pump(back, writer, answers=True))

    listener = await asyncio.start_unix_server(through, folder / "way.sock")
    yield f"unix://{folder}/way.sock", break_it
    listener.close()


async def outcome(call: Awaitable[Any]) -> Any:
    try:
        return await call
    except (RedisError, OSError) as error:
        return type(error)


async def test_a_lost_connection_fails_what_was_on_its_way_and_repeats_nothing(
    valkey: ValkeyServer, tmp_path: Path
) -> None:
    async with deaf_to_answers(valkey, tmp_path) as (url, break_it), scripts_on(url) as (scripts, _):
        assert await scripts.run("count", "n") == 1
        break_it()
        failed = await asyncio.gather(*(outcome(scripts.run("count", "n")) for _ in range(5)))
        assert all(isinstance(each, type) for each in failed), failed
        assert await scripts.run("count", "n") == 7


async def test_calls_behind_a_server_that_hangs_fail_with_the_first(own_valkey: ValkeyServer) -> None:
    assert own_valkey.process is not None
    async with scripts_on(own_valkey.url, timeout_s=0.5) as (scripts, _):
        await scripts.run("echo", "k", 1)
        os.kill(own_valkey.process.pid, signal.SIGSTOP)
        try:
            # Ten batches, and one wait for all of them.
            calls = [scripts.run("count", "n") for _ in range(10 * BATCH)]
            async with asyncio.timeout(4):
                answers = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(answer, TimeoutError) for answer in answers)
        finally:
            os.kill(own_valkey.process.pid, signal.SIGCONT)
        assert await scripts.run("echo", "k", "after") == "after"


async def test_the_identity_is_proved_before_anything_is_sent(valkey: ValkeyServer) -> None:
    client = connect(valkey.url, Identity(1, "another"))
    with pytest.raises(RedisConnectionError, match="another Valkey"):
        await Scripts(client, TEXTS, timeout_s=5.0).run("count", "n")
    await client.aclose()
    assert valkey.client().get("n") is None
