"""`fusion draco score` and `validate` from the command line, and how they end on bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from serve.cli.draco import app

run = CliRunner()


def verdicts(*pairs: tuple[Any, Any]) -> dict[str, Any]:
    return {
        "verdicts": [
            {"criterion_id": f"c{n}", "weight": weight, "verdict": verdict, "reason": "because"}
            for n, (weight, verdict) in enumerate(pairs)
        ]
    }


def write(folder: Path, *runs: Any) -> str:
    file = folder / "verdicts.json"
    file.write_text(json.dumps({"runs": runs}))
    return str(file)


def test_score_as_data(tmp_path: Path) -> None:
    first = verdicts((10, "MET"), (5, None), (-5, "MET"))  # 5 of 10
    second = verdicts((10, "MET"), (5, "UNMET"), (-5, "UNMET"))  # 10 of 15
    done = run.invoke(app, ["score", write(tmp_path, first, second), "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.output)
    assert told["normalized_score"] == pytest.approx((50 + 200 / 3) / 2)
    assert told["pass_rate"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert (told["raw_score"], told["max_score"]) == (7.5, 12.5)
    assert told["std"] == pytest.approx((200 / 3 - 50) / 2)
    assert told["runs"][0] == {
        "normalized_score": 50.0,
        "pass_rate": 0.5,
        "raw_score": 5.0,
        "max_score": 10.0,
        "criteria": 2,
        "dropped": 1,
    }


def test_score_for_people(tmp_path: Path) -> None:
    done = run.invoke(app, ["score", write(tmp_path, verdicts((4, "MET"), (4, "UNMET")))])
    assert done.exit_code == 0
    assert "50.00" in done.output
    assert "spread" in done.output


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        ([verdicts((1, "PERHAPS"))], "runs.0.verdicts.0.verdict"),
        ([verdicts((1, "met"))], "runs.0.verdicts.0.verdict"),
        ([verdicts(("1", "MET"))], "runs.0.verdicts.0.weight"),
        ([verdicts((True, "MET"))], "runs.0.verdicts.0.weight"),
        ([{"verdicts": [{"criterion_id": "a", "weight": 1}]}], "verdict: Field required"),
        ([verdicts((-1, "UNMET"))], "no criterion has a positive weight"),
        ([], "there are no runs"),
        ([{}], "runs.0.verdicts"),
    ],
)
def test_bad_verdicts_end_with_their_place(tmp_path: Path, runs: list[Any], said: str) -> None:
    done = run.invoke(app, ["score", write(tmp_path, *runs)])
    assert done.exit_code == 2
    assert said in done.output.replace("\n", "")


def test_a_file_that_is_none_ends_in_words(tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_bytes(b"\xff{")
    for path in (broken, tmp_path / "nowhere.json", tmp_path):
        done = run.invoke(app, ["score", str(path)])
        assert done.exit_code == 2
        assert "error: " in done.output
        assert "Traceback" not in done.output


def test_validate_warns_of_another_set_and_goes_on(tmp_path: Path) -> None:
    rubric = {
        "id": "r",
        "sections": [
            {"id": "s", "title": "S", "criteria": [{"id": "c", "weight": 3, "requirement": "x"}]}
        ],
    }
    task = {"id": "t", "problem": "p", "answer": json.dumps(rubric), "domain": "d"}
    file = tmp_path / "draco.jsonl"
    file.write_text(json.dumps(task))
    done = run.invoke(app, ["validate", str(file)])
    assert done.exit_code == 0
    assert "1 tasks in 1 domains, 1 criteria, 0 of them negative" in done.output
    assert "warning: criteria: 1, the public set has 3934" in done.output
    told = json.loads(run.invoke(app, ["validate", str(file), "--json"]).output)
    assert (told["tasks"], told["public"]) == (1, False)
