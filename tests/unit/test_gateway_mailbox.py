"""What a slow reader loses, and what it never does."""

from __future__ import annotations

import asyncio

import pytest

from services.gateway import mailbox as module
from services.gateway.mailbox import LOSSY_LIMIT, Mailbox


async def test_a_newer_place_replaces_the_one_that_was_not_read() -> None:
    mailbox = Mailbox()
    mailbox.put_status("a", "a is 9th")
    mailbox.put("between")
    mailbox.put_status("b", "b is 4th")
    mailbox.put_status("a", "a is 8th")
    assert await mailbox.take() == ["between", "b is 4th", "a is 8th"]
    mailbox.put_status("a", "a is 7th")
    assert await mailbox.take() == ["a is 7th"]


async def test_who_is_far_behind_loses_deltas_and_nothing_else() -> None:
    mailbox = Mailbox()
    for number in range(3 * LOSSY_LIMIT):
        mailbox.put_delta(f"delta {number}")
    mailbox.put("retrying")
    mailbox.put("completed")
    assert await mailbox.take() == [*(f"delta {number}" for number in range(LOSSY_LIMIT)), "retrying", "completed"]
    mailbox.put_delta("it reads again")
    assert await mailbox.take() == ["it reads again"]


async def test_what_was_put_before_the_close_is_handed_out() -> None:
    mailbox = Mailbox()
    mailbox.put("completed")
    mailbox.close()
    mailbox.put("too late")
    assert await mailbox.take() == ["completed"]
    assert await asyncio.wait_for(mailbox.take(), 5) == []


async def test_a_reader_that_takes_nothing_is_given_up_at_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BYTES_LIMIT", 100)
    mailbox = Mailbox()
    for _ in range(4):
        mailbox.put("x" * 30)
    assert mailbox.overflowed
    assert mailbox.closed
    assert await mailbox.take() == []


async def test_places_that_replace_each_other_never_fill_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BYTES_LIMIT", 100)
    mailbox = Mailbox()
    for number in range(1_000):
        mailbox.put_status("a", f"a is {number}th")
    assert await mailbox.take() == ["a is 999th"]
    assert not mailbox.overflowed
