"""A caller's schema in the parts of the language that providers take."""

from __future__ import annotations

from typing import Any

import pytest

from models.flagship.schema import can_be_strict, is_finite, reduced

POINT = {
    "type": "object",
    "properties": {"x": {"type": "integer"}},
    "required": ["x"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("maxLength", 5),
        ("minLength", 1),
        ("maxItems", 4),
        ("minItems", 2),
        ("minimum", 0),
        ("maximum", 9),
        ("exclusiveMinimum", 0),
        ("exclusiveMaximum", 9),
        ("multipleOf", 2),
        ("uniqueItems", True),
        ("pattern", "^a$"),
        ("format", "credit-card"),
    ],
)
def test_what_anthropic_refuses_is_told_in_the_description(keyword: str, value: Any) -> None:
    out = reduced({"type": "array", "items": {"description": "One.", keyword: value}})
    assert set(out["items"]) == {"description"}
    assert out["items"]["description"].startswith("One.\n\n{")
    assert keyword in out["items"]["description"]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "enum": ["a"], "description": "b", "format": "date"},
        {"type": "array", "items": {"$ref": "#/$defs/a"}, "minItems": 1, "$defs": {"a": POINT}},
        {"anyOf": [POINT, {"type": "null"}], "title": "t", "default": None},
        {"const": {"maxLength": 5}},
    ],
)
def test_what_it_takes_stays_as_it_is(schema: dict[str, Any]) -> None:
    assert reduced(schema) == schema


def test_every_object_is_closed_also_one_that_may_be_null() -> None:
    inner = {"type": ["object", "null"], "properties": {"x": {"type": "integer"}}}
    out = reduced({"type": "object", "properties": {"a": inner}, "$defs": {"b": inner}})
    assert out["additionalProperties"] is False
    assert out["properties"]["a"]["additionalProperties"] is False
    assert out["$defs"]["b"]["additionalProperties"] is False


def test_one_of_several_is_any_of_them() -> None:
    assert reduced({"oneOf": [{"type": "string", "maxLength": 1}]}) == {
        "anyOf": [{"type": "string", "description": '{"maxLength": 1}'}]
    }


def test_names_of_the_callers_own_are_no_keywords() -> None:
    schema = {
        "type": "object",
        "properties": {"maxLength": {"type": "integer"}, "not": {"type": "string"}},
        "required": ["maxLength", "not"],
        "additionalProperties": False,
    }
    assert reduced(schema) == schema
    assert can_be_strict(schema)


def test_the_callers_own_copy_stays_whole() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "maxLength": 5}}}
    reduced(schema)
    assert schema == {"type": "object", "properties": {"a": {"type": "string", "maxLength": 5}}}


LIST = {"type": "object", "properties": {"next": {"$ref": "#/$defs/list"}}}
DEEP: dict[str, Any] = {}
for _ in range(900):
    DEEP = {"type": "array", "items": DEEP}
#: A caller's own, of a few dozen kilobytes: each definition names the next one.
CHAIN = {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(3000)} | {"d3000": POINT}


@pytest.mark.parametrize(
    ("schema", "finite"),
    [
        (POINT, True),
        (
            {"type": "object", "properties": {"a": {"$ref": "#/$defs/p"}}, "$defs": {"p": POINT}},
            True,
        ),
        ({"type": "object", "additionalProperties": False}, True),
        ({}, False),
        ({"type": "object"}, False),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, False),
        ({"type": "array", "items": {"type": "object", "patternProperties": {".": {}}}}, False),
        ({"$ref": "#/$defs/list", "$defs": {"list": LIST}}, False),
        ({"type": "object", "properties": {"a": {"$ref": "#"}}}, False),
        ({"type": "object", "properties": {"a": {"$ref": "https://x/y"}}}, False),
        (DEEP, False),
        ({"$ref": "#/$defs/d0", "$defs": CHAIN}, True),
        ({**POINT, "additionalProperties": True}, False),
        ({"allOf": [POINT, POINT]}, False),
        ({"$ref": "#/$defs/x", "$defs": {"x": {"prefixItems": [{"$ref": "#/$defs/x"}]}}}, False),
        # What is no schema is told in words, for the provider to say so.
        ({**POINT, "$defs": [1]}, True),
        ({**POINT, "definitions": "ab"}, True),
    ],
)
def test_which_schemas_mean_the_same_when_they_are_reduced(schema: Any, finite: bool) -> None:
    assert is_finite(schema) is finite


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        (POINT, True),
        ({**POINT, "required": []}, False),
        ({**POINT, "additionalProperties": True}, False),
        ({"type": "object", "properties": {}}, False),
        ({**POINT, "required": True}, False),
        ({**POINT, "required": [["a"]]}, False),
        ({"type": "array", "items": {**POINT, "required": []}}, False),
        ({"anyOf": [POINT, {"type": "null"}]}, True),
        ({"oneOf": [POINT]}, False),
        ({"allOf": [POINT]}, False),
        (DEEP, False),
    ],
)
def test_which_schemas_openai_takes_as_strict(schema: Any, strict: bool) -> None:
    assert can_be_strict(schema) is strict
