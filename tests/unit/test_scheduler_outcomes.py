"""What follows from each way an attempt can end."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.pricing import Tokens
from services.scheduler.life import Code, End, Request, Retry, State
from services.scheduler.outcomes import (
    MAX_FAILURES,
    MAX_LOSSES,
    MAX_REFUSALS,
    Failure,
    Trouble,
    Witness,
    backoff_ms,
    decide,
    rest_ms,
)

NOW = 1_000_000
NOTHING = Witness()


def a_request(**changes: object) -> Request:
    """A request that runs its first attempt."""
    row = Request(
        acceptance=1, request_id="req_1", user_id="u", tier="free", share=1, pool="sonnet",
        model="claude-sonnet-5-5", diagram_type="mermaid", max_tokens=2048, priority=0, day="2026-11-24",
        state=State.QUEUED, attempt=0, failures=0, losses=0, charged_attempt=0, delivered=False, final_seq=None,
        accepted_ms=NOW, deadline_ms=NOW + 3_600_000, not_before_ms=0, started_ms=None, ended_ms=None, has_svg=False,
        truncated=False, cached=False, error="", code=None, tokens=Tokens(), cost_nano_usd=0, cost_estimated=False,
        estimated_input_tokens=100, estimated_output_tokens=100, traceparent="", work_hash="",
    )  # fmt: skip
    return replace(row, **changes)  # type: ignore[arg-type]


RUNNING = a_request(state=State.RUNNING, attempt=1)


@pytest.mark.parametrize(
    ("trouble", "code"),
    [
        (Trouble.REJECTED, Code.PROVIDER_REJECTED),
        (Trouble.REFUSED, Code.REFUSED),
        (Trouble.INVALID_DIAGRAM, Code.INVALID_DIAGRAM),
    ],
)
def test_what_can_never_succeed_fails_at_once(trouble: Trouble, code: Code) -> None:
    decision = decide(RUNNING, Failure(trouble, "So it is."), NOTHING, NOW, 0.5)
    assert decision == End(State.FAILED, code, "So it is.")


@pytest.mark.parametrize("trouble", [Trouble.RATE_LIMITED, Trouble.RAMP_LIMITED])
def test_a_429_rests_the_pool_and_costs_the_request_nothing(trouble: Trouble) -> None:
    failure = Failure(trouble, "", retry_after_ms=7_000)
    assert decide(RUNNING, failure, Witness(1, 1), NOW, 0.5) == Retry(0, "The provider asked for a break.")
    assert rest_ms(failure) == 7_000
    assert rest_ms(Failure(trouble, "")) == 5_000
    assert rest_ms(Failure(Trouble.UNAVAILABLE, "", retry_after_ms=7_000)) == 0, "that delays the request alone"


def test_after_a_second_429_a_request_lets_others_go_first() -> None:
    failure = Failure(Trouble.RATE_LIMITED, "", retry_after_ms=7_000)
    again = decide(RUNNING, failure, Witness(1, 2), NOW, 0.5)
    assert isinstance(again, Retry)
    assert again.not_before_ms == NOW + 8_000


def test_three_429s_while_others_are_served_fail_the_request() -> None:
    failure = Failure(Trouble.RATE_LIMITED, "", retry_after_ms=7_000)
    assert isinstance(decide(RUNNING, failure, Witness(MAX_REFUSALS - 1, 50), NOW, 0.5), Retry)
    last = decide(RUNNING, failure, Witness(MAX_REFUSALS, 3), NOW, 0.5)
    assert isinstance(last, End)
    assert last.code is Code.PROVIDER_REJECTED


def test_a_refused_account_is_the_requests_fault_only_if_the_pools_own_call_is_served() -> None:
    failure = Failure(Trouble.ACCOUNT, "")
    assert isinstance(decide(RUNNING, failure, NOTHING, NOW, 0.5), Retry)
    alone = decide(RUNNING, failure, Witness(account_works=True), NOW, 0.5)
    assert isinstance(alone, End)
    assert alone.code is Code.PROVIDER_REJECTED


def test_a_pool_that_fails_uses_up_nobodys_tries() -> None:
    failure = Failure(Trouble.UNAVAILABLE, "", spent_tokens=True)
    again = decide(replace(RUNNING, failures=MAX_FAILURES - 1), failure, Witness(pool_fails=True), NOW, 0.5)
    assert isinstance(again, Retry)
    assert not again.failed


def test_an_outage_before_the_first_byte_never_fails_a_request() -> None:
    tried = replace(RUNNING, attempt=50, failures=MAX_FAILURES - 1)
    decision = decide(tried, Failure(Trouble.UNAVAILABLE, ""), NOTHING, NOW, 0.5)
    assert isinstance(decision, Retry)
    assert not decision.failed
    assert decision.not_before_ms == NOW + 30_000


def test_tries_that_spent_tokens_are_counted_to_five() -> None:
    failure = Failure(Trouble.UNAVAILABLE, "", spent_tokens=True)
    once = decide(RUNNING, failure, NOTHING, NOW, 0.5)
    assert isinstance(once, Retry)
    assert once.failed
    last = decide(replace(RUNNING, failures=MAX_FAILURES - 1), failure, NOTHING, NOW, 0.5)
    assert isinstance(last, End)
    assert last.code is Code.PROVIDER_UNAVAILABLE


def test_a_lost_worker_costs_no_wait_and_the_third_ends_it() -> None:
    failure = Failure(Trouble.LOST, "")
    assert decide(RUNNING, failure, NOTHING, NOW, 0.5) == Retry(0, "The worker was lost.", lost=True)
    last = decide(replace(RUNNING, losses=MAX_LOSSES - 1), failure, NOTHING, NOW, 0.5)
    assert isinstance(last, End)
    assert last.code is Code.WORKER_LOST


@pytest.mark.parametrize("failure", [Failure(Trouble.LOST, "", draining=True), Failure(Trouble.STOPPED, "")])
def test_a_rollout_never_fails_a_request(failure: Failure) -> None:
    decision = decide(replace(RUNNING, losses=MAX_LOSSES), failure, NOTHING, NOW, 0.5)
    assert isinstance(decision, Retry)
    assert not decision.lost


@pytest.mark.parametrize(("attempt", "ceiling"), [(1, 1_000), (2, 2_000), (4, 8_000), (7, 60_000), (5_000, 60_000)])
def test_backoff_is_fully_jittered_under_a_doubling_ceiling(attempt: int, ceiling: int) -> None:
    assert backoff_ms(attempt, 0.0) == 100
    assert backoff_ms(attempt, 0.999999) == ceiling - 1
