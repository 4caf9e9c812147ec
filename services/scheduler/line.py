"""The order, the limits and the live events in Valkey: one method for each script of `lua/`."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry as RedisRetry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, ReadOnlyError, RedisError, ResponseError

from services.scheduler.life import LineFull, LineUnavailable, Request, State, TierTerms
from services.scheduler.pipeline import Scripts
from services.scheduler.spend import Spent

LEASE_MS = 8_000
"""A lease lasts four renewals, so that three lost ones do not lose a running attempt."""
LOG_KEPT_MS = 60_000
"""How long after its end a request's events can be replayed."""
SEQS_PER_EPOCH = 1_000_000
"""More events than a request can have in one epoch: 20 a second for 13 hours."""
SOCKET_TIMEOUT_S = 5.0
CONNECTIONS = 64
_NOT_NOW = ("MISCONF", "BUSY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "NOREPLICAS")
"""First words of refusals that say how the server is, not what was wrong with the call (MISCONF: its disk is full)."""

ENDED = json.dumps({"type": "ended"})
"""The final event as logged; what it says is read from SQL, where the result is."""

_LUA = Path(__file__).parent / "lua"
_SHARED = ("pool", "limits", "spending", "service", "order", "stops", "retries", "pauses", "failures", "same")
_SCRIPTS = (
    "place", "dispatch", "start", "answer", "append", "requeue", "finish", "renew", "retier", "adopt", "expired",
    "limit", "view", "parked", "unpark", "spend",
)  # fmt: skip


@dataclass
class Identity:
    """Which Valkey this process may write to, shared with its connections. Changed only by `rebuild`."""

    epoch: int = 0
    run_id: str = ""

    @property
    def floor(self) -> int:
        """The number below every event number of this epoch and above those of earlier ones."""
        return (self.epoch - 1) * SEQS_PER_EPOCH

    @property
    def last_seq(self) -> int:
        """The highest event number of this epoch: of an end whose log is gone, and with it the number before."""
        if not self.epoch:
            raise LineUnavailable("it was not reached yet")
        return self.epoch * SEQS_PER_EPOCH


@dataclass(frozen=True)
class Dispatched:
    """What may be attempted now."""

    request_ids: tuple[tuple[str, int], ...]
    """(id, attempts begun so far)."""
    wait_ms: int
    """When to ask again; -1: only after a wake-up."""
    send_after_ms: int = 0
    """How long after this each is to be sent."""


Named = Mapping[str, tuple[int, int]]
"""Limits that a response's headers name: (limit a minute, left now) by dimension."""


@dataclass(frozen=True)
class Answered:
    """What the pool knows of a request whose call was answered."""

    refusals: int
    """429s it drew with other requests served in between."""
    denied: int
    """429s it drew in all."""
    broken: bool
    """The pool as a whole fails: three or more requests failed and none was served since."""
    limits: Mapping[str, int]
    """Limits that the headers named and that are new, by dimension."""


OnSpent = Callable[["ValkeyLine", Request], Awaitable[None]]


def connect(url: str, identity: Identity | None) -> Redis:
    """A client whose every new connection first proves to be the Valkey of `identity` (None: any will do).

    Without that check an old copy that carries the current epoch was written to after a restart,
    because clients reconnect by themselves.
    """

    async def verify(connection: Any) -> None:
        await connection.on_connect()
        if identity is not None and await _run_id(connection) != identity.run_id:
            # Of redis-py's own kind: after any other it keeps the connection, and the next call used it unverified.
            raise RedisConnectionError("another Valkey answers")

    # No retries: a script whose answer was lost may have run.
    pool = BlockingConnectionPool.from_url(
        url, redis_connect_func=verify, retry=RedisRetry(NoBackoff(), 0), max_connections=CONNECTIONS,
        timeout=SOCKET_TIMEOUT_S, socket_timeout=SOCKET_TIMEOUT_S, socket_connect_timeout=2.0, decode_responses=True,
    )  # fmt: skip
    return Redis.from_pool(pool)


async def _run_id(connection: Any) -> str:
    await connection.send_command("INFO", "server")
    answer = await connection.read_response()
    text = answer.decode() if isinstance(answer, bytes) else str(answer)
    return next((line[7:].strip() for line in text.splitlines() if line.startswith("run_id:")), "")


def script_texts() -> dict[str, str]:
    """Every script with the parts they share, by name."""
    shared = "".join((_LUA / f"{part}.lua").read_text() for part in _SHARED)
    return {name: shared + (_LUA / f"{name}.lua").read_text() for name in _SCRIPTS}


class RunsScripts(Protocol):
    """What runs the scripts."""

    async def run(self, name: str, key: str, *arguments: Any) -> Any: ...


class ValkeyLine:
    """One pool set's order. Every method raises `LineUnavailable` if the store is away or not the one it was."""

    def __init__(
        self, client: Redis, identity: Identity, *,
        virtual_now_ms: int | None = None, scripts: RunsScripts | None = None, on_spent: OnSpent | None = None,
    ) -> None:  # fmt: skip
        """`virtual_now_ms` and `scripts` are for simulations: production lets the server tell the time.

        `on_spent(line, request)` is called before anything frees the lease of an attempt, and must not let it be freed
        if it fails.
        """
        self._client = client
        self._on_spent = on_spent
        self.identity = identity
        self.virtual_now_ms = virtual_now_ms
        self._scripts = scripts or Scripts(client, script_texts(), timeout_s=SOCKET_TIMEOUT_S)

    async def place(self, pool: str, requests: Sequence[Request]) -> int:
        """Puts requests in line, in the order given."""
        arguments: list[Any] = []
        for r in requests:
            arguments += [r.request_id, r.tier, r.share, r.user_id, r.estimated_input_tokens]
            arguments += [r.estimated_output_tokens, r.diagram_type, r.max_tokens, r.attempt, r.not_before_ms]
            arguments += [r.priority, r.cache_key or "", r.acceptance]
        return int(await self._run("place", pool, *arguments, self.identity.floor))

    async def dispatch(self, pool: str, many: int, slots: int | None) -> Dispatched:
        """Takes what may go now, each with a lease; `slots` is how many all generators can run at once (None: any)."""
        answer = await self._run("dispatch", pool, many, LEASE_MS, 10**9 if slots is None else slots)
        taken = tuple((answer[i], int(answer[i + 1])) for i in range(2, len(answer), 2))
        return Dispatched(taken, int(answer[0]), int(answer[1]))

    async def start(self, pool: str, request_id: str, attempt: int, event: Mapping[str, Any]) -> int:
        """Opens the log for an attempt; 0 if it is not the newest."""
        return int(await self._run("start", pool, request_id, attempt, LEASE_MS, json.dumps(event)))

    async def append(self, pool: str, request_id: str, attempt: int, events: Iterable[Mapping[str, Any]]) -> int:
        """Records events of the running attempt; 0 if it no longer is."""
        return int(await self._run("append", pool, request_id, attempt, *map(json.dumps, events)))

    async def answer(
        self,
        pool: str,
        request_id: str,
        attempt: int,
        kind: str,
        limits: Mapping[str, tuple[int, int]],
        rest_ms: int = 0,
    ) -> Answered:
        """Notes how the provider answered: `kind` is begun, refused, ramp, failed or other; `limits` (limit, left) by
        dimension, from the headers; `rest_ms` how long the pool rests after a 429."""
        named = [part for dimension, (limit, left) in limits.items() for part in (dimension, limit, left)]
        found = await self._run("answer", pool, request_id, attempt, kind, rest_ms, *named)
        refusals, denied, broken, *news = found
        changed = {news[i]: int(news[i + 1]) for i in range(0, len(news), 2)}
        return Answered(int(refusals), int(denied), bool(broken), changed)

    async def requeue(
        self, request: Request, input_tokens: int | None, output_tokens: int | None, event: Mapping[str, Any] | None,
        *, budgeted: bool = False,
    ) -> bool:  # fmt: skip
        """Returns a request to its old place, as its row says; `budgeted`: the provider failed."""
        used = ["" if n is None else n for n in (input_tokens, output_tokens)]
        payload = json.dumps(event) if event else ""
        await self.count_spent(request)
        where = (request.request_id, request.attempt, request.not_before_ms)
        return bool(await self._run("requeue", request.pool, *where, *used, payload, int(budgeted)))

    async def finish(self, request: Request, input_tokens: int | None = None, output_tokens: int | None = None) -> int:
        """Frees all an ended request held and records its final event; that event's number."""
        took_ms = request.ended_ms - request.started_ms if request.ended_ms and request.started_ms else None
        served = request.state is State.COMPLETED and not request.cached
        await self.count_spent(request)
        return await self._finish(request.pool, request.request_id, input_tokens, output_tokens, took_ms, served=served)

    async def forget(self, pool: str, request_id: str) -> None:
        """Frees what a request that SQL does not know holds here."""
        await self._finish(pool, request_id, None, None, None)

    async def _finish(self, pool: str, request_id: str, *figures: int | None, served: bool = False) -> int:
        input_tokens, output_tokens, took_ms = ("" if f is None else f for f in figures)
        used = (input_tokens, output_tokens, self.identity.last_seq - 1, took_ms, int(served))
        return int(await self._run("finish", pool, request_id, ENDED, LOG_KEPT_MS, *used))

    async def count_spent(self, request: Request) -> None:
        """Tells of what a request's attempts cost: also of one that has lost its lease already."""
        if self._on_spent:
            await self._on_spent(self, request)

    async def tell_spent(self, pool: str, day: int, spent: Sequence[Spent]) -> None:
        """Stops what has reached its spend limit, and lets go on what has not."""
        flat: list[Any] = []
        for one in spent:
            flat += [one.scope, one.nano_usd, "" if one.cap_nano_usd is None else one.cap_nano_usd]
        await self._run("spend", pool, day, *flat)

    async def renew(self, pool: str, attempts: Iterable[tuple[str, int]]) -> list[str]:
        """Prolongs leases; the ids whose attempt is over."""
        flat = [part for pair in attempts for part in pair]
        return list(await self._run("renew", pool, LEASE_MS, *flat))

    async def retier(self, pool: str, terms: TierTerms, request_ids: Sequence[str]) -> int:
        """Moves one user's requests to another tier; the number that moved."""
        return int(await self._run("retier", pool, terms.name, terms.share, *request_ids))

    async def adopt(self, pool: str, requests: Sequence[Request]) -> int:
        """Gives running requests a lease and a log after a rebuild."""
        flat: list[Any] = []
        for r in requests:
            flat += [r.request_id, r.tier, r.share, r.user_id, r.attempt]
            flat += [r.estimated_input_tokens, r.estimated_output_tokens, r.diagram_type, r.max_tokens]
            flat += [r.cache_key or ""]
        return int(await self._run("adopt", pool, LEASE_MS, self.identity.floor, *flat))

    async def expired(self, pool: str) -> list[str]:
        """Ids whose lease has run out."""
        return list(await self._run("expired", pool, "leases"))

    async def missing(self, pool: str, request_ids: Sequence[str]) -> list[str]:
        """Those of the ids that are nowhere here."""
        return list(await self._run("expired", pool, "missing", *request_ids))

    async def parked(self, pool: str, request_id: str) -> list[str]:
        """Ids of the equal requests that wait for that one's end."""
        return list(await self._run("parked", pool, request_id))

    async def unpark(self, pool: str) -> int:
        """Puts back what is parked behind requests that do not run; the number."""
        return int(await self._run("unpark", pool))

    async def set_limits(self, pool: str, kind: str, limits: Mapping[str, int | None]) -> None:
        """Sets the `plan`, `override` or `header` limits of a pool; None removes one."""
        flat: list[Any] = []
        for dimension, limit in limits.items():
            flat += [f"{kind}:{dimension}", "" if limit is None else limit]
        if flat:
            await self._run("limit", pool, "set", *flat)

    async def set_today(self, pool: str, day: int, requests: int) -> None:
        """Notes how many requests the day (since 1970) has had."""
        await self._run("limit", pool, "set", "day", day, "today", requests)

    async def pause(self, pool: str, length_ms: int, reason: str) -> None:
        """Stops dispatch for that long; 0 lets it go on."""
        await self._run("limit", pool, "pause", length_ms, reason)

    async def take_turn(self, pool: str, request_id: str) -> None:
        """Takes what a further call of a running attempt will probably use, into debt if need be."""
        await self._run("limit", pool, "turn", request_id)

    async def grow(self, pool: str, request_id: str, output_tokens: int) -> None:
        """Takes what an answer has used beyond what was assumed of it, while it is still being written."""
        await self._run("limit", pool, "grow", request_id, output_tokens)

    async def view(
        self, pool: str, request_ids: Sequence[str] = (), *, whole: bool = False, asker: Sequence[object] = ()
    ) -> dict[str, Any]:
        """The pool at a glance and where those requests stand; the form is written in view.lua."""
        flag, who = "1" if whole else "", asker or ("", "", "", "")
        answer: dict[str, Any] = json.loads(await self._run("view", pool, flag, *who, *request_ids))
        return answer

    async def events(self, pool: str, request_id: str, after: int) -> list[tuple[int, dict[str, Any]]]:
        """The logged events after a number, at most 20,000."""
        async with _translated():
            found: Any = await self._client.xrange(f"{base_key(pool)}log:{request_id}", f"({after}-1", count=20_000)
        return [(int(number.split("-")[0]), json.loads(fields["e"])) for number, fields in found]

    async def erase_events(self, pool: str, request_id: str) -> None:
        """Deletes a request's log: what was shown of its answer is in it."""
        async with _translated():
            await self._client.delete(f"{base_key(pool)}log:{request_id}")

    @asynccontextmanager
    async def subscribe(self, pools: Sequence[str]) -> AsyncIterator[PubSub]:
        """Live events and wake-ups of the pools."""
        async with _translated():
            pubsub = self._client.pubsub()
            try:
                await pubsub.subscribe(*(f"{base_key(p)}{kind}" for p in pools for kind in ("events", "wake")))
                yield pubsub
            finally:
                await pubsub.aclose()  # type: ignore[no-untyped-call]

    async def _run(self, script: str, pool: str, *arguments: Any) -> Any:
        now = "" if self.virtual_now_ms is None else self.virtual_now_ms
        async with _translated():
            return await self._scripts.run(script, f"{base_key(pool)}meta", self.identity.epoch, now, *arguments)


def base_key(pool: str) -> str:
    return f"hg:{{{pool}}}:"


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    try:
        yield
    except OutOfMemoryError as error:
        raise LineFull("it is full") from error
    except ReadOnlyError as error:
        raise LineUnavailable("it is a replica") from error
    except ResponseError as error:
        if "STALEEPOCH" in str(error):
            raise LineUnavailable("it was rebuilt") from error
        if str(error).startswith(_NOT_NOW):
            raise LineUnavailable(str(error).split()[0]) from error
        raise
    except (RedisError, OSError, TimeoutError) as error:
        raise LineUnavailable(type(error).__name__) from error
