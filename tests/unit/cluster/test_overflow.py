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


def test_no_spill_above_what_an_answer_in_time_is_worth() -> None:
    frugal = OverflowLimits(2.0, 60.0, late_usd=Decimal("0.001"))
    assert overflow(5, frugal, Decimal("0.01")) == "wait"


def test_retry_after_is_the_backlog_less_the_target() -> None:
    assert retry_after_s(10.0, 2.0) == 8
    assert retry_after_s(10.0, 2.0, starting_in_s=3.5) == 4
    assert retry_after_s(0.0, 2.0) == 1
    assert retry_after_s(float("inf"), 2.0) == 1
