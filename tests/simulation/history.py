"""What happened in a run, line by line: printed when it fails, hashed to prove that it replays."""

from __future__ import annotations

import hashlib
from collections import Counter, deque

KEPT = 100_000
"""Lines kept for printing; all are hashed."""


class History:
    """Everything that happened, in order, with its virtual time."""

    def __init__(self) -> None:
        self.lines: deque[tuple[int, str]] = deque(maxlen=KEPT)
        self.faults: list[str] = []
        self.counts: Counter[str] = Counter()
        self.violations: list[str] = []
        self._digest = hashlib.sha256()

    def note(self, at_ms: int, text: str) -> None:
        """One thing that happened."""
        self.lines.append((at_ms, text))
        self._digest.update(f"{at_ms} {text}\n".encode())

    def fault(self, at_ms: int, text: str) -> None:
        """One thing that was broken on purpose."""
        self.note(at_ms, f"FAULT {text}")
        self.faults.append(f"{at_ms / 1000:9.3f} {text}")
        self.counts[text.split(":")[0]] += 1

    def violation(self, text: str) -> None:
        """A promise that was not kept."""
        self.violations.append(text)

    @property
    def digest(self) -> str:
        """The same for two runs in which the same happened."""
        return self._digest.hexdigest()

    def about(self, *words: str, many: int = 80) -> list[str]:
        """The newest lines that name one of `words`; faults that reached nobody in particular are among them."""
        found = [
            f"{at_ms / 1000:9.3f} {text}"
            for at_ms, text in self.lines
            if any(word in text for word in words) or text.startswith("FAULT all")
        ]
        return found[-many:]
