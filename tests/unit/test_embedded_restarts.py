from __future__ import annotations

from services.embedded.restarts import DELAYS_MS, RAPID_MS, Restarts


def test_the_first_restart_is_at_once_and_later_ones_wait_longer() -> None:
    restarts = Restarts()
    delays = [restarts.delay_ms(lived_ms=10) for _ in DELAYS_MS]
    assert delays[0] == 0
    assert delays == sorted(delays)


def test_gives_up_after_too_many_rapid_deaths_in_a_row() -> None:
    restarts = Restarts()
    for _ in DELAYS_MS:
        assert restarts.delay_ms(lived_ms=RAPID_MS - 1) is not None
    assert restarts.delay_ms(lived_ms=RAPID_MS - 1) is None


def test_a_long_life_is_forgiven_everything() -> None:
    restarts = Restarts()
    for _ in DELAYS_MS:
        restarts.delay_ms(lived_ms=10)
    assert restarts.delay_ms(lived_ms=RAPID_MS) == 0
    assert restarts.delay_ms(lived_ms=10) == DELAYS_MS[1]
