"""Ids that cannot be guessed, and where their randomness comes from."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable

BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

RandomBytes = Callable[[int], bytes]
"""Returns that many random bytes; production passes `secrets.token_bytes`."""


def base62(data: bytes) -> str:
    """`data` as base62 digits, zero-padded so that equal lengths give equal lengths."""
    number = int.from_bytes(data, "big")
    digits = []
    while number:
        number, digit = divmod(number, 62)
        digits.append(BASE62[digit])
    # 1.3437 = 8 / log2(62): base62 digits a byte.
    return "".join(reversed(digits)).rjust(-(-len(data) * 13437 // 10000), "0")


def random_id(prefix: str, random_bytes: RandomBytes = secrets.token_bytes, *, size_bytes: int = 16) -> str:
    """`prefix` + `size_bytes` of randomness; 16 bytes (128 bits) are the least for what must not be guessed."""
    return prefix + base62(random_bytes(size_bytes))


def derived_key(secret: bytes, purpose: str) -> bytes:
    """A key for one purpose, so that what one purpose signs is worthless for another."""
    return hmac.new(secret, purpose.encode(), hashlib.sha256).digest()


def keyed_id(prefix: str, key: bytes, *parts: str) -> str:
    """The id that the same parts always give; parts are length-prefixed so that they cannot run together."""
    message = b"".join(len(p.encode()).to_bytes(4, "big") + p.encode() for p in parts)
    return prefix + base62(hmac.new(key, message, hashlib.sha256).digest()[:16])
