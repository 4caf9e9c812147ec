"""Nano-dollars for people."""

from __future__ import annotations

DOLLAR = 10**9
CENT = 10**7
"""Both in nano-dollars."""


def dollars(nano_usd: int) -> str:
    """Every digit there is, at least two ("$10.00", "$0.0035"): what is shown adds up to the nano-dollar."""
    whole, rest = divmod(abs(nano_usd), DOLLAR)
    return f"{_sign(nano_usd)}${whole:,}.{f'{rest:09d}'.rstrip('0').ljust(2, '0')}"


def to_the_cent(nano_usd: int) -> str:
    """Whole cents, half to even."""
    cents, rest = divmod(abs(nano_usd), CENT)
    cents += (2 * rest, cents % 2) > (CENT, 0)
    return f"{_sign(nano_usd)}${cents // 100:,}.{cents % 100:02d}"


def _sign(nano_usd: int) -> str:
    return "-" if nano_usd < 0 else ""
