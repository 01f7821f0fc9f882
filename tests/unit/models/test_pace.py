"""What a client is told to wait, from how fast others are answered."""

from __future__ import annotations

import pytest

from models.workforce.pace import Pace


def test_before_any_answer_nothing_is_known() -> None:
    pace = Pace()
    pace.began(0.0)
    assert pace.retry_after_s(2.0) == 2.0


@pytest.mark.parametrize(("waiting", "seconds"), [(4, 2), (100, 50), (100_000, 600)])
def test_who_waits_is_through_after_their_number_over_the_pace(waiting: int, seconds: int) -> None:
    pace = Pace()
    for second in range(20):  # two answers a second
        for act, at in ((pace.began, second), (pace.ended, second + 1)):
            act(float(at))
            act(float(at))
    for _ in range(waiting):
        pace.began(20.0)
    assert pace.retry_after_s(2.0) == pytest.approx(seconds, rel=0.2)


def test_an_idle_night_is_no_slowness() -> None:
    pace = Pace()
    for second in range(10):
        pace.began(float(second))
        pace.ended(second + 1.0)
    pace.began(50_000.0)
    assert pace.retry_after_s(2.0) <= 3


def test_a_model_that_stops_answering_is_waited_for_longer() -> None:
    pace = Pace()
    pace.began(0.0)
    pace.ended(1.0)
    for _ in range(10):
        pace.began(1.0)
    before = pace.retry_after_s(2.0)
    pace.began(31.0)
    assert pace.retry_after_s(2.0) > before
