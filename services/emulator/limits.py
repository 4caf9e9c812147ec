"""The provider's rate limits: continuously refilled token buckets for each class of models."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

REQUESTS, TOKENS, INPUT, OUTPUT = "requests", "tokens", "input-tokens", "output-tokens"
MINUTE_MS = 60_000


@dataclass(frozen=True)
class Rates:
    """Uses allowed a minute (None: no such limit) and the time whose worth a full bucket holds."""

    per_minute: Mapping[str, int | None]
    request_burst_ms: int = 1_000
    token_burst_ms: int = MINUTE_MS


@dataclass(frozen=True)
class Exceeded:
    """Why a request is refused."""

    dimension: str
    limit: int
    retry_after_s: int


class Bucket:
    """One limit. The level may fall below zero: output is counted as it is produced."""

    def __init__(self, per_minute: int, burst_ms: int, now_ms: int) -> None:
        self.per_minute = per_minute
        self.capacity = max(1.0, per_minute * burst_ms / MINUTE_MS)
        self.level = self.capacity
        self._at_ms = now_ms

    def refill(self, now_ms: int, taken: float = 0.0) -> None:
        """Adds what time has brought, less what somebody took; a clock that steps back brings nothing."""
        elapsed_ms = max(0, now_ms - self._at_ms)
        self.level = min(self.capacity, self.level + elapsed_ms * self.per_minute / MINUTE_MS - taken)
        self._at_ms = now_ms

    def wait_ms(self, need: float) -> float:
        """Time until `need`, or a full bucket if that is less, is there."""
        return max(0.0, min(need, self.capacity) - self.level) * MINUTE_MS / self.per_minute


class Foreigner:
    """Somebody else who uses the same key: whole calls at an even pace, which take their share of every limit.

    Theirs are never refused (the bucket goes into debt), so what is left for us is a known figure.
    """

    def __init__(self, share: float, now_ms: int) -> None:
        self.share = share
        self.calls = 0
        self._owed = 0.0
        """The part of a call that is due since the last whole one."""
        self._at_ms = now_ms

    def calls_until(self, now_ms: int, per_minute: int) -> int:
        """Calls made since the last time this was asked."""
        self._owed += max(0, now_ms - self._at_ms) * self.share * per_minute / MINUTE_MS
        self._at_ms = now_ms
        # A float's dust must not delay a call that is due.
        made = math.floor(self._owed + 1e-9)
        self._owed -= made
        self.calls += made
        return made


class Limits:
    """Every class of models has buckets of its own."""

    def __init__(self, rates: Rates) -> None:
        self.rates = rates
        self._pools: dict[str, dict[str, Bucket]] = {}
        self.foreigners: dict[str, Foreigner] = {}
        """By pool."""

    def share_with(self, share: float, pools: Iterable[str], now_ms: int) -> None:
        """From now on somebody else uses that part of each limit of these pools."""
        for pool in pools:
            # What they did until now is done.
            self._at(pool, now_ms)
            self.foreigners[pool] = Foreigner(share, now_ms)

    def change(self, rates: Rates, now_ms: int, *, full: bool = False) -> None:
        """New limits, at once. A bucket stays as full or as overdrawn as it was, up to its new capacity, or is full."""
        for name in list(self._pools):
            old, new = self._at(name, now_ms), _buckets(rates, now_ms)
            for dimension in [] if full else new.keys() & old.keys():
                new[dimension].level = min(new[dimension].capacity, old[dimension].level)
            self._pools[name] = new
        self.rates = rates

    def admit(self, pool: str, input_tokens: int, now_ms: int) -> Exceeded | None:
        """Takes one request and its input from every bucket, or from none and says which was empty."""
        buckets = self._at(pool, now_ms)
        needs: dict[str, float] = {REQUESTS: 1, TOKENS: input_tokens, INPUT: input_tokens, OUTPUT: 1}
        waits = {name: bucket.wait_ms(needs[name]) for name, bucket in buckets.items()}
        name = max(waits, key=lambda key: waits[key])
        # A float's dust must not refuse a request that comes exactly when its token does.
        if waits[name] > 1e-6:
            return Exceeded(name, buckets[name].per_minute, max(1, math.ceil(waits[name] / 1000)))
        for name, bucket in buckets.items():
            bucket.level -= 0 if name == OUTPUT else needs[name]
        return None

    def produced(self, pool: str, output_tokens: int, now_ms: int) -> None:
        """Counts output as it is made."""
        buckets = self._at(pool, now_ms)
        for name in {OUTPUT, TOKENS} & buckets.keys():
            buckets[name].level -= output_tokens

    def headers(self, pool: str, now_ms: int) -> dict[str, str]:
        """The `anthropic-ratelimit-*` headers as of now."""
        buckets = dict(self._at(pool, now_ms))
        tight = [buckets[name] for name in (TOKENS, INPUT, OUTPUT) if name in buckets]
        if tight:
            buckets[TOKENS] = min(tight, key=lambda bucket: bucket.level / bucket.capacity)
        headers: dict[str, str] = {}
        for name, bucket in buckets.items():
            level = max(0.0, bucket.level)
            remaining = math.floor(level + 1e-9) if name == REQUESTS else 1000 * math.floor(level / 1000 + 0.5)
            full_at = datetime.fromtimestamp((now_ms + bucket.wait_ms(bucket.capacity)) / 1000, UTC)
            prefix = f"anthropic-ratelimit-{name}"
            headers[f"{prefix}-limit"] = str(bucket.per_minute)
            headers[f"{prefix}-remaining"] = str(remaining)
            headers[f"{prefix}-reset"] = full_at.strftime("%Y-%m-%dT%H:%M:%SZ")
        return headers

    def _at(self, pool: str, now_ms: int) -> dict[str, Bucket]:
        if pool not in self._pools:
            self._pools[pool] = _buckets(self.rates, now_ms)
        buckets = self._pools[pool]
        per_minute = buckets[REQUESTS].per_minute
        foreign = self.foreigners[pool].calls_until(now_ms, per_minute) if pool in self.foreigners else 0
        for bucket in buckets.values():
            bucket.refill(now_ms, foreign * bucket.per_minute / per_minute)
        return buckets


def _buckets(rates: Rates, now_ms: int) -> dict[str, Bucket]:
    return {
        name: Bucket(limit, rates.request_burst_ms if name == REQUESTS else rates.token_burst_ms, now_ms)
        for name, limit in rates.per_minute.items()
        if limit is not None
    }
