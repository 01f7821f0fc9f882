"""What is learned on line: it overrules the weights, forgets slowly, and survives a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from router.candidate import Candidate
from router.cascade import Signs, needed
from router.gain import GainModel
from router.health import Health
from router.learner import Learner, Lesson
from router.live import DAY_S, Answered, Heard, Judged, LiveRouter, Looked, Question, blind
from router.objective import Menu, Objective

CANDIDATES = (Candidate("small", cost=0.0001), Candidate("large", cost=0.02))
HARD, EASY = "What is 31 times 44, plus 12?", "Name a bird, no 31"


@pytest.fixture
def live(model: GainModel) -> LiveRouter:
    return LiveRouter(model)


def ask(prompt: str, **objective: float) -> Question:
    return Question(prompt, CANDIDATES, Objective(**objective), Menu(frozenset({"large"})))  # type: ignore[arg-type]


def teach(live: LiveRouter, prompt: str, model: str, score: float, times: int) -> None:
    for _ in range(times):
        plan = live.decide(ask(prompt), 0.0, 0.99)
        lesson = Lesson(model, plan.context, plan.eye, plan.expected[model], score)
        live.fold(Judged(lesson, plan.predicted[model]))


def test_two_hundred_observations_overrule_the_weights(live: LiveRouter) -> None:
    question = ask(HARD, quality=0.6)
    assert live.decide(question, 0.0, 0.99).decision.choice.models == ("large",)
    teach(live, HARD, "small", 1.0, 200)
    plan = live.decide(question, 0.0, 0.99)
    assert plan.decision.choice.models == ("small",)
    assert plan.predicted["small"] > 0.85


def test_a_new_model_is_known_after_a_few_answers(live: LiveRouter) -> None:
    new = Candidate("new", strength=0.5, cost=0.001)
    question = Question(HARD, (*CANDIDATES, new))
    before = live.decide(question, 0.0, 0.99)
    for _ in range(10):
        live.fold(
            Judged(
                Lesson("new", before.context, before.eye, before.expected["new"], 1.0, known=False),
                0.5,
            )
        )
    after = live.decide(question, 0.0, 0.99)
    assert after.predicted["new"] > before.predicted["new"] + 0.2


def test_lessons_are_about_prompts_like_these(live: LiveRouter) -> None:
    before = [live.decide(ask(prompt), 0.0, 0.99).predicted["small"] for prompt in (HARD, EASY)]
    teach(live, HARD, "small", 1.0, 40)
    after = [live.decide(ask(prompt), 0.0, 0.99).predicted["small"] for prompt in (HARD, EASY)]
    assert after[0] - before[0] > 2 * abs(after[1] - before[1])


@pytest.mark.parametrize("prompt", ["", "x " * 500_000, "这是一个没有空格的句子吗？", "\x00"])
def test_any_prompt_gets_a_choice(live: LiveRouter, prompt: str) -> None:
    plan = live.decide(ask(prompt, quality=0.5), 0.0, 0.99)
    assert plan.decision.choice.models[-1] in {"small", "large"}
    assert all(0.0 <= one <= 1.0 for one in plan.predicted.values())


def test_a_checkpoint_keeps_everything(live: LiveRouter, model: GainModel) -> None:
    teach(live, HARD, "small", 1.0, 20)
    live.fold(Answered(5 * DAY_S, 0.2, 100, 40, share=0.3, extra_usd=0.01))
    live.fold(Looked({"valid": False}, 0.0))
    live.fold(Heard("small", -1.0))
    again = LiveRouter(model)
    again.restore(json.loads(json.dumps(live.state())))
    one, other = (router.decide(ask(HARD), 0.0, 0.99) for router in (live, again))
    assert other.predicted == pytest.approx(one.predicted, abs=1e-5)
    assert again.window == live.window
    assert again.explored_usd == 0.01
    assert again.signs.tallies["valid"] == live.signs.tallies["valid"]
    assert again.signs.usual == live.signs.usual
    assert again.health.judgements == 20


def test_a_state_of_before_likelihoods_were_heard(live: LiveRouter) -> None:
    state = live.state()
    del state["usual"]
    live.fold(Heard("small", -1.0))
    live.restore(state)
    assert live.signs.usual == {}


def test_another_eye_keeps_the_means_alone() -> None:
    learner = Learner("mine", 3)
    for _ in range(50):
        learner.learn(Lesson("m", np.ones(3, np.float32), "mine", 0.2, 1.0))
    other = Learner.from_json(learner.to_json(), "other", 7)
    flat = np.zeros((1, 7), np.float32)
    quality, spread = other.corrected(
        ["m", "unheard of"], flat, np.array([[0.2, 0.2]]), np.array([[0.1, 0.1]])
    )
    assert quality[0, 0] > 0.6
    assert (quality[0, 1], spread[0, 1]) == (0.2, 0.1)


def test_the_window_holds_the_share_of_flagship_tokens(live: LiveRouter) -> None:
    generator = np.random.default_rng(0)
    used = total = 0
    for turn in range(800):
        number = generator.integers(1_000)
        prompt = f"What is {number} times 3?" if generator.random() < 0.5 else f"Name bird {number}"
        plan = live.decide(ask(prompt, share=0.3), 0.0, 0.99)
        tokens, flagship = 100, "large" in plan.decision.choice.models
        live.fold(Answered(0.0, plan.decision.gain, tokens, tokens * flagship, 0.3))
        if turn >= 300:
            used, total = used + flagship, total + 1
    assert used / total == pytest.approx(0.3, abs=0.04)


def test_exploring_stops_where_the_days_budget_does(live: LiveRouter) -> None:
    question = replace(ask(EASY, quality=0.3), explore=0.2, explore_usd=0.02)
    plan = live.decide(question, 0.0, 0.1)
    assert plan.explored
    assert plan.propensity == pytest.approx(0.2)
    live.fold(Answered(0.0, 0.0, 10, 10, extra_usd=plan.extra_usd))
    assert not live.decide(question, 0.0, 0.1).explored
    assert live.decide(question, DAY_S + 1, 0.1).explored
    assert not live.decide(replace(question, objective=Objective(quality=1.0)), DAY_S, 0.1).explored


def test_signs_move_the_belief_both_ways() -> None:
    signs = Signs()
    assert signs.belief(0.5, {"valid": False}) < 0.3 < 0.5 < signs.belief(0.5, {"valid": True})
    assert signs.belief(0.5, {"of a later version": True}) == pytest.approx(0.5)
    for _ in range(100):  # a sign that tells nothing here is found out
        for truth in (0.0, 1.0):
            signs = signs.after({"agrees": True}, truth)
    assert signs.belief(0.5, {"agrees": True}) == pytest.approx(0.5, abs=0.05)


def test_confident_is_what_is_usual_for_the_model_itself() -> None:
    signs = Signs()
    assert signs.confident("sure", -0.2) and not signs.confident("sure", -0.9)
    for turn in range(400):
        signs = signs.heard("sure", -0.02 - 0.02 * (turn % 2)).heard("vague", -1.5 + turn % 2)
    assert signs.confident("sure", -0.02) and not signs.confident("sure", -0.2)
    assert signs.confident("vague", -0.9) and not signs.confident("vague", -1.2)


def test_the_dear_model_is_worth_asking_below_a_belief() -> None:
    assert needed(0.9, 0.01, Objective(quality=1.0)) == 0.9
    assert needed(0.9, 0.01, Objective(quality=0.6)) == pytest.approx(0.8, abs=0.01)
    assert needed(0.9, 0.01, Objective(quality=0.0)) == 0.0


def test_health_of_a_router_that_is_right_and_of_one_that_is_not() -> None:
    good = bad = Health()
    for number in range(200):
        score = float(number % 2)
        good = good.judged("m", score, 0.5, 1.0)
        bad = bad.judged("m", 0.0, 0.9, 0.9)
        bad = bad.judged("other", 1.0, 0.9, 0.1)
    assert good.calibration_error is not None and good.calibration_error < 0.01
    assert bad.calibration_error is not None and bad.calibration_error > 0.3
    assert good.regret == 0.0
    assert bad.regret is not None and bad.regret > 0.4


BROKEN: dict[str, Callable[[dict[str, Any]], object]] = {
    "a window's size in words": lambda s: s["window"].update(size="x"),
    "a window of no requests": lambda s: s["window"].update(size=0),
    "gains in words": lambda s: s["window"].update(gains=["a"], tokens=[1.0], flagship=[0.0]),
    "gains without tokens": lambda s: s["window"].update(gains=[0.1]),
    "tokens without end": lambda s: s["window"].update(gains=[0], tokens=[1e400], flagship=[0]),
    "more of flagships than of all": lambda s: s["window"].update(
        gains=[0.1], tokens=[1.0], flagship=[2.0]
    ),
    "a tally below nothing": lambda s: s["signs"]["valid"].update(right=-1.0),
    "more shown than there were": lambda s: s["signs"]["valid"].update(wrong_shown=1e9),
    "a bin in words": lambda s: s["health"]["bins"].__setitem__(0, ["a", 0, 0]),
    "answers below nothing": lambda s: s["health"].update(answers=-3),
    "a day without end": lambda s: s.update(day=float("inf")),
    "a day that never comes": lambda s: s.update(day=10**400),
    "dollars that are no number": lambda s: s.update(explored_usd=float("nan")),
    "a width beyond all memory": lambda s: s["learner"].update(width=10**7),
    "a width below nothing": lambda s: s["learner"].update(width=-5),
    "lessons below nothing": lambda s: s["learner"]["arms"]["small"].update(lessons=-30.0),
    "a likelihood in words": lambda s: s.update(usual={"small": ["x", 1]}),
    "a likelihood that is true": lambda s: s.update(usual={"small": [True, 1]}),
}


@pytest.mark.parametrize("damage", BROKEN.values(), ids=BROKEN.keys())
def test_a_state_that_would_break_the_router_is_refused(
    live: LiveRouter, damage: Callable[[dict[str, Any]], object]
) -> None:
    teach(live, HARD, "small", 1.0, 3)
    before = live.state()
    state = json.loads(json.dumps(before))
    damage(state)
    with pytest.raises(ValueError):
        live.restore(state)
    assert live.state() == before


def test_lessons_that_no_lessons_sum_to_are_refused(live: LiveRouter) -> None:
    teach(live, HARD, "small", 1.0, 3)
    state = live.state()
    learner = Learner("mine", 1)
    learner.learn(Lesson("small", np.ones(1, np.float32), "mine", 0.5, 1.0))
    learner._arms["small"].square[0, 0] = -1_000.0
    with pytest.raises(ValueError, match="not a learner's state"):
        live.restore({**state, "learner": learner.to_json()})


def test_a_model_that_was_not_heard_of_for_long_says_nothing_of_regret() -> None:
    state = json.loads(json.dumps(asdict(Health().judged("m", 0.5, 0.5, 1.0))))
    state["models"]["gone"] = [0, 0]
    assert Health.from_json(state).regret == 0.0


def test_what_plans_will_cost_is_of_the_days_budget_before_they_are_answered(
    live: LiveRouter,
) -> None:
    question = replace(ask(EASY, quality=0.3), explore=0.2, explore_usd=0.03)
    tried = 0
    for _ in range(10):
        plan = live.decide(question, 0.0, 0.1)
        live.promise(plan, 0.0)
        tried += plan.explored
    assert tried == 2  # each costs a bit more than a cent beyond the best
    live.fold(Answered(0.0, 0.0, 10, 10, extra_usd=plan.extra_usd))
    assert not live.decide(question, 0.0, 0.1).explored
    assert live.decide(question, DAY_S + 1, 0.1).explored


def test_an_answer_counts_once_of_what_was_promised(live: LiveRouter) -> None:
    question = replace(ask(EASY, quality=0.3), explore=0.2, explore_usd=0.03)
    for _ in range(2):
        plan = live.decide(question, 0.0, 0.1)
        assert plan.explored
        live.promise(plan, 0.0)
        live.fold(Answered(0.0, 0.0, 10, 10, extra_usd=plan.extra_usd))


def test_what_was_chosen_blindly_teaches_nothing(live: LiveRouter) -> None:
    plan = blind(ask(EASY))
    before = live.state()
    lesson = Lesson("small", plan.context, plan.eye, plan.expected["small"], 1.0, known=False)
    live.fold(Judged(lesson, plan.predicted["small"]))
    assert live.state() == before
