"""When two requests are the same, and what the end of one means for the others. Pure."""

from __future__ import annotations

import base64
import hashlib
import json
import unicodedata
from dataclasses import dataclass

from services.scheduler.life import Code, End, State
from services.templates import VERSION

SHARED_FAILURES = frozenset({Code.PROVIDER_REJECTED, Code.REFUSED, Code.INVALID_DIAGRAM})
"""What an equal request would only be told again, for the same money."""
BATCH = 500
"""Equal requests that end in one transaction at most: bounds how long it holds its locks."""


@dataclass(frozen=True)
class Sameness:
    """What is configured."""

    scope: str = "global"
    """Whose requests are compared: "global", "user" (each with their own), "off"."""

    def key(self, user_id: str, prompt: str, diagram_type: str, model: str, max_tokens: int) -> str | None:
        """What equal requests have in common; None: this one has no equals."""
        if self.scope == "off":
            return None
        parts = [VERSION, normalised(prompt), diagram_type, model, max_tokens]
        parts += [user_id] if self.scope == "user" else []
        digest = hashlib.sha256(json.dumps(parts).encode()).digest()
        # 43 characters instead of 64: it is kept with each request in Valkey too.
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def normalised(prompt: str) -> str:
    """The prompt without what makes no difference: form of accents, runs of whitespace. Case makes one."""
    return " ".join(unicodedata.normalize("NFC", prompt).split())


def shared(end: End) -> bool:
    """Whether equals end with a request that ends so: all that wait if it completed, else those that are parked."""
    return end.state is State.COMPLETED or end.code in SHARED_FAILURES
