"""What a judge's comparison says of each panelist."""

from __future__ import annotations

from typing import Any

import pytest

from serve.auto.analysis import scores

MEMBERS = {"a": "small", "b": "large"}


def analysis(**points: Any) -> dict[str, Any]:
    keys = ("consensus", "contradictions", "partial_coverage", "unique_insights", "blind_spots")
    return {"analysis": {key: points.get(key, []) for key in keys}}


def against(*sides: str) -> dict[str, Any]:
    return {"topic": "t", "stances": [{"model": side, "stance": side} for side in sides]}


def test_who_agrees_with_all_is_believed() -> None:
    assert scores(analysis(consensus=["x", "y"]), MEMBERS) == {"small": 1.0, "large": 1.0}


def test_one_side_of_a_contradiction_is_right_at_most() -> None:
    told = analysis(consensus=["x"], contradictions=[against("a", "b")])
    assert scores(told, MEMBERS) == {"small": 0.75, "large": 0.75}
    three = MEMBERS | {"c": "third"}
    told = analysis(consensus=["x"], contradictions=[against("a", "b")])
    assert scores(told, three)["third"] == 1.0


def test_what_a_panelist_left_out_or_found_alone_counts() -> None:
    told = analysis(
        consensus=["x"],
        partial_coverage=[{"models": ["b"], "point": "p"}],
        unique_insights=[{"model": "b", "insight": "i"}],
    )
    assert scores(told, MEMBERS) == {"small": 0.5, "large": 1.0}


def test_the_best_of_all_has_a_point_more() -> None:
    assert scores(analysis(consensus=["x"]) | {"best": "b"}, MEMBERS) == {
        "small": 0.5,
        "large": 1.0,
    }


def test_a_model_that_was_asked_twice_gets_the_mean() -> None:
    told = analysis(consensus=["x"], unique_insights=[{"model": "a#2", "insight": "i"}])
    told["best"] = "a"
    assert scores(told, {"a": "small", "a#2": "small"}) == {"small": pytest.approx(5 / 6)}


@pytest.mark.parametrize(
    "told",
    [{}, {"analysis": None}, analysis(), analysis(contradictions=[against("nobody", "no one")])],
)
def test_a_judge_that_says_nothing_of_anybody_teaches_nothing(told: dict[str, Any]) -> None:
    assert scores(told, MEMBERS) == {}
