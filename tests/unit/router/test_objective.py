"""A knob, a ceiling, a share: each as a person would ask for it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.candidate import Candidate
from router.gain import Prediction
from router.objective import (
    Menu,
    NothingAffordable,
    Objective,
    Panel,
    Verifier,
    Window,
    decide,
)

CANDIDATES = [Candidate("small"), Candidate("large")]
MENU = Menu(flagships=frozenset({"large"}))


def predicted(
    small: float = 0.6,
    large: float = 0.9,
    costs: tuple[float, float] = (0.0001, 0.01),
    far: float = 0.5,
) -> Prediction:
    return Prediction(
        np.array([[small, large]]), np.full((1, 2), 0.05), np.array([costs]), np.array([far])
    )


def chosen(prediction: Prediction, objective: Objective, menu: Menu = MENU) -> tuple[str, ...]:
    return decide(prediction, 0, CANDIDATES, objective, menu).choice.models


def test_the_knob_goes_from_cheap_to_good() -> None:
    assert chosen(predicted(), Objective(quality=0.0)) == ("small",)
    assert chosen(predicted(), Objective(quality=1.0)) == ("large",)
    assert chosen(predicted(large=0.61), Objective(quality=0.5)) == ("small",)
    assert chosen(predicted(small=0.1), Objective(quality=0.6)) == ("large",)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_turning_the_knob_up_never_lowers_the_quality(
    small: float, large: float, one: float, other: float
) -> None:
    low, high = sorted((one, other))
    worse = decide(predicted(small, large), 0, CANDIDATES, Objective(quality=low))
    better = decide(predicted(small, large), 0, CANDIDATES, Objective(quality=high))
    assert better.choice.quality >= worse.choice.quality
    assert better.choice.cost >= worse.choice.cost


def test_nothing_over_the_ceiling_is_chosen() -> None:
    best = Objective(quality=1.0, ceiling=0.005)
    assert chosen(predicted(), best) == ("small",)
    with pytest.raises(NothingAffordable, match=r"the cheapest needs \$0\.000100"):
        chosen(predicted(), Objective(ceiling=0.00001))


def test_who_allows_what_the_cheapest_needs_gets_it() -> None:
    dear = predicted(costs=(0.00008212, 0.01))
    with pytest.raises(NothingAffordable, match=r"within \$0\.0000001: .* \$0\.000083") as raised:
        chosen(dear, Objective(ceiling=0.0000001))
    told = float(str(raised.value).rpartition("$")[2])
    assert chosen(dear, Objective(ceiling=told)) == ("small",)


def test_a_model_without_price_is_taken_to_be_dear_and_fits_no_ceiling() -> None:
    unpriced = predicted(costs=(0.0001, float("nan")))
    assert chosen(unpriced, Objective(quality=1.0, ceiling=1.0)) == ("small",)
    decision = decide(unpriced, 0, CANDIDATES, Objective(quality=1.0))
    assert not decision.choice.priced
    assert "no price" in decision.reason


def test_one_candidate_is_the_choice() -> None:
    one = Prediction(np.ones((1, 1)), np.ones((1, 1)), np.array([[np.nan]]), np.zeros(1))
    decision = decide(one, 0, CANDIDATES[:1], Objective(share=0.5), MENU)
    assert decision.choice.models == ("small",)
    assert "no flagships" in decision.reason
    assert "no share" not in decide(one, 0, CANDIDATES[:1], Objective(), MENU).reason


def test_a_cascade_where_checking_pays() -> None:
    menu = Menu(MENU.flagships, Verifier(catches=0.95, doubts=0.02))
    decision = decide(predicted(small=0.8), 0, CANDIDATES, Objective(quality=0.8), menu)
    assert decision.choice.kind == "cascade"
    assert decision.choice.models == ("small", "large")
    assert 0.0001 < decision.choice.cost < 0.01 < decision.choice.most
    blind = Menu(MENU.flagships, Verifier(catches=0.0, doubts=0.0))
    assert decide(predicted(), 0, CANDIDATES, Objective(quality=1.0), blind).choice.kind == "one"


def test_a_panel_where_only_quality_counts() -> None:
    menu = Menu(MENU.flagships, panels=(Panel(("small", "large")), Panel(("small", "absent"))))
    decision = decide(predicted(), 0, CANDIDATES, Objective(quality=1.0), menu)
    assert decision.choice.kind == "panel"
    assert len(decision.options) == 3


def test_far_away_only_single_models_are_trusted() -> None:
    menu = Menu(MENU.flagships, Verifier(), (Panel(("small", "large")),))
    decision = decide(predicted(far=2.0), 0, CANDIDATES, Objective(), menu)
    assert decision.far
    assert {option.kind for option in decision.options} == {"one"}
    assert "unlike anything seen" in decision.reason


@pytest.mark.parametrize("share", [0.1, 0.3, 0.8])
@pytest.mark.parametrize("shift", [0.0, 0.6])
def test_the_share_is_kept_when_traffic_changes(share: float, shift: float) -> None:
    generator, window, tokens = np.random.default_rng(1), Window(size=300), [0.0, 0.0]
    for number in range(1_500):
        large = 0.3 + generator.random() * 0.1 + (shift if number > 500 else 0.0)
        decision = decide(
            predicted(0.3, large), 0, CANDIDATES, Objective(share=share), MENU, window
        )
        called, used = decision.choice.models == ("large",), float(generator.integers(10, 1_000))
        window = window.after(decision.gain, used, used * called)
        if number >= 700:
            tokens[called] += used
    assert tokens[1] / sum(tokens) == pytest.approx(share, abs=0.05)
    assert len(window.gains) == 300


def test_the_share_is_kept_when_all_prompts_look_alike() -> None:
    window = Window(size=200)
    for _ in range(400):
        window = window.after(0.1, 100, 100 * window.calls(0.1, 0.25))
    assert window.realised == pytest.approx(0.25, abs=0.02)


def test_within_the_share_the_greatest_gains_are_served() -> None:
    window = Window()
    for number in range(100):
        window = window.after(number / 100, 10, 10 * (number >= 70))
    assert window.calls(0.9, 0.3)
    assert not window.calls(0.2, 0.3)
    assert not window.calls(0.9, 0.0)
    assert window.calls(0.0, 1.0)


def test_values_are_checked_where_they_enter() -> None:
    for broken in ({"quality": 1.1}, {"quality": float("nan")}, {"ceiling": -1.0}, {"share": 2.0}):
        with pytest.raises(ValueError, match="is "):
            Objective(**broken)
    with pytest.raises(ValueError, match="verifier"):
        Verifier(catches=2)
    with pytest.raises(ValueError, match="two models"):
        Panel(("one",))


def test_the_interval_stays_a_score() -> None:
    low, high = decide(predicted(large=0.99), 0, CANDIDATES, Objective(quality=1)).choice.interval
    assert 0 <= low < 0.99 < high <= 1
