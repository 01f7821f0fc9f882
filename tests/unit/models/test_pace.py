"""What a client is told to wait, from how fast others are answered."""

from __future__ import annotations

import pytest

from models.workforce.pace import Pace
from models.workforce.turns import Target, Ticket

ME = Ticket("me")


def test_before_any_answer_nothing_is_known() -> None:
    pace = Pace()
    pace.began(ME, 0.0)
    assert pace.retry_after_s(ME, 2.0) == 2.0


@pytest.mark.parametrize(("waiting", "seconds"), [(4, 2), (100, 50), (100_000, 600)])
def test_who_waits_is_through_after_their_number_over_the_pace(waiting: int, seconds: int) -> None:
    pace = Pace()
    for second in range(20):  # two answers a second
        for act, at in ((pace.began, second), (pace.ended, second + 1)):
            act(ME, float(at))
            act(ME, float(at))
    for _ in range(waiting):
        pace.began(ME, 20.0)
    assert pace.retry_after_s(ME, 2.0) == pytest.approx(seconds, rel=0.2)


def test_an_idle_night_is_no_slowness() -> None:
    pace = Pace()
    for second in range(10):
        pace.began(ME, float(second))
        pace.ended(ME, second + 1.0)
    pace.began(ME, 50_000.0)
    assert pace.retry_after_s(ME, 2.0) <= 3


def test_a_model_that_stops_answering_is_waited_for_longer() -> None:
    pace = Pace()
    pace.began(ME, 0.0)
    pace.ended(ME, 1.0)
    for _ in range(10):
        pace.began(ME, 1.0)
    before = pace.retry_after_s(ME, 2.0)
    pace.began(ME, 31.0)
    assert pace.retry_after_s(ME, 2.0) > before


def test_a_person_does_not_wait_for_batch_work_nor_for_one_who_asks_much() -> None:
    pace, batch, much = Pace(), Ticket("me", low=True), Ticket("much")
    for second in range(20):  # an answer a second
        pace.began(ME, float(second))
        pace.ended(ME, second + 1.0)
    for _ in range(100):
        pace.began(batch, 20.0)
    for _ in range(10):
        pace.began(much, 20.0)
    assert pace.wait_s(ME, 2) == pytest.approx(2, rel=0.1)  # one of theirs, then this
    assert pace.wait_s(much, 2) == pytest.approx(9, rel=0.1)
    assert pace.wait_s(batch, 2) == pytest.approx(109, rel=0.1)
    assert pace.wait_s(batch, 111) == 0
    assert pace.retry_after_s(ME, 0.0) < pace.retry_after_s(much, 0.0)
    assert pace.drained_s() == pytest.approx(110, rel=0.1)


def test_who_comes_now_does_not_wait_for_those_who_are_late_already() -> None:
    pace = Pace(Target(ttft_s=3.0, longest_s=100.0, token_s=1.0))
    for second in range(20):  # an answer a second
        pace.began(ME, float(second))
        pace.ended(ME, second + 1.0)
    for came_s in (10.0, 11.0, 12.0, 19.5):
        pace.began(ME._replace(came_s=came_s), 20.0)
    now = ME._replace(came_s=20.0)
    assert pace.wait_s(now, 0) == pytest.approx(2, rel=0.1)
    assert pace.wait_s(now._replace(prompt=0.5), 0) == pytest.approx(2, rel=0.1)
    # With so long a prompt it would be late itself, and stand behind them.
    assert pace.wait_s(now._replace(prompt=2.0), 0) == pytest.approx(5, rel=0.1)
    # Batch work is never late, and waits for all.
    batch = now._replace(low=True)
    assert pace.wait_s(batch, 0) == pytest.approx(5, rel=0.1)
    # And room there is only once all of them are through.
    assert pace.retry_after_s(now, 0.0) == pytest.approx(4, abs=1)
