"""The fusion's state machine: any order of arrivals, no models, no time."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import FusionError, Unavailable
from models.messages import Completion, assistant
from serve.fusion.contract import Analysis
from serve.fusion.engine import (
    Answer,
    Answered,
    AskJudge,
    AskMember,
    GiveUp,
    Judged,
    JudgeFailed,
    MemberFailed,
    Run,
    Write,
)

NOTHING = Analysis(
    consensus=(), contradictions=(), partial_coverage=(), unique_insights=(), blind_spots=()
)


def said(text: str) -> Completion:
    return Completion("m", assistant(text))


def test_all_members_are_asked_at_once() -> None:
    assert Run(("a", "b", "c")).start() == [AskMember(0), AskMember(1), AskMember(2)]


def test_the_judge_gets_the_answers_in_the_panels_order_whatever_came_first() -> None:
    run = Run(("a", "b"))
    run.start()
    assert run.on(Answered(1, said("two"))) == []
    assert run.on(Answered(0, said("one"))) == [AskJudge((Answer("a", "one"), Answer("b", "two")))]


def test_one_failure_does_not_fail_the_run() -> None:
    run = Run(("a", "b"))
    run.start()
    run.on(MemberFailed(0, Unavailable("gone")))
    assert run.on(Answered(1, said("two"))) == [AskJudge((Answer("b", "two"),))]
    assert [(one.member, one.error.message) for one in run.failed] == [("a", "gone")]


def test_an_empty_answer_is_a_failure() -> None:
    run = Run(("a", "b"))
    run.start()
    run.on(Answered(0, said("  \n")))
    run.on(Answered(1, said("two")))
    assert [one.member for one in run.failed] == ["a"]


def test_all_failing_gives_up_and_says_why() -> None:
    run = Run(("a", "b"))
    run.start()
    run.on(MemberFailed(0, Unavailable("gone")))
    [action] = run.on(MemberFailed(1, Unavailable("lost")))
    assert isinstance(action, GiveUp)
    assert action.error.message == "all panel models failed (a: gone; b: lost)"
    assert action.error.status == 502


def test_a_judge_that_fails_leaves_the_raw_answers() -> None:
    run = Run(("a",))
    run.start()
    run.on(Answered(0, said("one")))
    assert run.on(JudgeFailed("judge_not_valid_json")) == [
        Write((Answer("a", "one"),), None, "judge_not_valid_json")
    ]


def test_what_cannot_happen_now_is_refused() -> None:
    run = Run(("a", "b"))
    with pytest.raises(ValueError, match="while new"):
        run.on(Answered(0, said("early")))
    run.start()
    run.on(Answered(0, said("one")))
    with pytest.raises(ValueError, match="not being waited for"):
        run.on(Answered(0, said("again")))
    with pytest.raises(ValueError, match="while asking"):
        run.on(Judged(NOTHING))


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.booleans(), st.randoms())
def test_every_run_ends_in_any_order(
    works: list[bool], judge_works: bool, chance: random.Random
) -> None:
    run = Run(tuple(f"m{index}" for index in range(len(works))))
    waiting = [action.index for action in run.start() if isinstance(action, AskMember)]
    chance.shuffle(waiting)
    actions: list[object] = []
    for index in waiting:
        assert actions == []
        failed = MemberFailed(index, FusionError("no"))
        actions = list(run.on(Answered(index, said("yes")) if works[index] else failed))
    if any(works):
        assert [type(action) for action in actions] == [AskJudge]
        actions = list(run.on(Judged(NOTHING) if judge_works else JudgeFailed("unexpected_error")))
        assert [type(action) for action in actions] == [Write]
    else:
        assert [type(action) for action in actions] == [GiveUp]
    assert len(run.answers) == sum(works)
    assert len(run.failed) == len(works) - sum(works)
