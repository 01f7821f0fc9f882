"""Whether a value is of the shape that a caller's JSON schema says. Pure, also where a schema is
not meant well: nothing that it names is fetched, and none of its patterns is run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jsonschema import exceptions, validators
from referencing.jsonschema import EMPTY_REGISTRY

#: Keys whose values are schemas by names of the caller's own.
_NAMED = frozenset(("properties", "$defs", "definitions", "dependentSchemas"))
#: Keys whose values are data.
_DATA = frozenset(("const", "enum", "default", "examples"))
#: A pattern can be made to take for ever, and no other request would be served meanwhile.
_PATTERNS = frozenset(("pattern", "patternProperties"))
#: What says what stands beside properties, for which patterns would have to be run.
_OTHERS = frozenset(("additionalProperties", "unevaluatedProperties"))


def problem(value: Any, schema: Mapping[str, Any]) -> str | None:
    """What is wrong with a value, in one line; None where nothing is, or nobody can tell."""
    try:
        plain = _without_patterns(schema)
        kind = validators.validator_for(plain, default=validators.Draft202012Validator)
        # A registry without a way to retrieve: the default one fetches any address by HTTP.
        error = exceptions.best_match(kind(plain, registry=EMPTY_REGISTRY).iter_errors(value))
    except Exception:
        # A schema that nobody can check (unknown types, references to nowhere or in a circle) is
        # the caller's own matter, and the library has many errors for it.
        return None
    if error is None:
        return None
    place = "/".join(map(str, error.absolute_path)) or "the whole"
    return f"at {place}: {error.message}"[:500]


def _without_patterns(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without_patterns(one) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    left_out = _PATTERNS | (_OTHERS if "patternProperties" in schema else frozenset())
    plain: dict[str, Any] = {}
    for key, value in schema.items():
        if key in left_out:
            continue
        if key in _NAMED and isinstance(value, Mapping):
            plain[key] = {name: _without_patterns(one) for name, one in value.items()}
        else:
            plain[key] = value if key in _DATA else _without_patterns(value)
    return plain
