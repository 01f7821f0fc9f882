"""A schema is data of the caller's: what it says is checked, and what it wants done is not."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from models.json_schema import problem


def test_what_is_wrong_is_said_with_its_place() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    assert problem({"n": 1}, schema) is None
    assert problem({"n": "x"}, schema) == "at n: 'x' is not of type 'integer'"
    assert problem({}, schema) == "at the whole: 'n' is a required property"


def test_nothing_is_fetched() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.setblocking(False)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/schema.json"
        assert problem({}, {"$ref": address}) is None
        assert problem({}, {"$schema": address, "type": "array"}) is not None
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/missing"},
        {"$ref": "#"},
        {"type": "wrong"},
        {"type": 5},
        {"properties": 5},
    ],
)
def test_a_schema_that_is_wrong_says_nothing_against_the_answer(schema: dict[str, Any]) -> None:
    assert problem({"a": 1}, schema) is None


def test_no_pattern_is_run() -> None:
    endless = "^(a|aa)+$"
    value = {"a" * 60 + "!": "a" * 60 + "!"}
    schema = {
        "patternProperties": {endless: {"type": "integer"}},
        "additionalProperties": False,
        "items": [{"pattern": endless}],
        "propertyNames": {"pattern": endless},
    }
    assert problem(value, schema) is None


def test_a_property_may_be_called_as_a_key() -> None:
    schema = {"properties": {"pattern": {"type": "integer"}, "enum": {"type": "integer"}}}
    assert problem({"pattern": "x"}, schema) is not None
    assert problem({"enum": "x"}, schema) is not None
    assert problem("b", {"enum": [{"pattern": "a"}, "a"]}) is not None
