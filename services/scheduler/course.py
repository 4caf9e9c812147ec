"""What one attempt has seen so far, and what that adds up to. No I/O."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from services.pricing import PriceList, Tokens
from services.scheduler.generators import Delta, Used
from services.scheduler.life import CHARACTERS_A_TOKEN, Request, Turn, add

GROWTH = 0.25
"""An answer that is longer than assumed takes more from the buckets each time it has grown by this part of that."""


@dataclass
class Course:
    """An attempt's course; `attempts.py` writes it down as it goes."""

    request: Request
    prices: PriceList
    turns: list[Turn] = field(default_factory=list)
    given: bool = False
    """To a worker."""
    asked_turn: int = 0
    started_turn: int = 0
    characters: int = 0
    """Of the turn that runs."""
    delivered: bool = False
    pending: list[Delta] = field(default_factory=list)
    flushing: asyncio.Task[None] | None = None
    grown_tokens: float = 0.0

    def start(self, turn: int) -> None:
        """The provider began to answer."""
        self.started_turn, self.characters = turn, 0

    def cut(self, *, by_us: bool) -> None:
        """It ended where nobody will tell what the turn used that was asked for last."""
        # Where we leave, the word that the first turn is sent may be on its way.
        asked_turn = max(self.asked_turn, int(by_us and self.given))
        if asked_turn > self.started_turn:
            self.start(asked_turn)

    def end_turn(self, step: Used, now_ms: int) -> None:
        """The provider said what a turn used."""
        model = step.model if step.model in self.prices.models else self.request.model
        cost = self.prices.cost_nano_usd(model, step.tokens)
        self.turns.append(Turn(self.request.attempt, step.turn, model, step.tokens, cost, step.estimated, now_ms))

    def used(self) -> tuple[int | None, int | None]:
        """Tokens in and out over all turns that count towards limits; None where nothing was reported."""
        if not self.turns:
            return None, None
        total = Tokens()
        for turn in self.turns:
            total = add(total, turn.tokens)
        return total.input + total.cache_write_5m + total.cache_write_1h, total.output

    @property
    def grows_at(self) -> float:
        """Output tokens that are notably more than was taken for this answer."""
        return max(self.grown_tokens, self.request.estimated_output_tokens) + self._step

    @property
    def _step(self) -> float:
        return GROWTH * max(self.request.estimated_output_tokens, 100)

    def growth(self) -> int | None:
        """What is to be taken for it in all, each time it has come to be that long."""
        output = sum(turn.tokens.output for turn in self.turns) + self.characters / CHARACTERS_A_TOKEN
        if output < self.grows_at:
            return None
        self.grown_tokens = output
        # Ahead of what was written by as much, so that it is never behind.
        return round(output + self._step)

    def all_turns(self, now_ms: int) -> list[Turn]:
        """The turns seen, and an estimate for one that began and whose usage was never told."""
        if self.started_turn > len(self.turns):
            output = max(1, round(self.characters / CHARACTERS_A_TOKEN))
            tokens = Tokens(input=self.request.estimated_input_tokens, output=output)
            self.end_turn(Used(self.started_turn, self.request.model, tokens, estimated=True), now_ms)
        return self.turns


def merged(pieces: Sequence[Delta]) -> list[tuple[str, int]]:
    """Joins pieces that follow each other, with their offsets; a repair begins a new one."""
    joined: list[tuple[str, int]] = []
    turn = 0
    for piece in pieces:
        if joined and piece.turn == turn:
            joined[-1] = (joined[-1][0] + piece.text, joined[-1][1])
        else:
            joined.append((piece.text, piece.offset))
        turn = piece.turn
    return joined
