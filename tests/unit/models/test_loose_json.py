from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.wrappers import loose_json
from models.wrappers.loose_json import Found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"a": 1}', Found({"a": 1})),
        ('```json\n{"a": 1}\n```', Found({"a": 1}, "json_fence")),
        ('Here:\n```\n{"a": 1}\n```\nDone.', Found({"a": 1}, "json_fence")),
        ('```json\n{"a": 1', Found({"a": 1}, "json_syntax")),
        ('Sure! {"a": 1} I hope this helps.', Found({"a": 1}, "json_between_words")),
        ('{"a": 1,}', Found({"a": 1}, "json_syntax")),
        ("{'a': True}", Found({"a": True}, "json_syntax")),
        ('{"a": "```x```",}', Found({"a": "```x```"}, "json_syntax")),
        ("[1, 2", Found([1, 2], "json_syntax")),
        ("no JSON at all", Found(None)),
        # A fence within a text does not end the one around.
        ('```json\n{"a": "```x```", "b": 1}\n```', Found({"a": "```x```", "b": 1}, "json_fence")),
        (
            '```json\n{"a": "```x```", "b": 1,}\n```\n[note]',
            Found({"a": "```x```", "b": 1}, "json_syntax"),
        ),
        ('{"x": 1} [see note]', Found({"x": 1}, "json_between_words")),
        ('[1] {"x": 1}', Found({"x": 1}, "json_between_words")),
        ('{"x": 1}\n{"x": 2}', Found([{"x": 1}, {"x": 2}], "json_between_words")),
        ('{"x": 1}\n{"x": 1}', Found({"x": 1}, "json_between_words")),
        # No other reader takes NaN; JavaScript writes null for it.
        ('{"a": NaN}', Found({"a": None}, "json_syntax")),
        # What stands before a fence is talk.
        ('I leave out {} here.\n```json\n{"a": 1}\n```', Found({"a": 1}, "json_fence")),
        ('As said in [1]:\n```json\n{"a": 1}\n```\nSee [2].', Found({"a": 1}, "json_fence")),
        ('Options: [] none. {"a": 1}', Found({"a": 1}, "json_between_words")),
        ('Options: [] none. {"a": 1,}', Found({"a": 1}, "json_syntax")),
        # Nobody knows which of two is meant: a list is no object, and so asked for again.
        ('Given {"x": 1}, it is {"a": 2}', Found([{"x": 1}, {"a": 2}], "json_between_words")),
        ("NaN", Found(None)),
        ("", Found(None)),
        ("[" * 100_000, Found(None)),
    ],
)
def test_json_as_models_write_it(text: str, found: Found) -> None:
    assert loose_json.read(text) == found


@given(st.recursive(st.none() | st.integers() | st.text('{}[]",`a', max_size=9), st.lists))
def test_good_json_is_left_alone(value: Any) -> None:
    assert loose_json.read(json.dumps(value)) == Found(value)


@given(st.text(alphabet='{}[]",:`a1 \n', max_size=60))
def test_no_text_is_a_trap(text: str) -> None:
    loose_json.read(text)


SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


@pytest.mark.parametrize(
    ("value", "schema", "problem"),
    [
        ({"n": 1}, SCHEMA, None),
        ({"n": "x"}, SCHEMA, "at n: 'x' is not of type 'integer'"),
        ({}, SCHEMA, "at the whole: 'n' is a required property"),
        ([], None, "it is not a JSON object"),
        ({}, None, None),
        # A schema that is none is not the model's fault.
        ({}, {"type": "nonsense"}, None),
        ({}, {"$ref": "#/nowhere"}, None),
        ({}, {"type": 5}, None),
    ],
)
def test_what_is_wrong_with_a_value(value: Any, schema: Any, problem: str | None) -> None:
    assert loose_json.problem(value, schema) == problem
