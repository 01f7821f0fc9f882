"""The figures, on cases small enough to know by heart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.evaluate import apgr, bootstrap, constant_mixture, cpt, recovered_gap, sweep, task_gain

# Ten prompts; the strong model is better on the last five.
WEAK = np.array([1.0] * 5 + [0.0] * 5)
STRONG = np.ones(10)
ORACLE = STRONG - WEAK


def test_the_recovered_gap_of_an_oracle() -> None:
    assert cpt(ORACLE, WEAK, STRONG, 0.5) == pytest.approx(0.25)
    assert cpt(ORACLE, WEAK, STRONG, 0.8) == pytest.approx(0.4)
    assert apgr(ORACLE, WEAK, STRONG) == pytest.approx(0.75)


def test_a_constant_and_a_reversed_ranking() -> None:
    assert apgr(np.zeros(10), WEAK, STRONG) == pytest.approx(0.5)
    assert cpt(np.zeros(10), WEAK, STRONG, 0.8) == pytest.approx(0.8)
    assert apgr(-ORACLE, WEAK, STRONG) == pytest.approx(0.25)


@given(st.lists(st.floats(-1, 1), min_size=10, max_size=10))
def test_the_curve_runs_from_none_to_all(gain: list[float]) -> None:
    share, recovered = recovered_gap(np.array(gain), WEAK, STRONG)
    assert (share[0], recovered[0], share[-1], recovered[-1]) == (0, 0, 1, 1)
    assert (np.diff(share) >= 0).all()
    assert 0.2 < apgr(np.array(gain), WEAK, STRONG) < 0.8


def test_without_a_gap_there_is_no_figure() -> None:
    with pytest.raises(ValueError, match="no better"):
        apgr(ORACLE, STRONG, STRONG)


QUALITY = np.array([[0.2, 0.9], [0.9, 0.9], [0.2, 0.9], [0.9, 0.9]])
COST = np.array([[1.0, 10.0]] * 4)


def test_a_router_that_knows_beats_the_mixture_of_constants() -> None:
    router = sweep(QUALITY, COST, QUALITY, COST).curve()
    constants = constant_mixture(QUALITY, COST)
    assert router.quality_at(5.5) == pytest.approx(0.9)
    assert constants.quality_at(5.5) == pytest.approx(0.725)
    assert router.cost_of(0.9) == pytest.approx(5.5)
    assert router.cost_of(0.95) is None
    assert router.area(1, 10) > constants.area(1, 10)


def test_a_model_that_is_worse_and_dearer_is_in_no_mixture() -> None:
    quality = np.array([[0.5, 0.6, 0.55, 0.9]])
    mixture = constant_mixture(quality, np.array([[1.0, 2.0, 3.0, 4.0]]))
    assert mixture.cost.tolist() == [1.0, 4.0]
    assert mixture.quality_at(2.5) == pytest.approx(0.7)


def test_the_bootstrap_surrounds_the_figure() -> None:
    scores = np.random.default_rng(0).random(400)
    found = bootstrap(lambda at: {"mean": float(scores[at].mean()), "none": None}, 400)["mean"]
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high  # type: ignore[operator]
    assert bootstrap(lambda at: {"none": None}, 5)["none"].low is None


def test_a_task_label_tells_its_mean_and_not_the_row() -> None:
    difference = np.array([1.0, 0.0] * 50)
    told = task_gain(difference, ["hard", "easy"] * 50)
    assert told[::2].min() > told[1::2].max()
    alone = task_gain(difference, [str(number) for number in range(100)])
    assert np.allclose(alone, 0.5)
