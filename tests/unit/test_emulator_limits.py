"""The emulator's buckets in virtual time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.emulator.limits import INPUT, OUTPUT, REQUESTS, TOKENS, Limits, Rates


def test_sixty_a_minute_is_one_a_second() -> None:
    limits = Limits(Rates({REQUESTS: 60}))
    assert limits.admit("sonnet", 10, 0) is None
    refused = limits.admit("sonnet", 10, 0)
    assert refused is not None
    assert (refused.dimension, refused.limit, refused.retry_after_s) == (REQUESTS, 60, 1)
    assert limits.admit("sonnet", 10, 999) is not None
    assert limits.admit("sonnet", 10, 1000) is None


def test_classes_of_models_do_not_share_limits() -> None:
    limits = Limits(Rates({REQUESTS: 60}))
    assert limits.admit("sonnet", 10, 0) is None
    assert limits.admit("opus", 10, 0) is None


def test_a_refused_request_takes_nothing() -> None:
    limits = Limits(Rates({REQUESTS: 600, INPUT: 1000}))
    assert limits.admit("sonnet", 900, 0) is None
    before = limits.headers("sonnet", 0)
    refused = limits.admit("sonnet", 900, 0)
    assert refused is not None
    assert refused.dimension == INPUT
    assert refused.retry_after_s == 48
    assert limits.headers("sonnet", 0) == before


def test_a_request_larger_than_the_bucket_passes_a_full_one_and_leaves_debt() -> None:
    limits = Limits(Rates({REQUESTS: 6000, INPUT: 1000}))
    assert limits.admit("sonnet", 5000, 0) is None
    refused = limits.admit("sonnet", 1, 0)
    assert refused is not None
    assert refused.retry_after_s == 241
    assert limits.admit("sonnet", 1, 241_000) is None


def test_output_counts_as_it_is_produced() -> None:
    limits = Limits(Rates({REQUESTS: 6000, OUTPUT: 60}))
    assert limits.admit("sonnet", 10, 0) is None
    limits.produced("sonnet", 100, 0)
    refused = limits.admit("sonnet", 10, 0)
    assert refused is not None
    assert (refused.dimension, refused.retry_after_s) == (OUTPUT, 41)


def test_headers_round_tokens_and_show_the_tightest_limit() -> None:
    limits = Limits(Rates({REQUESTS: 100, INPUT: 40_000, OUTPUT: 10_000}))
    limits.admit("sonnet", 1_400, 1_700_000_000_000)
    limits.produced("sonnet", 6_000, 1_700_000_000_000)
    headers = limits.headers("sonnet", 1_700_000_000_000)
    assert headers["anthropic-ratelimit-requests-limit"] == "100"
    assert headers["anthropic-ratelimit-requests-remaining"] == "0"
    assert headers["anthropic-ratelimit-input-tokens-remaining"] == "39000"
    assert headers["anthropic-ratelimit-output-tokens-remaining"] == "4000"
    assert headers["anthropic-ratelimit-output-tokens-reset"] == "2023-11-14T22:13:56Z"
    assert headers["anthropic-ratelimit-tokens-limit"] == "10000"
    assert headers["anthropic-ratelimit-tokens-remaining"] == "4000"


def test_a_change_is_in_force_at_once_and_gives_no_tokens_away() -> None:
    limits = Limits(Rates({REQUESTS: 60_000, TOKENS: 1000}))
    limits.admit("sonnet", 900, 0)
    limits.change(Rates({REQUESTS: 60_000, TOKENS: 60_000}), 0)
    assert limits.admit("sonnet", 1_100, 0) is not None
    assert limits.admit("sonnet", 1_100, 1_000) is None


def test_a_change_may_begin_with_full_buckets() -> None:
    limits = Limits(Rates({REQUESTS: 60, TOKENS: 1000}))
    limits.admit("sonnet", 900, 0)
    limits.change(Rates({REQUESTS: 30, TOKENS: 600}), 0, full=True)
    assert limits.admit("sonnet", 600, 0) is None
    assert limits.admit("sonnet", 1, 0) is not None


def test_who_shares_the_key_leaves_the_rest_and_shows_in_the_headers() -> None:
    limits = Limits(Rates({REQUESTS: 600, TOKENS: 60_000}))
    limits.share_with(1 / 3, ["sonnet"], 0)
    passed = 0
    for now_ms in range(0, 60_000, 50):
        passed += limits.admit("sonnet", 10, now_ms) is None
    assert limits.foreigners["sonnet"].calls == 199
    # Ten came with the full bucket.
    assert 405 <= passed <= 410
    taken = 60_000 - int(limits.headers("sonnet", 60_000)["anthropic-ratelimit-tokens-remaining"])
    assert taken == 0, "a third of the token limit and a tenth for us: the bucket refills faster than that"


def test_who_shares_the_key_takes_from_a_bucket_that_is_not_refilled_as_fast() -> None:
    limits = Limits(Rates({REQUESTS: 60, TOKENS: 60_000}, request_burst_ms=60_000))
    limits.share_with(1.0, ["sonnet"], 0)
    for _ in range(20):
        assert limits.admit("sonnet", 1_000, 0) is None
    headers = limits.headers("sonnet", 30_500)
    assert headers["anthropic-ratelimit-requests-remaining"] == "40"
    assert headers["anthropic-ratelimit-tokens-remaining"] == "41000", "39.5 rounds up: half a call is still due"
    assert limits.admit("opus", 60_000, 30_500) is None, "other classes are ours alone"


def test_a_foreigner_takes_whole_calls_into_debt_and_leaves_when_told() -> None:
    limits = Limits(Rates({REQUESTS: 60}))
    limits.share_with(0.5, ["sonnet"], 0)
    assert limits.admit("sonnet", 1, 0) is None
    assert limits.admit("sonnet", 1, 1_990) is None, "theirs is due at 2,000"
    refused = limits.admit("sonnet", 1, 2_000)
    assert refused is not None
    assert refused.retry_after_s == 2
    limits.share_with(0.0, ["sonnet"], 2_000)
    assert limits.admit("sonnet", 1, 4_000) is None
    assert limits.admit("sonnet", 1, 5_000) is None


def test_a_change_of_limits_forgets_nothing_that_a_foreigner_took() -> None:
    limits = Limits(Rates({REQUESTS: 600}, request_burst_ms=60_000))
    limits.share_with(0.5, ["sonnet"], 0)
    for _ in range(600):
        assert limits.admit("sonnet", 1, 0) is None
    limits.change(Rates({REQUESTS: 60}, request_burst_ms=60_000), 10_000)
    assert limits.headers("sonnet", 10_000)["anthropic-ratelimit-requests-remaining"] == "50"
    limits.change(Rates({REQUESTS: 600}, request_burst_ms=60_000), 20_000)
    # Ten seconds at half of one a second, 50 that were there.
    assert limits.headers("sonnet", 20_000)["anthropic-ratelimit-requests-remaining"] == "55"


@given(
    rpm=st.integers(1, 5_000),
    burst_ms=st.integers(0, 60_000),
    gaps_ms=st.lists(st.integers(-50, 3_000), min_size=1, max_size=200),
)
def test_never_more_than_the_burst_and_what_time_brings(rpm: int, burst_ms: int, gaps_ms: list[int]) -> None:
    limits = Limits(Rates({REQUESTS: rpm}, burst_ms))
    now_ms = latest_ms = passed = 0
    for gap_ms in gaps_ms:
        now_ms = max(0, now_ms + gap_ms)
        latest_ms += max(0, gap_ms)
        passed += limits.admit("sonnet", 1, now_ms) is None
    assert passed <= max(1.0, rpm * burst_ms / 60_000) + rpm * latest_ms / 60_000 + 1e-6


@given(rpm=st.integers(1, 5_000), taken=st.integers(1, 50))
def test_after_retry_after_a_request_passes(rpm: int, taken: int) -> None:
    limits = Limits(Rates({REQUESTS: rpm}))
    refused = None
    for _ in range(taken + 100):
        refused = limits.admit("sonnet", 1, 0)
        if refused:
            break
    assert refused is not None
    assert refused.retry_after_s >= 1
    assert limits.admit("sonnet", 1, refused.retry_after_s * 1000) is None
