"""The ledger of charges, and the sums that grow with it in the same transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from services.clock import DAY_MS, Clock, next_day_ms
from services.pricing import PriceList, Tokens
from services.quota import reservations
from services.quota.model import Charge, ChargeKey, Hour, Reservation, Settlement, Use, UserDay
from services.quota.ports import Store, Transaction
from services.quota.reservations import freed_places

HOUR_MS = 3_600_000
SUMMED_AT_ONCE = 500
"""Old charges in one transaction: short enough that whoever settles hardly waits for it."""


class Sums:
    """What a transaction adds to the sums."""

    def __init__(self) -> None:
        self.days: defaultdict[UserDay, Use] = defaultdict(Use)
        self.hours: defaultdict[Hour, Use] = defaultdict(Use)

    def add(self, user_id: str, day: str, hour: Hour, use: Use) -> None:
        """Adds to both."""
        self.days[user_id, day] += use
        self.hours[hour] += use


class Ledger:
    """Records how requests ended and what they cost; repeating it changes nothing."""

    def __init__(self, store: Store, prices: PriceList, clock: Clock) -> None:
        self._store = store
        self._prices = prices
        self._clock = clock

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """Returns once all of it is durable."""
        now_ms = self._clock.now_ms()
        await self._store.write(lambda tx: self._settle(tx, settlements, now_ms))

    async def sum_old(self) -> None:
        """Adds charges that the release before wrote to the sums, as `settle` would have, until none is left.

        Until then whoever asks for a page sees less than was used, and may use more than their limits. Replicas may do
        it at the same time: each takes charges that no other holds, so the one that finds none may return while another
        adds its last.
        """
        while await self._store.write(self._sum_some):
            pass

    def _sum_some(self, tx: Transaction) -> int:
        # Locks come in the order of `_settle`.
        old, sums = tx.lock_unsummed(SUMMED_AT_ONCE), Sums()
        untold = {charge.user_id for charge in old if not charge.tier}
        tiers = tx.list_tiers_of(sorted(untold)) if untold else {}
        charges = [replace(each, tier=each.tier or tiers.get(each.user_id, ""), summed=True) for each in old]
        tx.replace_charges(charges)
        for charge in charges:
            self._add_charge(sums, charge)
        tx.add_to_days({}, sums.days)
        tx.add_to_hours(sums.hours)
        return len(old)

    def _settle(self, tx: Transaction, settlements: Sequence[Settlement], now_ms: int) -> None:
        # Locks are taken in one order everywhere, so that two batches cannot wait for each other: reservations,
        # charges, days, hours, each in the order of their keys.
        settlements, sums = _with_tiers(tx, settlements), Sums()
        ends = {s.request_id: s for s in reversed(settlements) if s.counted is not None}
        rows = tx.lock_reservations(list(ends))
        changes = [(row, reservations.settled(row, bool(ends[row.request_id].counted), now_ms)) for row in rows]
        changed = [(before, after) for before, after in changes if after != before]
        tx.update_reservations(changed)
        for row, _ in changed:
            _add_end(sums, row, ends[row.request_id], now_ms)
        self._record(tx, sums, [charge for settlement in settlements for charge in settlement.charges])
        tx.add_to_days(freed_places(changed), sums.days)
        tx.add_to_hours(sums.hours)

    def _record(self, tx: Transaction, sums: Sums, told: Iterable[Charge]) -> None:
        charges: dict[ChargeKey, Charge] = {}
        for charge in told:
            if charge.key not in charges or (charges[charge.key].estimated and not charge.estimated):
                charges[charge.key] = charge
        new = tx.insert_charges([charges[key] for key in sorted(charges)])
        for key in new:
            self._add_charge(sums, charges[key])
        better = {key for key in charges.keys() - new if not charges[key].estimated}
        estimates = tx.lock_estimates(sorted({request_id for request_id, _, _ in better}))
        replaced = [(before, charges[before.key]) for before in estimates if before.key in better]
        tx.replace_charges([after for _, after in replaced])
        for before, after in replaced:
            if before.summed:
                sums.add(before.user_id, before.day, hour_of(before), Use() - use_of(before, self._prices))
            self._add_charge(sums, after)

    def _add_charge(self, sums: Sums, charge: Charge) -> None:
        sums.add(charge.user_id, charge.day, hour_of(charge), use_of(charge, self._prices))


def use_of(charge: Charge, prices: PriceList) -> Use:
    """What a charge adds to the sums. An estimate saved nothing: nobody saw what was read from a cache."""
    saved = 0
    if not charge.estimated:
        try:
            saved = prices.saved_nano_usd(charge.model, tokens_of(charge))
        except KeyError:
            # A scheduler with other prices knew the model; what it told must be kept all the same.
            saved = 0
    return Use(
        input_tokens=charge.input_tokens,
        output_tokens=charge.output_tokens,
        cache_read_input_tokens=charge.cache_read_input_tokens,
        cache_write_input_tokens=charge.cache_write_5m_input_tokens + charge.cache_write_1h_input_tokens,
        cost_nano_usd=charge.cost_nano_usd,
        saved_by_prompt_cache_nano_usd=saved,
    )


def tokens_of(charge: Charge) -> Tokens:
    """A charge's tokens, as they are priced."""
    return Tokens(
        charge.input_tokens,
        charge.output_tokens,
        charge.cache_read_input_tokens,
        charge.cache_write_5m_input_tokens,
        charge.cache_write_1h_input_tokens,
    )


def hour_of(charge: Charge) -> Hour:
    """The sum by hour that a charge belongs to."""
    return clamped_hour(charge.end_time_ms, charge.day), charge.tier, charge.model, charge.kind


def clamped_hour(time_ms: int, day: str) -> int:
    """The hour since 1970 of a moment, moved into the day: what ended later counts where it began."""
    end_ms = next_day_ms(day)
    return min(max(time_ms, end_ms - DAY_MS), end_ms - 1) // HOUR_MS


def _with_tiers(tx: Transaction, settlements: Sequence[Settlement]) -> list[Settlement]:
    """Settlements that name no tier, at the tier their user has now; with the charges it holds for."""
    untold = {s.user_id for s in settlements if not s.tier}
    tiers = tx.list_tiers_of(sorted(untold)) if untold else {}
    return [_at_tier(s, s.tier or tiers.get(s.user_id, "")) for s in settlements]


def _at_tier(settlement: Settlement, tier: str) -> Settlement:
    charges = [charge if charge.tier == tier else replace(charge, tier=tier) for charge in settlement.charges]
    return replace(settlement, tier=tier, charges=charges)


def _add_end(sums: Sums, row: Reservation, end: Settlement, now_ms: int) -> None:
    ended_ms = max((charge.end_time_ms for charge in end.charges), default=now_ms)
    hour = (clamped_hour(ended_ms, row.day), end.tier, end.model, end.kind)
    use = Use(1, int(end.completed), int(end.cached), saved_by_equals_nano_usd=end.saved_nano_usd)
    sums.add(row.user_id, row.day, hour, use)
