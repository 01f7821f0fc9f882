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
    assert found["least_margin"] <= 0.0 < found["mean_margin"]
    assert found["intervals"]["mean_margin"][0] > 0.0


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
    with pytest.raises(DataError, match="'q' in the weights; there are large, small"):
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


def without(row: Row, model: str) -> Row:
    return replace(row, outcomes={n: one for n, one in row.outcomes.items() if n != model})


def test_a_row_that_lacks_a_model_is_left_out_and_not_the_model(
    model: GainModel, rows: list[Row]
) -> None:
    found = evaluate(model, [without(rows[0], "small"), *rows[1:60]])
    assert (found.n, found.models) == (59, ("small", "large"))
    assert found.as_json()["skipped"]["rows"] == 1
    assert found.skipped.said() == ["rows left out, which not all models answered: 1"]


def test_a_model_that_few_rows_have_is_left_out_and_named(
    model: GainModel, rows: list[Row]
) -> None:
    rare = replace(rows[0], outcomes={**rows[0].outcomes, "rare": Outcome(1.0, 0.01)})
    found = evaluate(model, [rare, *rows[1:60]])
    assert (found.n, found.models) == (60, ("small", "large"))
    assert found.as_json()["skipped"]["models"] == ["rare"]


def test_an_absent_cost_is_its_models_mean(model: GainModel, rows: list[Row]) -> None:
    lost = replace(rows[0], outcomes={**rows[0].outcomes, "small": Outcome(0.2)})
    found = evaluate(model, [lost, *rows[1:60]])
    assert found.curve is not None
    assert found.constants["small"]["cost"] == pytest.approx(0.001)
    assert found.skipped.costs == 1


def test_a_model_without_any_cost_leaves_only_quality_and_is_named(
    model: GainModel, rows: list[Row]
) -> None:
    free = [
        replace(row, outcomes={**row.outcomes, "small": Outcome(row.outcomes["small"].score)})
        for row in rows[:60]
    ]
    found = evaluate(model, free)
    assert found.curve is None
    assert found.as_json()["skipped"]["priceless"] == ["small"]
    assert found.skipped.said() == ["nothing is said of costs, for want of any of small"]


def test_rows_of_different_models_are_not_compared_and_named(
    model: GainModel, rows: list[Row]
) -> None:
    others = renamed(rows[:31], {"small": "c", "large": "d"})
    more = renamed(rows[:31], {"small": "e", "large": "f"})
    with pytest.raises(DataError, match="30 of large, small") as raised:
        evaluate(model, [*rows[:30], *others, *more])
    assert "31 of c, d" in str(raised.value)


def test_equally_good_models_without_costs_have_no_gap_and_a_report(
    model: GainModel, rows: list[Row]
) -> None:
    same = [replace(row, outcomes=dict.fromkeys(row.outcomes, Outcome(0.5))) for row in rows]
    found = json.loads(json.dumps(evaluate(model, same).as_json()))
    assert (found["apgr"], found["baselines"]["oracle"]) == (None, None)
