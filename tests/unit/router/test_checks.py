"""Checkers of an answer that need no model."""

from __future__ import annotations

import pytest

from router.checks import is_shaped, say_the_same, sums_are_right

BIRD = {"type": "object", "properties": {"bird": {"type": "string"}}, "required": ["bird"]}


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("So 3 * 4 + 1 = 13, and 10 / 4 = 2.5.", True),
        ("17 + 25 = 32", False),
        ("1,200 + 300 = 1,500 in all", True),
        ("It costs $3 + $4 = $7", True),
        ("10 / 3 = 3.33", True),
        ("2 + 3 × 4 = 20", False),
        ("5 / 0 = 7", None),
        ("no sums at all, only x = 3", None),
        ("", None),
        ("1 + " * 100_000, None),
        ("x - 3 + 5 = 10", None),
        ("x -3 + 5 = 10", None),
        ("2x + 3 + 4 = 15", None),
        ("√16 + 3 = 7", None),
        ("2^3 * 4 = 32", None),
        ("20% of 50 + 5 = 15", None),
        ("10:30 + 2 = 12", None),
        ("12 + 3 = 5x", None),
        ("- 3 + 4 = 7", True),
        ("In all: -3 + 5 = 3", False),
    ],
)
def test_sums(text: str, right: bool | None) -> None:
    assert sums_are_right(text) is right


def test_json_has_the_shape_that_was_asked_for() -> None:
    assert is_shaped('{"bird": "wren"}', BIRD)
    assert not is_shaped('{"bird": 1}', BIRD)
    assert not is_shaped("a wren", BIRD)
    assert is_shaped("{}", None)
    assert not is_shaped("[1]", None)
    assert not is_shaped("[" * 100_000, None)
    assert is_shaped("3", {"type": "no such type"})  # not the answer's fault


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("The answer is (B).", "B", True),
        ("The answer is (B).", "(C) because", False),
        ("So it is 42.", "After all: 42.0", True),
        ("So it is 42.", "It is 43", False),
        ('{"a": 1, "b": 2}', '{"b": 2, "a": 1}', True),
        ("A wren is a small bird", "a wren is a very small bird", True),
        ("A wren", "Paris in the spring", False),
    ],
)
def test_two_answers_come_to_the_same(one: str, other: str, same: bool) -> None:
    assert say_the_same(one, other) is same
