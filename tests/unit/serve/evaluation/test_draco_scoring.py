"""DRACO's scores, each computed by hand beside it."""

from __future__ import annotations

import pytest

from serve.evaluation.draco.scoring import Judged, ScoringError, Verdict, score_run, score_runs


def judged(*pairs: tuple[float, Verdict | None]) -> list[Judged]:
    return [Judged(f"c{number}", *pair) for number, pair in enumerate(pairs)]


def test_what_is_met_over_what_could_be() -> None:
    run = score_run(judged((10, "MET"), (5, "UNMET"), (5, "MET")))
    assert run.raw_score == 15
    assert run.max_score == 20
    assert run.normalized_score == 75  # 100 * 15 / 20
    assert run.pass_rate == pytest.approx(2 / 3)


def test_a_negative_criterion_that_is_met_costs_its_weight_and_fails() -> None:
    run = score_run(judged((10, "MET"), (10, "MET"), (-5, "MET"), (-50, "UNMET")))
    assert run.raw_score == 15  # 10 + 10 - 5; the one that is absent costs nothing
    assert run.max_score == 20  # negative weights are not in it
    assert run.normalized_score == 75
    assert run.pass_rate == 0.75  # two good ones there, one bad one not


def test_the_score_stays_between_its_ends_and_the_raw_sum_does_not() -> None:
    low = score_run(judged((20, "MET"), (-500, "MET")))
    assert (low.raw_score, low.normalized_score, low.pass_rate) == (-480, 0, 0.5)
    high = score_run(judged((20, "MET"), (-500, "UNMET")))
    assert (high.normalized_score, high.pass_rate) == (100, 1)


def test_a_dropped_criterion_leaves_every_sum() -> None:
    run = score_run(judged((10, "MET"), (10, None), (5, "UNMET"), (-5, None)))
    assert run.max_score == 15  # not 25
    assert run.normalized_score == pytest.approx(100 * 10 / 15)
    assert run.pass_rate == 0.5
    assert (run.criteria, run.dropped) == (2, 2)


def test_a_weight_of_nothing_never_passes() -> None:
    assert score_run(judged((1, "MET"), (0, "MET"))).pass_rate == 0.5
    assert score_run(judged((1, "MET"), (0, "UNMET"))).pass_rate == 0.5


def test_three_runs_have_a_mean_and_the_spread_of_the_population() -> None:
    task = score_runs(
        [
            judged((10, "MET"), (10, "MET")),  # 100
            judged((10, "MET"), (10, "UNMET")),  # 50
            judged((10, "MET"), (10, None)),  # 100, of 10
        ]
    )
    assert task.normalized_score == pytest.approx(250 / 3)
    assert task.pass_rate == pytest.approx((1 + 0.5 + 1) / 3)
    assert task.max_score == pytest.approx(50 / 3)
    assert task.std == pytest.approx(23.570226)  # sqrt((2 * 16.67^2 + 33.33^2) / 3)
    assert [run.normalized_score for run in task.runs] == [100, 50, 100]


def test_small_weights_are_summed_exactly() -> None:
    assert score_run(judged(*[(0.1, "MET")] * 10)).max_score == 1.0


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        ([], "there are no runs"),
        ([judged((10, "MET")), judged((-1, "UNMET"))], "run 2: no criterion has a positive weight"),
        ([judged((10, None), (-1, "MET"))], "once 1 without a verdict are left out"),
        ([[]], "run 1: no criterion has a positive weight"),
        (
            [[Judged("same", 1, "MET"), Judged("same", 1, "MET")]],
            "run 1: the criterion 'same' stands",
        ),
    ],
)
def test_what_has_no_score_says_why(runs: list[list[Judged]], said: str) -> None:
    with pytest.raises(ScoringError, match=said):
        score_runs(runs)
