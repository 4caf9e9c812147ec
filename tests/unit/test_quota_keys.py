"""Keys: made, read, checked."""

from __future__ import annotations

import hashlib
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.quota.keys import SECRET_BYTES, is_valid, make_key, read_key
from services.quota.model import StoredKey, User, UserStatus

USER = User("ann", "", "free", 1, UserStatus.ACTIVE, 0)
bytes_of_size = st.binary(min_size=SECRET_BYTES, max_size=SECRET_BYTES)


def key_of(seed: bytes) -> tuple[str, StoredKey]:
    made = make_key(lambda size: seed[:size])
    return made.text, StoredKey(made.key_id, made.secret_hash, False, USER)


@given(bytes_of_size)
def test_a_key_that_was_made_can_be_read_and_is_valid(seed: bytes) -> None:
    text, stored = key_of(seed)
    presented = read_key(text)
    assert presented is not None
    assert presented.key_id == stored.key_id
    assert is_valid(presented, stored)
    assert len(text) == 47
    assert set(text.removeprefix("hg_")) <= set(string.ascii_letters + string.digits)


def test_only_a_hash_of_the_secret_is_kept() -> None:
    text, stored = key_of(bytes(range(SECRET_BYTES)))
    secret = text[14:41]
    assert stored.secret_hash == hashlib.sha256(secret.encode()).digest()
    assert secret not in stored.key_id


def test_the_secret_has_160_bits() -> None:
    asked: list[int] = []
    make_key(lambda size: asked.append(size) or bytes(size))
    assert asked == [8, 20]


@given(bytes_of_size, st.integers(0, 46), st.sampled_from(string.ascii_letters + string.digits))
def test_a_mistyped_character_is_seen_without_a_lookup(seed: bytes, place: int, typed: str) -> None:
    text, _ = key_of(seed)
    wrong = text[:place] + typed + text[place + 1 :]
    assert wrong == text or read_key(wrong) is None


@pytest.mark.parametrize("text", ["", "hg_", "hg_" + "0" * 44, "sk-ant-abc", " ", "hg_" + "é" * 44])
def test_what_is_no_key_is_not_read(text: str) -> None:
    assert read_key(text) is None


def test_space_around_a_key_is_not_part_of_it() -> None:
    text, _ = key_of(bytes(SECRET_BYTES))
    assert [read_key(form) for form in (text + "\n", " " + text, text + " ")] == [None] * 3


def test_another_secret_a_revoked_key_and_none_are_not_valid() -> None:
    text, stored = key_of(b"1" * SECRET_BYTES)
    presented = read_key(text)
    assert presented is not None
    _, other = key_of(b"2" * SECRET_BYTES)
    revoked = StoredKey(stored.key_id, stored.secret_hash, True, USER)
    assert [is_valid(presented, row) for row in (stored, other, revoked, None)] == [True, False, False, False]
