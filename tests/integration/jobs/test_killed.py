"""A runner that is killed at random moments, in processes of its own, with no cluster."""

from __future__ import annotations

from bench import batch


def test_three_kills_leave_one_row_an_id_and_pay_for_none_twice() -> None:
    asked_again = batch.kill(kills=3, rows=400, seconds=0.05)
    assert asked_again <= 3 * batch.MOST_IN_FLIGHT
