"""The benchmark's file: read strictly, counted, and compared with the public set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from serve.evaluation.draco.dataset import (
    PUBLIC,
    count,
    differences,
    parse_task,
    read_tasks,
)
from serve.evaluation.lines import LinesError


def line(name: str = "t1", weights: tuple[float, ...] = (10, -5), **changes: Any) -> str:
    criteria = [
        {"id": f"c{n}", "weight": weight, "requirement": f"says {n}"}
        for n, weight in enumerate(weights)
    ]
    rubric = {"id": f"r-{name}", "sections": [{"id": "s", "title": "Facts", "criteria": criteria}]}
    task = {"id": name, "problem": "Why?", "answer": json.dumps(rubric), "domain": "Law"}
    return json.dumps(task | changes)


def test_a_task_has_its_rubric() -> None:
    task = parse_task(line().encode())
    assert (task.id, task.problem, task.domain) == ("t1", "Why?", "Law")
    assert [(one.id, one.weight) for one in task.criteria] == [("c0", 10), ("c1", -5)]
    assert task.rubric.sections[0].title == "Facts"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "Invalid JSON"),
        ("[]", "should be an object"),
        (line(problem=None), "problem: "),
        (line(answer={"id": "r"}), "answer: "),
        (line(answer="no"), "answer: Invalid JSON"),
        (line(answer=json.dumps({"id": "r", "sections": []})), "answer: sections: "),
        (line(weights=(-1, -2)), "no criterion has a positive weight"),
    ],
)
def test_a_broken_task_says_what_is_wrong(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_task(text.encode())


def test_a_criterion_that_stands_twice_is_refused_across_sections() -> None:
    criterion = {"id": "c", "weight": 1, "requirement": "x"}
    section = {"id": "s", "title": "S", "criteria": [criterion]}
    rubric = json.dumps({"id": "r", "sections": [section, section]})
    with pytest.raises(ValueError, match="criterion 'c' stands twice"):
        parse_task(line(answer=rubric).encode())


def test_every_broken_line_of_a_file_is_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "draco.jsonl"
    file.write_text(f"{line()}\n\n{{\n{line()}\n")
    with pytest.raises(LinesError) as caught:
        read_tasks(file)
    told = str(caught.value).splitlines()
    assert [text.split(": ")[0] for text in told] == [f"{file} line 3", f"{file} line 4"]
    assert "the id 't1' stands in line" in told[1]
    file.write_text("")
    with pytest.raises(LinesError, match="no tasks"):
        read_tasks(file)


def test_another_set_is_counted_and_told_apart(tmp_path: Path) -> None:
    file = tmp_path / "draco.jsonl"
    file.write_text(f"{line('a')}\n{line('b', (1, 2, 3), domain='Food')}\n")
    counts = count(read_tasks(file))
    assert (counts.tasks, counts.domains, counts.criteria, counts.negative) == (2, 2, 5, 1)
    assert (counts.least_weight, counts.greatest_weight) == (-5, 10)
    told = differences(counts)
    assert "tasks: 2, the public set has 100" in told
    assert "greatest weight: 10, the public set has 20" in told
    assert not differences(PUBLIC)
