"""Whose turn it is, who may not join, and how many come before."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.workforce.turns import (
    Rank,
    Target,
    Ticket,
    Turns,
    ahead,
    crowd,
    is_full,
    longest_wait_s,
)

ME, YOU = Ticket("me"), Ticket("you")
BATCH = Ticket("you", low=True)
# A token is read in a millisecond, a step takes a tenth of a second.
TARGET = Target(ttft_s=2.0, longest_s=60.0, token_s=0.001, step_s=0.1)


def order(waiting: list[Ticket], turns: Turns | None = None) -> list[Ticket]:
    """As they are called, one after the other, all at once."""
    turns, left = turns or Turns(TARGET), list(waiting)
    return [left.pop(turns.next(left, 0.0)) for _ in waiting]


def numbers(waiting: list[tuple[Ticket, float]], target: Target = TARGET) -> list[int]:
    """In which order those are called who have waited for so long, the oldest first."""
    turns, called = Turns(target), list[int]()
    left = [(n, one._replace(came_s=-waited_s)) for n, (one, waited_s) in enumerate(waiting)]
    while left:
        called.append(left.pop(turns.next([one for _, one in left], 0.0))[0])
    return called


def test_of_one_caller_the_oldest_comes_first() -> None:
    waiting = [Ticket("me", work=work) for work in (3.0, 1.0, 2.0)]
    assert order(waiting) == waiting


def test_of_one_caller_those_who_can_be_in_time_come_before_those_who_are_late() -> None:
    assert numbers([(ME, 9.0), (ME, 3.0), (ME, 1.5), (ME, 0.1)]) == [2, 3, 0, 1]


def test_a_long_prompt_is_late_sooner() -> None:
    long = Ticket("me", prompt=1000.0)
    assert numbers([(long, 1.0), (ME, 1.0)]) == [1, 0]
    assert numbers([(long, 0.8), (ME, 0.8)]) == [0, 1]


def test_who_has_waited_as_long_as_anybody_may_comes_first() -> None:
    assert numbers([(ME, 70.0), (ME, 61.0), (ME, 59.0), (ME, 0.1)]) == [0, 1, 3, 2]


def test_who_has_less_time_than_that_stands_back_for_less() -> None:
    hurried = ME._replace(patience_s=30.0)
    assert numbers([(ME, 40.0), (hurried, 31.0), (ME, 0.1)]) == [1, 2, 0]
    assert numbers([(ME, 40.0), (hurried, 29.0), (ME, 0.1)]) == [2, 0, 1]


def test_where_nothing_is_promised_the_oldest_comes_first() -> None:
    assert numbers([(ME, 9e9), (ME, 3.0), (ME, 0.1)], Target()) == [0, 1, 2]


def test_batch_work_is_never_late() -> None:
    assert numbers([(BATCH, 9.0), (BATCH, 0.1)]) == [0, 1]


def test_lateness_gives_no_caller_a_turn_of_another() -> None:
    called = numbers([*[(YOU, 9.0)] * 3, *[(ME, 0.1)] * 3])
    assert called == [0, 3, 1, 4, 2, 5]


def test_the_late_stand_back_until_what_was_ordered_for_them_serves() -> None:
    assert longest_wait_s(60.0, 120.0) == 120.0
    assert longest_wait_s(60.0, 5.0) == 60.0


def test_batch_work_comes_after_all_that_a_person_waits_for() -> None:
    assert order([BATCH, BATCH, ME, YOU, BATCH, ME])[3:] == [BATCH] * 3


def test_two_callers_take_turns_however_many_one_has_sent() -> None:
    called = order([YOU] * 50 + [ME] * 3)
    assert called[:6].count(ME) == 3


def test_turns_are_shared_by_work_and_not_by_number() -> None:
    long, short = Ticket("long", work=300.0), Ticket("short", work=100.0)
    called = order([long] * 30 + [short] * 30)[:20]
    assert called.count(short) == pytest.approx(3 * called.count(long), abs=1)


def test_a_rest_saves_nothing_up() -> None:
    turns = Turns()
    order([YOU] * 100, turns)
    assert order([YOU] * 4 + [ME] * 4, turns)[:4].count(ME) == 2


def test_a_turn_that_came_to_nothing_does_not_count() -> None:
    turns = Turns()
    assert turns.next([ME, YOU], 0.0) == 0
    turns.back(ME)
    assert turns.next([ME, YOU], 0.0) == 0
    assert turns.next([ME, YOU], 0.0) == 1


def test_callers_who_are_owed_nothing_are_forgotten() -> None:
    turns = Turns()
    for n in range(5000):
        order([Ticket(str(n))], turns)
    assert len(turns._given) <= 1001


def test_alone_one_may_fill_the_room_and_another_still_finds_some() -> None:
    assert not is_full(crowd([YOU] * 9), YOU, 10)
    assert is_full(crowd([YOU] * 10), YOU, 10)
    assert not is_full(crowd([YOU] * 10 + [ME] * 4), ME, 10)
    assert is_full(crowd([YOU] * 10 + [ME] * 5), ME, 10)


def test_batch_work_fills_no_room_of_who_comes_before_it() -> None:
    assert not is_full(crowd([BATCH] * 50), YOU, 10)
    assert is_full(crowd([ME] * 5 + [BATCH] * 5), BATCH, 10)


tickets = st.builds(Ticket, st.sampled_from("abc"), st.booleans(), st.floats(1, 100))


@given(st.lists(tickets, max_size=200), st.integers(1, 20))
def test_never_more_than_twice_the_room_of_either_kind(asking: list[Ticket], most: int) -> None:
    inside: list[Ticket] = []
    for one in asking:
        if not is_full(crowd(inside), one, most):
            inside.append(one)
    for low in (False, True):
        # An equal part is rounded up.
        assert sum(one.low == low for one in inside) <= 2 * most + 3


@given(st.lists(tickets, max_size=60), tickets, st.floats(0, 80))
def test_who_comes_now_waits_for_some_of_those_and_itself(
    asking: list[Ticket], mine: Ticket, places: float
) -> None:
    before = ahead(crowd(asking), mine, places)
    assert before <= max(len(asking) + 1 - places, 1) + 1e-6
    assert (before <= 0) == (len(asking) + 1 <= places + 1e-9) or abs(before) < 1e-6


@given(st.lists(tickets, max_size=60), st.sampled_from("abc"), st.floats(0, 80))
def test_a_person_never_waits_longer_than_the_same_callers_batch_work(
    asking: list[Ticket], caller: str, places: float
) -> None:
    person, batch = Ticket(caller), Ticket(caller, low=True)
    assert ahead(crowd(asking), person, places) <= ahead(crowd(asking), batch, places) + 1e-6


def test_the_order_foretold_is_the_order_kept() -> None:
    waiting = [YOU] * 10 + [ME] * 2 + [BATCH] * 5
    expected = ahead(crowd(waiting), ME, 0)
    called = order([*waiting, ME])
    mine = [place for place, one in enumerate(called, 1) if one == ME][-1]
    assert expected == pytest.approx(mine, abs=1)


def test_who_is_late_already_does_not_stand_before_one_who_comes_now() -> None:
    waiting = crowd([ME] * 10 + [YOU] * 2)
    assert ahead(waiting, ME, 0, early=3) == 3 + 1 + 2
    assert ahead(waiting, ME, 0) == 10 + 1 + 2
    assert ahead(waiting, YOU, 0, early=0) == 1 + 1


@given(st.floats(0, 1e4), st.floats(0, 200), st.floats(0, 200))
def test_who_is_late_is_never_in_time_again(prompt: float, waited_s: float, more_s: float) -> None:
    ranks, mine = [Rank.IN_TIME, Rank.LATE, Rank.OVERDUE], Ticket(prompt=prompt)
    before = ranks.index(TARGET.rank(mine, waited_s))
    assert ranks.index(TARGET.rank(mine, waited_s + more_s)) >= before
