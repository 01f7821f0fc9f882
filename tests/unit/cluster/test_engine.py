"""The simulated replicas against arithmetic done by hand, and against conservation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.cost import ServiceRates
from cluster.simulation.engine import NEVER, Engine
from cluster.simulation.trace import make_trace

RATES = ServiceRates(1000, 0.04, 0.01, 2, prefill_chunk_tokens=500)


def engine(*rows: tuple[float, int, int], replicas: int = 1) -> Engine:
    made = Engine(make_trace(rows), RATES, ttft_s=2.0)
    for number in range(replicas):
        made.add(number, "on-demand", 0.0)
    return made


def test_alone_a_request_takes_prefill_then_one_step_a_token() -> None:
    run = engine((0, 100, 11))
    run.advance(100)
    assert run.first_s == [pytest.approx(0.1)]
    assert run.end_s == [pytest.approx(0.1 + 10 * 0.05)]


def test_a_prompt_goes_in_at_the_next_step_and_slows_the_other() -> None:
    run = engine((0, 100, 11), (0.12, 1000, 1))
    run.advance(100)
    # The step that began at 0.10 ends at 0.15; two chunks, each with a decode step of one.
    assert run.first_s[1] == pytest.approx(0.15 + 1.0 + 2 * 0.05)
    # Ten steps in all, three of them before the second prompt was in.
    assert run.end_s[0] == pytest.approx(1.25 + 7 * 0.05)


def test_a_full_replica_leaves_the_third_in_the_queue() -> None:
    run = engine((0, 10, 100), (0, 10, 100), (0.5, 10, 1))
    run.advance(1.0)
    assert len(run.queue) == 1
    assert run.queued_prompt_tokens == 10
    run.advance(100)
    assert run.first_s[2] > min(run.end_s[:2])


def test_requests_go_where_no_prompt_is_taken_in() -> None:
    run = engine((0, 1000, 5), (0.1, 100, 5), replicas=2)
    run.advance(100)
    assert run.first_s[1] == pytest.approx(0.2)


def test_a_draining_replica_finishes_and_takes_no_more() -> None:
    run = engine((0, 10, 20), (0.5, 10, 1), replicas=1)
    run.advance(0.1)
    run.drain(0)
    run.advance(50)
    assert run.is_empty(0)
    assert run.end_s[0] < NEVER
    assert list(run.queue) == [1]


def test_what_a_lost_replica_held_is_answered_elsewhere() -> None:
    run = engine((0, 100, 40), (0, 100, 40), replicas=1)
    run.advance(1.0)
    run.remove(0, 1.0)
    assert len(run.queue) == 2
    run.add(1, "on-demand", 5.0)
    run.advance(100)
    assert run.done
    assert max(run.first_s) < 1.0  # already given, and not taken back
    assert min(run.end_s) > 5.0


def test_who_can_be_in_time_comes_before_who_is_late_already() -> None:
    run = engine((0, 10, 100), (0, 10, 120), (0.5, 10, 1), (5.0, 10, 1))
    run.advance(100)
    assert run.first_s[2] > run.first_s[3]


def test_who_has_waited_as_long_as_anybody_may_comes_first() -> None:
    trace = make_trace([(0, 10, 100), (0, 10, 120), (0.5, 10, 1), (5.0, 10, 1)])
    run = Engine(trace, RATES, ttft_s=2.0, longest_s=4.0)
    run.add(0, "on-demand", 0.0)
    run.advance(100)
    assert run.first_s[2] < run.first_s[3]


def test_one_that_finds_a_place_does_not_wait_however_long_its_prompt() -> None:
    run = engine((0, 3000, 9), (0.1, 100, 9), (0.2, 3000, 1), replicas=2)
    run.advance(0.05)
    assert run.expected_wait_s(2, 0.05) == 0.0
    assert run.prompt_s(2) > 3.0


def test_one_that_finds_no_place_waits_for_its_turn() -> None:
    run = engine((0, 100, 100), (0, 100, 100), (0.5, 100, 100), (0.8, 100, 1))
    run.advance(0.6)
    assert run.expected_wait_s(3, 0.6) == pytest.approx(2 * RATES.work_s(100, 0))


def test_one_that_comes_now_does_not_wait_for_who_is_late_already() -> None:
    run = engine((0, 100, 200), (0, 100, 200), (0.5, 100, 1), (0.6, 100, 1), (3, 100, 1))
    run.advance(2.9)
    assert run.expected_wait_s(4, 2.9) == pytest.approx(RATES.work_s(100, 0))
    # One that would be late itself waits for them.
    late = engine((0, 100, 200), (0, 100, 200), (0.5, 100, 1), (0.6, 100, 1), (3, 1950, 1))
    late.advance(2.9)
    assert late.expected_wait_s(4, 2.9) == pytest.approx(3 * late.rates.work_s(100, 0))


def test_what_lost_its_replica_has_its_turn_again_before_all_others() -> None:
    run = engine((0, 100, 40), (0, 100, 40), (0.5, 10, 1))
    run.advance(1.0)
    run.remove(0, 1.0)
    assert len(run.queue) == 3
    run.add(1, "on-demand", 5.0)
    assert list(run.queue) == [2]


requests = st.lists(
    st.tuples(st.floats(0, 60), st.integers(1, 3000), st.integers(1, 60)), min_size=1, max_size=40
)


@given(requests, st.integers(1, 4))
def test_every_request_is_answered_once_and_in_order(
    rows: list[tuple[float, int, int]], replicas: int
) -> None:
    run = engine(*rows, replicas=replicas)
    run.advance(1e6)
    assert run.done
    assert run.counters.answered == len(rows)
    for request, at in enumerate(run.trace.arrival_s):
        assert at < run.first_s[request] <= run.end_s[request] < NEVER


@given(requests)
def test_no_replica_answers_faster_than_it_can(rows: list[tuple[float, int, int]]) -> None:
    run = engine(*rows)
    run.advance(1e6)
    trace = run.trace
    least = sum(
        RATES.work_s(prompt, generated - 1)
        for prompt, generated in zip(trace.prompt_tokens, trace.generated_tokens, strict=True)
    )
    assert max(run.end_s) >= least - 1e-6
