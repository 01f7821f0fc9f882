"""The fusion's state machine: any order of arrivals, no models, and time as a number."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import BudgetExceeded, DeadlineExceeded, FusionError, Overloaded, Unavailable
from serve.fusion.contract import Analysis
from serve.fusion.engine import (
    Abandoned,
    Action,
    Answer,
    Answered,
    AskJudge,
    AskMember,
    GiveUp,
    Judged,
    JudgeFailed,
    MemberFailed,
    Prices,
    Run,
    Stop,
    Terms,
    Tick,
    Write,
    Written,
)

NOTHING = Analysis(
    consensus=(), contradictions=(), partial_coverage=(), unique_insights=(), blind_spots=()
)


def run(*names: str, **changes: Any) -> Run:
    """A run of panelists who all must answer within 100 seconds."""
    places = changes.pop("places", len(names))
    terms: dict[str, Any] = {"writer": "w", "quorum": places, "grace_s": 5.0, "member_s": 100.0}
    return Run(Terms(names, places, **(terms | changes)))


def kinds(actions: list[Action]) -> list[str]:
    return [type(action).__name__ for action in actions]


def test_all_members_are_asked_at_once() -> None:
    assert run("a", "b").start(7.0) == [AskMember(1, 0, 107.0), AskMember(2, 1, 107.0)]


def test_the_judge_gets_the_answers_in_the_panels_order_whatever_came_first() -> None:
    one = run("a", "b")
    one.start(0)
    assert one.on(Answered(2, "two"), 1) == []
    assert one.on(Answered(1, "one"), 2) == [
        AskJudge(3, (Answer("a", "one"), Answer("b", "two")), None)
    ]


def test_one_failure_does_not_fail_the_run() -> None:
    one = run("a", "b")
    one.start(0)
    one.on(MemberFailed(1, Unavailable("gone")), 1)
    assert one.on(Answered(2, "two"), 1) == [AskJudge(3, (Answer("b", "two"),), None)]
    assert [(failed.member, failed.error.message) for failed in one.failed] == [("a", "gone")]


def test_an_empty_answer_is_a_failure() -> None:
    one = run("a", "b")
    one.start(0)
    one.on(Answered(1, "  \n"), 0)
    one.on(Answered(2, "two"), 0)
    assert [failed.member for failed in one.failed] == ["a"]


def test_all_failing_gives_up_and_says_why() -> None:
    one = run("a", "b")
    one.start(0)
    one.on(MemberFailed(1, Unavailable("gone")), 0)
    [action] = one.on(MemberFailed(2, Unavailable("lost")), 0)
    assert isinstance(action, GiveUp)
    assert action.error.message == "all panel models failed (a: gone; b: lost)"
    assert action.error.status == 502


def test_a_panel_that_is_all_busy_says_so() -> None:
    one = run("a")
    one.start(0)
    [action] = one.on(MemberFailed(1, Overloaded("full", retry_after_s=3)), 0)
    assert isinstance(action, GiveUp)
    assert (action.error.status, action.error.retry_after_s) == (429, 3)


def test_a_judge_that_fails_leaves_the_raw_answers() -> None:
    one = run("a")
    one.start(0)
    one.on(Answered(1, "one"), 0)
    assert one.on(JudgeFailed(2, "judge_not_valid_json"), 0) == [
        Write(3, (Answer("a", "one"),), None, "judge_not_valid_json")
    ]


def test_without_places_the_writer_answers_by_itself() -> None:
    assert run().start(0) == [Write(1, (), None, None)]


# Time


def test_with_enough_answers_the_rest_has_a_grace_and_is_then_cancelled() -> None:
    one = run("a", "b", "c", quorum=2)
    one.start(0)
    one.on(Answered(1, "one"), 1.0)
    one.on(Answered(2, "two"), 2.0)
    assert one.wake_at == 7.0
    assert one.on(Tick(), 6.999) == []
    assert kinds(one.on(Tick(), 7.0)) == ["Stop", "AskJudge"]
    [late] = one.failed
    assert (late.member, late.left_out, late.error.status) == ("c", "late", 504)


def test_an_answer_within_the_grace_counts() -> None:
    one = run("a", "b", quorum=1)
    one.start(0)
    one.on(Answered(1, "one"), 1.0)
    [ask] = one.on(Answered(2, "two"), 5.9)
    assert isinstance(ask, AskJudge)
    assert len(ask.answers) == 2


def test_a_panelist_has_a_time_of_its_own() -> None:
    one = run("a", "b", member_s=3.0)
    one.start(10.0)
    one.on(Answered(1, "one"), 11.0)
    assert one.wake_at == 13.0
    assert kinds(one.on(Tick(), 13.0)) == ["Stop", "AskJudge"]
    assert isinstance(one.failed[0].error, DeadlineExceeded)


def test_the_panel_ends_at_60_percent_and_the_judge_at_80() -> None:
    one = run("a", "b", deadline=110.0)
    one.start(10.0)
    one.on(Answered(1, "one"), 12.0)
    assert one.wake_at == 70.0
    stop, ask = one.on(Tick(), 70.0)
    assert stop == Stop(2)
    assert isinstance(ask, AskJudge)
    assert (ask.deadline, one.wake_at) == (90.0, 90.0)
    assert one.on(Tick(), 90.0) == [
        Stop(3),
        Write(4, (Answer("a", "one"),), None, "judge_upstream_error"),
    ]


def test_a_panel_without_any_answer_is_waited_for_while_the_judges_time_lasts() -> None:
    one = run("a", "b", deadline=100.0)
    one.start(0.0)
    assert one.on(Tick(), 60.0) == []
    assert kinds(one.on(Answered(2, "at last"), 70.0)) == ["Stop", "AskJudge"]
    two = run("a", deadline=100.0)
    two.start(0.0)
    assert kinds(two.on(Tick(), 80.0)) == ["Stop", "GiveUp"]


# Candidates


def test_a_failed_place_goes_to_the_next_candidate() -> None:
    one = run("a", "b", "spare", places=2)
    one.start(0)
    assert one.on(MemberFailed(1, Unavailable("gone")), 1.0) == [AskMember(3, 2, 101.0)]
    one.on(Answered(3, "instead"), 2.0)
    [ask] = one.on(Answered(2, "two"), 3.0)
    assert isinstance(ask, AskJudge)
    assert ask.answers == (Answer("spare", "instead"), Answer("b", "two"))
    assert [failed.member for failed in one.failed] == ["a"]


def test_a_candidate_that_fails_makes_room_for_the_next() -> None:
    one = run("a", "spare", "last", places=1)
    one.start(0)
    one.on(MemberFailed(1, Unavailable("gone")), 0)
    assert one.on(MemberFailed(2, Unavailable("gone")), 0) == [AskMember(3, 2, 100.0)]
    assert kinds(one.on(MemberFailed(3, Unavailable("gone")), 0)) == ["GiveUp"]


# Layers


def test_a_second_layer_sees_the_answers_of_the_first() -> None:
    one = run("a", "b", layers=2)
    one.start(0)
    one.on(Answered(1, "one"), 0)
    before = (Answer("a", "one"), Answer("b", "two"))
    assert one.on(Answered(2, "two"), 1) == [
        AskMember(3, 0, 101.0, before),
        AskMember(4, 1, 101.0, before),
    ]
    one.on(Answered(4, "two, better"), 2)
    [ask] = one.on(MemberFailed(3, Unavailable("gone")), 3)
    assert isinstance(ask, AskJudge)
    assert ask.answers == (Answer("a", "one"), Answer("b", "two, better"))


# Money


PRICED = Prices(cap=100, members=(20, 20, 20), judge=30, writer=30)


def test_what_does_not_fit_under_the_cap_is_not_started_and_said() -> None:
    one = run("a", "b", "c", prices=PRICED)
    assert kinds(one.start(0)) == ["AskMember", "AskMember"]
    assert [(failed.member, failed.left_out) for failed in one.failed] == [("c", "cost_cap")]


def test_without_money_for_the_judge_the_panel_comes_first_and_the_writer_before_it() -> None:
    prices = Prices(cap=50, members=(20,), judge=30, writer=30)
    one = run("a", prices=prices)
    assert kinds(one.start(0)) == ["AskMember"]
    [write] = one.on(Answered(1, "one", cost=20), 0)
    assert isinstance(write, Write)
    assert write.judge_failure == "insufficient_credits"


def test_what_a_panelist_did_not_spend_is_there_for_the_judge() -> None:
    prices = Prices(cap=50, members=(20,), judge=15, writer=30)
    one = run("a", prices=prices)
    one.start(0)
    assert kinds(one.on(Answered(1, "one", cost=4), 0)) == ["AskJudge"]


@pytest.mark.parametrize("cap", [29, 30])
def test_a_cap_that_covers_no_panelist_ends_it_before_anything_is_spent(cap: int) -> None:
    one = run("a", prices=Prices(cap=cap, members=(20,), judge=30, writer=30))
    [action] = one.start(0)
    assert isinstance(action, GiveUp)
    assert isinstance(action.error, BudgetExceeded)


def test_a_cap_that_does_not_cover_the_answer_says_what_would() -> None:
    [action] = run("a", prices=Prices(cap=29, members=(1,), judge=1, writer=30)).start(0)
    assert isinstance(action, GiveUp)
    assert "may cost 0.00000003 USD" in action.error.message


def test_a_writer_without_a_price_is_named() -> None:
    [action] = run("a", prices=Prices(cap=100, members=(1,), judge=1, writer=None)).start(0)
    assert isinstance(action, GiveUp)
    assert isinstance(action.error, BudgetExceeded)
    assert "Model 'w', which writes the final answer, has no price" in action.error.message
    assert "models.w.price" in action.error.message


def test_who_has_no_price_is_left_out_under_a_cap_and_said_so() -> None:
    one = run("a", "b", prices=Prices(cap=100, members=(None, 1), judge=None, writer=1))
    [ask] = one.start(0)
    assert isinstance(ask, AskMember)
    assert [(failed.member, failed.left_out) for failed in one.failed] == [("a", "cost_cap")]
    assert "no price" in one.failed[0].error.message
    [write] = one.on(Answered(1, "two", cost=1), 0)
    assert isinstance(write, Write)
    assert write.judge_failure == "insufficient_credits"


def test_a_late_answer_is_only_money() -> None:
    one = run("a", "b", quorum=1, grace_s=0.0)
    one.start(0)
    assert kinds(one.on(Answered(1, "one", cost=5), 1)) == ["Stop", "AskJudge"]
    assert one.on(Answered(2, "late", cost=7), 2) == []
    assert (one.spent, one.answers) == (12, (Answer("a", "one"),))


# Any order of anything


class World:
    """What is under way outside: it does what it is told, late reports included."""

    def __init__(self, one: Run) -> None:
        self.run = one
        self.asked: dict[int, Action] = {}
        self.under_way: set[int] = set()
        self.ends: list[Action] = []

    def do(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Stop(ask):
                    assert ask in self.under_way, "it stops only what runs"
                    self.under_way.discard(ask)
                case GiveUp():
                    self.ends.append(action)
                case _:
                    assert action.ask not in self.asked, "every call has a number of its own"
                    self.asked[action.ask] = action
                    self.under_way.add(action.ask)
                    if isinstance(action, Write):
                        self.ends.append(action)


def any_run(chance: Random, deadline: float | None) -> Run:
    places, spare = chance.randint(1, 4), chance.randint(0, 3)
    worst = tuple(chance.randint(0, 40) for _ in range(places + spare))
    prices = Prices(chance.randint(1, 200), worst, judge=20, writer=20)
    return Run(
        Terms(
            names=tuple(f"m{number}" for number in range(places + spare)),
            places=places,
            writer="w",
            quorum=chance.randint(1, places),
            grace_s=chance.choice([0.0, 1.0, 50.0]),
            member_s=chance.choice([1.0, 30.0]),
            deadline=deadline,
            layers=chance.randint(1, 3),
            prices=chance.choice([prices, None]),
        )
    )


def report(ask: int, action: Action, one: Run, chance: Random) -> Any:
    """What may be reported of this call: any outcome, at any cost that is not above its worst."""
    prices = one.terms.prices
    match action:
        case AskMember(who=who):
            cost = chance.randint(0, prices.members[who]) if prices else 3
            said = chance.choice(["yes", "yes", "", None])
            if said is None:
                return MemberFailed(ask, FusionError("no"), cost)
            return Answered(ask, said, cost=cost)
        case AskJudge():
            cost = chance.randint(0, 20)
            fails = JudgeFailed(ask, "judge_not_valid_json", cost)
            return chance.choice([fails, Judged(ask, NOTHING, cost=cost)])
    return Written(ask, chance.randint(0, 20))


@settings(max_examples=300)
@given(st.integers(0, 2**32))
def test_every_run_ends_its_money_adds_up_and_nothing_leaks(seed: int) -> None:
    chance = Random(seed)
    one = any_run(chance, chance.choice([None, 40.0]))
    world, now, reported = World(one), 0.0, 0
    world.do(one.start(now))
    settled: set[int] = set()
    while waiting := sorted(world.asked.keys() - settled):
        now += chance.choice([0.0, 0.3, 5.0])
        luck = chance.random()
        if luck < 0.2:
            world.do(one.on(Tick(), now))
            continue
        if luck < 0.23:
            world.do(one.on(Abandoned(), now))
            continue
        ask = chance.choice(waiting)
        event = report(ask, world.asked[ask], one, chance)
        settled.add(ask)
        world.under_way.discard(ask)
        reported += event.cost
        world.do(one.on(event, now))
        assert one.open == world.under_way, "it waits for exactly what runs"
        if one.terms.prices:
            assert one.spent + sum(one.reserved.values()) <= one.terms.prices.cap
    assert one.phase == "ended"
    assert len(world.ends) <= 1
    assert (one.spent, one.reserved) == (reported, {})
    assert not world.under_way


@given(st.integers(0, 2**32))
def test_time_alone_ends_every_run_that_has_a_deadline(seed: int) -> None:
    chance = Random(seed)
    one = any_run(chance, deadline=20.0)
    world = World(one)
    world.do(one.start(0.0))
    for ask in sorted(one.open):
        if chance.random() < 0.5 and ask in one.open:
            world.under_way.discard(ask)
            world.do(one.on(report(ask, world.asked[ask], one, chance), 0.1))
    for _ in range(30):
        if (at := one.wake_at) is None:
            break
        world.do(one.on(Tick(), at))
    assert one.phase in ("writing", "ended")
    assert len(world.ends) == 1
