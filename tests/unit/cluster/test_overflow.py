"""Wait, spill or shed."""

from __future__ import annotations

from decimal import Decimal

from cluster.scaling.overflow import OverflowLimits, overflow, retry_after_s

LIMITS = OverflowLimits(ttft_s=2.0, shed_after_s=60.0)


def test_in_time_waits_late_spills_and_hopeless_is_shed() -> None:
    assert overflow(1.3, LIMITS, Decimal("0.01")) == "wait"
    assert overflow(2.1, LIMITS, Decimal("0.01")) == "spill"
    assert overflow(2.1, LIMITS) == "wait"
    assert overflow(61, LIMITS) == "shed"


def test_a_long_prompt_that_need_not_wait_stays() -> None:
    assert overflow(0.0, LIMITS, Decimal("0.01"), prompt_s=1.9) == "wait"


def test_a_long_prompt_has_less_time_to_wait() -> None:
    assert overflow(0.5, LIMITS, Decimal("0.01"), prompt_s=1.0) == "wait"
    assert overflow(0.9, LIMITS, Decimal("0.01")) == "wait"
    assert overflow(0.9, LIMITS, Decimal("0.01"), prompt_s=1.0) == "spill"


def test_a_prompt_that_takes_longer_than_the_target_is_late_by_itself() -> None:
    assert overflow(0.0, LIMITS, Decimal("0.01"), prompt_s=2.1) == "spill"
    assert overflow(0.0, LIMITS, prompt_s=2.1) == "wait"


def test_no_spill_above_what_an_answer_in_time_is_worth() -> None:
    frugal = OverflowLimits(2.0, 60.0, late_usd=Decimal("0.001"))
    assert overflow(5, frugal, Decimal("0.01")) == "wait"


def test_retry_after_is_the_backlog_less_the_target() -> None:
    assert retry_after_s(10.0, 2.0) == 8
    assert retry_after_s(10.0, 2.0, starting_in_s=3.5) == 4
    assert retry_after_s(0.0, 2.0) == 1
    assert retry_after_s(float("inf"), 2.0) == 1
