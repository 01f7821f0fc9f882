"""Whose turn it is, who may not join, and how many come before."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.workforce.turns import Ticket, Turns, ahead, crowd, is_full

ME, YOU = Ticket("me"), Ticket("you")
BATCH = Ticket("you", low=True)


def order(waiting: list[Ticket], turns: Turns | None = None) -> list[Ticket]:
    """As they are called, one after the other."""
    turns, left = turns or Turns(), list(waiting)
    return [left.pop(turns.next(left)) for _ in waiting]


def test_of_one_caller_the_oldest_comes_first() -> None:
    waiting = [Ticket("me", work=work) for work in (3.0, 1.0, 2.0)]
    assert order(waiting) == waiting


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
    assert turns.next([ME, YOU]) == 0
    turns.back(ME)
    assert turns.next([ME, YOU]) == 0
    assert turns.next([ME, YOU]) == 1


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
