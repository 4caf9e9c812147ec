"""Recomputes what quota keeps from its rows and tells what does not agree."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from services.clock import DAY_MS, next_day_ms
from services.pricing import PriceList
from services.quota.ledger import HOUR_MS, hour_of, tokens_of, use_of
from services.quota.model import Charge, Hour, Use

OF_LEDGER = (
    "input_tokens", "output_tokens", "cache_read_input_tokens", "cache_write_input_tokens", "cost_nano_usd",
)  # fmt: skip
"""Sums that follow from the charges alone; with the prices of their day also what the prompt cache saved."""
SAVED = "saved_by_prompt_cache_nano_usd"


@dataclass(frozen=True)
class Difference:
    """A row that is not what other rows say: (amount, as it is kept, as it follows from them)."""

    table: str
    row: str
    amounts: tuple[tuple[str, int, int], ...]

    def __str__(self) -> str:
        told = "; ".join(f"{name} is {kept:,}, should be {right:,}" for name, kept, right in self.amounts)
        return f"{self.table}  {self.row}: {told}"


class Books(Protocol):
    """All rows as they were at one moment."""

    def days(self) -> list[str]:
        """Every day of the ledger and the sums, in order."""
        ...

    def charges(self, day: str) -> Iterator[Charge]: ...
    def hours(self, hours: range) -> dict[Hour, Use]: ...
    def use(self, day: str) -> Use:
        """All users' sums of a day, added up."""
        ...

    def wrong_places(self) -> Iterator[Difference]:
        """Days whose places are not the reservations that hold one."""
        ...

    def wrong_days(self) -> Iterator[Difference]:
        """Days whose sums are not those of the user's charges."""
        ...

    def wrong_tier_days(self) -> Iterator[Difference]:
        """Closed days whose revenue is not that of the tier's users."""
        ...


class Audit:
    """One audit; the counts are complete when `differences` has ended."""

    def __init__(self, books: Books, prices: PriceList) -> None:
        self._books = books
        self._prices = prices
        self.charges = 0
        self.estimates = 0
        self.older = 0
        """Charges of days before these prices, which therefore were not priced again."""
        self.unsummed = 0
        """Charges of the release before that are not in the sums yet, which were compared without them."""

    def differences(self) -> Iterator[Difference]:
        """Everything that does not agree; memory stays bounded whatever the ledger's length."""
        yield from self._books.wrong_places()
        yield from self._books.wrong_days()
        for day in self._books.days():
            yield from self._day(day)
        yield from self._books.wrong_tier_days()

    def summary(self) -> str:
        """What was looked at."""
        told = f"{self.charges:,} charges, {self.estimates:,} of them estimates"
        if self.older:
            told += f"; {self.older:,} are from days before these prices hold, so what they cost was not computed again"
        if self.unsummed:
            told += f"; {self.unsummed:,} are not in the sums yet, which were compared without them"
        return told

    def _day(self, day: str) -> Iterator[Difference]:
        end_hour = next_day_ms(day) // HOUR_MS
        kept = self._books.hours(range(end_hour - DAY_MS // HOUR_MS, end_hour))
        computed: defaultdict[Hour, Use] = defaultdict(Use)
        for charge in self._books.charges(day):
            if charge.summed:
                computed[hour_of(charge)] += use_of(charge, self._prices)
            else:
                self.unsummed += 1
            yield from self._price(charge)
        known = (*OF_LEDGER, SAVED) if day >= self._prices.in_force_from else OF_LEDGER
        for hour in sorted(kept.keys() | computed.keys()):
            right = vars(computed[hour])
            yield from differing("quota_hours", _hour_name(hour), vars(kept.get(hour, Use())), right, known)
        # What does not follow from the ledger must at least be the same in both.
        by_user, by_hour = self._books.use(day), sum(kept.values(), Use())
        row = f"all of {day} against quota_days"
        yield from differing("quota_hours", row, vars(by_hour), vars(by_user), tuple(vars(by_user)))

    def _price(self, charge: Charge) -> Iterator[Difference]:
        self.charges += 1
        self.estimates += charge.estimated
        if charge.estimated:
            return
        if charge.day < self._prices.in_force_from:
            self.older += 1
            return
        row = f"{charge.request_id} attempt {charge.attempt} turn {charge.turn} of {charge.day}, {charge.model}"
        try:
            cost = self._prices.cost_nano_usd(charge.model, tokens_of(charge))
        except KeyError:
            row, cost = row + ", which has no price", 0
        kept, right = {"cost_nano_usd": charge.cost_nano_usd}, {"cost_nano_usd": cost}
        yield from differing("quota_charges", row, kept, right, ("cost_nano_usd",))


def differing(
    table: str, row: str, kept: Mapping[str, int], right: Mapping[str, int], names: tuple[str, ...]
) -> Iterator[Difference]:
    """The difference between two rows, if there is one."""
    amounts = tuple((name, int(kept[name]), int(right[name])) for name in names if kept[name] != right[name])
    if amounts:
        yield Difference(table, row, amounts)


def _hour_name(hour: Hour) -> str:
    begin, tier, model, kind = hour
    time = datetime.fromtimestamp(begin * HOUR_MS // 1000, UTC)
    return f"{time:%Y-%m-%d %H}h, tier {tier or '-'}, {model or '-'}, {kind or '-'}"
