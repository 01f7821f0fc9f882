"""A batch's money: caps that never pass the budget, and when it has ended."""

from __future__ import annotations

import random

from serve.jobs.purse import Purse, projected, seconds_left


def test_without_a_budget_there_are_no_caps() -> None:
    purse = Purse(None)
    assert purse.affords(64) == 64
    assert purse.take(64, 128) is None
    purse.returned(None, 64, [10] * 64)
    assert not purse.is_empty


def test_a_few_show_what_a_row_costs_before_more_may_leave() -> None:
    purse = Purse(1000)
    assert purse.affords(8) == 4
    cap = purse.take(8, 16)
    assert cap == 62
    assert purse.affords(8) == 0
    purse.returned(cap, 8, [10] * 8)
    assert purse.affords(100) == 92


def test_the_last_row_goes_alone_with_all_that_is_left() -> None:
    purse = Purse(100)
    purse.returned(purse.take(1, 1), 1, [70])
    assert purse.affords(8) == 1
    assert purse.alone
    assert purse.take(1, 64) == 30


def test_a_cap_that_was_refused_is_doubled_until_it_is_enough() -> None:
    purse = Purse(1000)
    purse.returned(purse.take(4, 64), 4, [10] * 4)
    cap = purse.take(4, 64)
    assert cap == 15
    purse.refused(cap)
    purse.returned(cap, 4, [])
    assert purse.affords(64) == 960 // 31
    assert purse.take(4, 64) == 31


def test_a_dear_row_among_others_is_asked_with_more_in_the_next_round_alone() -> None:
    purse = Purse(1000)
    purse.returned(purse.take(4, 64), 4, [10] * 4)
    cap = purse.take(4, 64)
    assert cap is not None
    purse.refused(cap)
    purse.returned(cap, 4, [10] * 3)
    assert purse.affords(64) == 64
    purse.new_round()
    assert purse.each == 2 * cap + 1


def test_a_row_with_all_that_is_left_is_known() -> None:
    purse = Purse(100)
    cap = purse.take(2, 2)
    assert not purse.is_all(cap)
    purse.returned(cap, 2, [20, 20])
    assert purse.is_all(purse.take(1, 1))
    assert Purse(None).is_all(None)


def test_what_the_ledger_knows_of_counts_once() -> None:
    purse = Purse(100)
    purse.billed = 30
    assert purse.left == 70
    purse.returned(purse.take(1, 1), 1, [30])
    assert purse.left == 70
    purse.billed = 100
    assert purse.is_empty


def test_whatever_rows_cost_within_their_caps_the_budget_holds() -> None:
    spread = random.Random(1)
    for budget in (1, 99, 1000, 100_000):
        purse, out = Purse(budget), []
        for _ in range(300):
            if out and spread.random() < 0.5:
                cap, rows = out.pop()
                purse.returned(cap, rows, [spread.randint(0, cap) for _ in range(rows)])
            elif rows := purse.affords(spread.randint(1, 8)):
                cap = purse.take(rows, 16)
                assert cap is not None
                out.append((cap, rows))
            assert purse.spent + sum(cap * rows for cap, rows in out) <= budget


def test_projections() -> None:
    assert projected(spent=10, done=0, rows=5) is None
    assert projected(spent=10, done=2, rows=5) == 25
    assert seconds_left(done=0, rows=5, seconds=3.0) is None
    assert seconds_left(done=2, rows=5, seconds=4.0) == 6.0
