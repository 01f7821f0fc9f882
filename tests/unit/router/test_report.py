"""`fusion router eval` as a function: rows in, one object of figures out."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from router.data import DataError, Outcome, Row
from router.gain import GainModel
from router.report import evaluate


def renamed(rows: list[Row], names: dict[str, str], cost: bool = True) -> list[Row]:
    return [
        Row(
            row.prompt,
            {names[m]: Outcome(o.score, o.cost if cost else None) for m, o in row.outcomes.items()},
            row.task,
        )
        for row in rows
    ]


def test_two_models_with_costs(model: GainModel, rows: list[Row]) -> None:
    found = json.loads(json.dumps(evaluate(model, rows[:60]).as_json()))
    assert found["n"] == 60
    assert found["models"] == ["small", "large"]
    assert 0.6 < found["apgr"] <= found["baselines"]["oracle"] + 0.01
    assert found["cpt50"] < found["cpt80"] < 0.8
    assert set(found["baselines"]) >= {"random", "prompt_length", "best_constant", "oracle"}
    assert found["baselines"]["best_constant"] == pytest.approx(0.5)
    low, high = found["intervals"]["apgr"]
    assert low <= found["apgr"] <= high
    assert {"cost", "quality"} == set(found["curve"][0])
    assert {"cost", "quality", "router_quality_at_cost"} == set(found["constants"]["small"])
    assert "cost_ratio_at_best_quality" in found


def test_without_costs_there_is_no_curve(model: GainModel, rows: list[Row]) -> None:
    same = {"small": "small", "large": "large"}
    found = evaluate(model, renamed(rows[:60], same, cost=False)).as_json()
    assert "curve" not in found
    assert "constants" not in found


def test_names_are_mapped_by_option_or_by_price(model: GainModel, rows: list[Row]) -> None:
    foreign = renamed(rows[:60], {"small": "z", "large": "a"})
    by_price = evaluate(model, foreign)
    assert by_price.models == ("z", "a")
    assert by_price.mapping == {"z": "strength 0.00", "a": "strength 1.00"}
    mapped = evaluate(model, foreign, {"z": "small", "a": "large"})
    assert mapped.figures["apgr"].value == pytest.approx(
        evaluate(model, rows[:60]).figures["apgr"].value
    )
    spelt = renamed(rows[:60], {"small": "Maker/Small", "large": "LARGE"})
    assert evaluate(model, spelt).mapping == {"Maker/Small": "small", "LARGE": "large"}
    with pytest.raises(DataError, match="'q' in the data"):
        evaluate(model, foreign, {"q": "small"})
    with pytest.raises(DataError, match="'q' in the weights"):
        evaluate(model, foreign, {"z": "q"})


def test_many_models_without_costs(model: GainModel, rows: list[Row]) -> None:
    three = [
        Row(
            row.prompt,
            {**renamed([row], {"small": "s", "large": "l"}, False)[0].outcomes, "m": Outcome(0.5)},
        )
        for row in rows[:40]
    ]
    found = evaluate(model, three).as_json()
    assert found["quality"] <= found["oracle_quality"]


def test_rows_without_two_common_models_are_refused(model: GainModel) -> None:
    lonely = [Row("p", {"a": Outcome(1.0)}), Row("q", {"b": Outcome(1.0)})]
    with pytest.raises(DataError, match="fewer than two models"):
        evaluate(model, lonely)


def test_models_that_are_equally_good_still_have_costs(model: GainModel, rows: list[Row]) -> None:
    same = [
        replace(row, outcomes={name: Outcome(0.5, one.cost) for name, one in row.outcomes.items()})
        for row in rows
    ]
    report = evaluate(model, same)
    assert report.figures["apgr"].value is None
    assert report.curve
