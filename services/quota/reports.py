"""Who used how much, and what was used when: from the sums, never from the ledger."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import date

import msgspec

from services.clock import DAY_MS, Clock, utc_day
from services.quota.model import Invalid, UsageQuery, UsageRow, UserRow, UsersCursor, UsersQuery
from services.quota.ports import Store

HIGHEST = 2**63 - 1
"""No sum is as high: where the first page begins."""


class Reports:
    """Reads the sums."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def users(self, query: UsersQuery, page_token: str) -> tuple[list[UserRow], str]:
        """A page of users, highest first, and the token of the next one, empty on the last."""
        now_ms = self._clock.now_ms()
        top = UsersCursor(utc_day(now_ms - (query.days - 1) * DAY_MS), utc_day(now_ms), HIGHEST, "")
        after = _read_token(page_token) if page_token else top
        one_more = replace(query, page_size=query.page_size + 1)
        rows = await self._store.read(lambda tx: tx.list_users(one_more, after))
        page = rows[: query.page_size]
        if len(rows) == len(page):
            return page, ""
        return page, _token(after._replace(value=page[-1].sorted_by, user_id=page[-1].user_id))

    async def usage(self, query: UsageQuery) -> list[UsageRow]:
        """By hour or day, oldest first."""
        last_day = self._clock.now_ms() // DAY_MS
        hours = range((last_day - query.days + 1) * 24, (last_day + 1) * 24)
        return await self._store.read(lambda tx: tx.list_usage(hours, query))


def _token(cursor: UsersCursor) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(cursor)).decode()


def _read_token(text: str) -> UsersCursor:
    try:
        cursor = msgspec.json.decode(base64.b64decode(text, b"-_", validate=True), type=UsersCursor)
        days = [date.fromisoformat(cursor.first_day), date.fromisoformat(cursor.last_day)]
    except (ValueError, msgspec.DecodeError):
        days = []
    if not days or not 0 <= cursor.value < HIGHEST or not cursor.user_id.isprintable():
        raise Invalid("page_token", "is none that was given out here")
    return cursor
