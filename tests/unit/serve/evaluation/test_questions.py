"""Checkable questions: what a system reads, what is read of its answer, and who has voted what."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from serve.evaluation.questions import Question, parse_question, read_questions, vote


def question(**line: Any) -> Question:
    return parse_question(json.dumps({"id": "q", "question": "Which?"} | line).encode())


CHOICE: dict[str, Any] = {"choices": ["red", "green", "blue"], "answer": "green"}


@pytest.mark.parametrize(
    ("line", "text", "right"),
    [
        (CHOICE, "Answer: B", True),
        (CHOICE, "It could be A. But no.\n**Answer: B**", True),
        (CHOICE, "B", True),
        (CHOICE, "the answer is: (B).", True),
        (CHOICE, "Answer: C", False),
        (CHOICE, "Answer: D", False),
        (CHOICE, "", False),
        (CHOICE | {"answer": "b"}, "Answer: B", True),
        ({"kind": "number", "answer": 1200}, "So 3 x 400.\nAnswer: 1,200", True),
        ({"kind": "number", "answer": 9}, "Answer: " + "9" * 5000, False),
        ({"kind": "number", "answer": "007"}, "-0 or 7.0", True),
        ({"kind": "number", "answer": "0.5"}, "Answer: 0.50 metres", True),
        ({"kind": "number", "answer": -3}, "minus three, -3", True),
        ({"kind": "number", "answer": 3}, "none at all", False),
        ({"answer": "Jane Austen"}, "Answer: jane  austen.", True),
        ({"answer": "Jane Austen"}, "It was Jane Austen", False),
    ],
)
def test_what_is_read_of_an_answer(line: dict[str, Any], text: str, right: bool) -> None:
    asked = question(**line)
    assert asked.is_right(asked.read(text)) is right


def test_a_choice_is_lettered() -> None:
    prompt = question(**CHOICE).prompt()
    assert "A. red\nB. green\nC. blue" in prompt
    assert prompt.endswith("End with a line 'Answer: ' and the letter of the right choice.")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (CHOICE | {"answer": "pink"}, "neither a letter"),
        (CHOICE | {"answer": "D"}, "neither a letter"),
        ({"kind": "choice", "answer": "A"}, "choices"),
        ({"kind": "number", "answer": "many"}, "not a number"),
        ({}, "answer"),
        ({"question": "", "answer": "x"}, "question"),
    ],
)
def test_a_broken_question_says_why(line: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        question(**line)


def test_every_broken_line_is_told(tmp_path: Path) -> None:
    file = tmp_path / "q.jsonl"
    good = json.dumps({"id": 1, "question": "x", "answer": "y"})
    file.write_text(f"{good}\n{{\n{good}\n")
    with pytest.raises(ValueError, match=r"line 2: (.|\n)*line 3: the id '1' stands in line 1"):
        read_questions(file)


def test_the_most_frequent_answer_wins_and_the_earliest_of_equals() -> None:
    assert vote(["A", "B", "B", None]) == "B"
    assert vote(["A", "B"]) == "A"
    assert vote([None, None]) is None
