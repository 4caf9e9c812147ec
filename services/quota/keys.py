"""API keys: how they are made, read and checked.

A key's text is `hg_` + id (11) + secret (27) + checksum (6), all base62. The checksum lets a
mistyped key be refused, and a leaked one be recognised by scanners, without a lookup.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import zlib
from dataclasses import dataclass

from services.ids import RandomBytes, base62
from services.quota.model import StoredKey

SECRET_BYTES = 20
"""160 bits."""
KEY_ID_CHARACTERS = 14
"""Of a key's text: `hg_` and its id, which is no secret."""
_ID_BYTES = 8
_TEXT = re.compile(r"hg_([0-9A-Za-z]{11})([0-9A-Za-z]{27})([0-9A-Za-z]{6})")


@dataclass(frozen=True)
class NewKey:
    """A key just made; `text` is shown once and kept nowhere."""

    key_id: str
    text: str
    secret_hash: bytes


@dataclass(frozen=True)
class PresentedKey:
    """A well-formed key that somebody sent; whether it is valid only the store knows."""

    key_id: str
    secret_hash: bytes


def make_key(random_bytes: RandomBytes) -> NewKey:
    """A new key with 160 random bits of secret."""
    identity, secret = base62(random_bytes(_ID_BYTES)), base62(random_bytes(SECRET_BYTES))
    body = f"hg_{identity}{secret}"
    return NewKey(f"key_{identity}", body + _checksum(body), _hash(secret))


def read_key(text: str) -> PresentedKey | None:
    """The parts of a key's text; None if it cannot be a key of ours."""
    match = _TEXT.fullmatch(text)
    if match is None or not hmac.compare_digest(_checksum(text[:-6]), match[3]):
        return None
    return PresentedKey(f"key_{match[1]}", _hash(match[2]))


def is_valid(presented: PresentedKey, stored: StoredKey | None) -> bool:
    """Whether the stored key (None: there is no such key) is the one presented and not revoked, in constant time."""
    same = hmac.compare_digest(presented.secret_hash, stored.secret_hash if stored else bytes(32))
    return same and stored is not None and not stored.revoked


def _hash(secret: str) -> bytes:
    # A plain hash is enough: 160 random bits cannot be searched, unlike a password.
    return hashlib.sha256(secret.encode()).digest()


def _checksum(body: str) -> str:
    return base62(zlib.crc32(body.encode()).to_bytes(4, "big"))
