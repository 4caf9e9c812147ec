"""Signatures of webhooks, after Standard Webhooks (https://www.standardwebhooks.com): pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

PREFIX = "whsec_"
LEAST_BYTES, MOST_BYTES = 24, 64
"""Of a secret, as the standard asks for."""


def secret(text: str) -> bytes:
    """The key that a secret such as `whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw` writes. ValueError if it writes none."""
    try:
        key = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not text.startswith(PREFIX) or not LEAST_BYTES <= len(key) <= MOST_BYTES:
        raise ValueError(f"it must be {PREFIX} followed by {LEAST_BYTES} to {MOST_BYTES} bytes in base64")
    return key


def headers(key: bytes, message_id: str, sent_s: int, body: bytes) -> dict[str, str]:
    """What goes with a body so that its receiver can tell who sent it, and when."""
    signed = f"{message_id}.{sent_s}.".encode() + body
    signature = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return {"webhook-id": message_id, "webhook-timestamp": str(sent_s), "webhook-signature": f"v1,{signature}"}
