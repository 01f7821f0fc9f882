"""What providers that write under a JSON schema take of one. Pure.

Each knows a part of the language and answers the rest with 400. What is left out here is checked
all the same: `models.wrappers.repair` holds every answer to the caller's own schema.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any

from models import loose

#: Keys whose values are schemas by names of the caller's own, which are no keywords.
_NAMED = ("properties", "$defs", "definitions")
_LISTS = ("anyOf", "allOf")
_DEFINED = ("$defs", "definitions")
#: What Anthropic takes as it is.
_TAKEN = ("type", "required", "enum", "const", "$ref", "title", "description", "default")
_FORMATS = ("date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6")
_VALUES: Mapping[str, tuple[Any, ...]] = {"format": (*_FORMATS, "uuid"), "minItems": (0, 1)}
#: What says nothing to a model.
_SILENT = ("additionalProperties", "$schema", "$id", "$comment")
#: What OpenAI takes only of a schema that is not strict.
_NOT_STRICT = frozenset(
    (
        *("oneOf", "allOf", "not", "if", "then", "else"),
        *("patternProperties", "dependentRequired", "dependentSchemas"),
    )
)
#: No provider takes more, and walking further down might never end.
_MOST_LEVELS = 64
#: Stands for what lies deeper: nobody takes it.
_TOO_DEEP: Mapping[str, Any] = {"patternProperties": {}}


def reduced(schema: Any) -> Any:
    """The schema in the part of the language that Anthropic takes: its objects closed, and what
    it refuses told to the model in the description."""
    if not isinstance(schema, Mapping):
        return schema
    kept: dict[str, Any] = {}
    told: dict[str, Any] = {}
    for given, value in schema.items():
        key = "anyOf" if given == "oneOf" and "anyOf" not in schema else given
        if key in _NAMED and isinstance(value, Mapping):
            kept[key] = {name: reduced(one) for name, one in value.items()}
        elif key in _LISTS and isinstance(value, list):
            kept[key] = [reduced(one) for one in value]
        elif key == "items" and isinstance(value, Mapping):
            kept[key] = reduced(value)
        elif key in _TAKEN or value in _VALUES.get(key, ()):
            kept[key] = value
        elif key not in _SILENT:
            told[key] = value
    if _is_object(schema):
        kept["additionalProperties"] = False
    if told:
        words = f"{schema.get('description', '')}\n\n{json.dumps(told, ensure_ascii=False)}"
        kept["description"] = words.strip()
    return kept


def is_finite(schema: Mapping[str, Any]) -> bool:
    """Whether `reduced` means the same: no object has names that the schema does not list, and no
    definition holds itself. Other schemas can only be told in words."""
    return bool(schema) and not _is_recursive(schema) and not any(map(_is_open, _parts(schema)))


def can_be_strict(schema: Mapping[str, Any]) -> bool:
    """Whether OpenAI takes this schema with `strict`: it answers others with 400."""
    return all(
        _NOT_STRICT.isdisjoint(part)
        and (
            not _is_object(part)
            or (part.get("additionalProperties") is False and _requires_all(part))
        )
        for part in _parts(schema)
    )


def _requires_all(schema: Mapping[str, Any]) -> bool:
    required = schema.get("required")
    named = required if isinstance(required, list) else []
    return all(name in named for name in loose.mapping(schema.get("properties")))


def _is_object(schema: Mapping[str, Any]) -> bool:
    kinds = schema.get("type")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    return "properties" in schema or "object" in kinds


def _is_open(schema: Mapping[str, Any]) -> bool:
    others = schema.get("additionalProperties")
    if "patternProperties" in schema or isinstance(others, Mapping) or others is True:
        return True
    if any(isinstance(one, Mapping) and _is_object(one) for one in _listed(schema, "allOf")):
        return True  # closed each for itself, nothing could be both
    return _is_object(schema) and not schema.get("properties") and others is not False


def _listed(schema: Mapping[str, Any], key: str) -> list[Any]:
    value = schema.get(key)
    return value if isinstance(value, list) else []


def _parts(schema: Any, levels: int = _MOST_LEVELS) -> Iterator[Mapping[str, Any]]:
    """This schema and all that are in it."""
    if not isinstance(schema, Mapping):
        return
    if not levels:
        yield _TOO_DEEP
        return
    yield schema
    for key, value in schema.items():
        if key in _NAMED and isinstance(value, Mapping):
            inner = list(value.values())
        else:
            inner = _listed(schema, key) if key in (*_LISTS, "oneOf", "prefixItems") else []
            inner = [value] if key == "items" else inner
        for one in inner:
            yield from _parts(one, levels - 1)


def _is_recursive(schema: Mapping[str, Any]) -> bool:
    """Whether a reference leads back to where it stands, or out of the schema's definitions."""
    defined = {
        f"#/{key}/{name}": _references(one)
        for key in _DEFINED
        for name, one in loose.mapping(schema.get(key)).items()
    }
    if not _references(schema) <= defined.keys():
        return True
    try:
        TopologicalSorter(defined).prepare()
    except CycleError:
        return True
    return False


def _references(schema: Any) -> set[str]:
    return {str(part["$ref"]) for part in _parts(schema) if "$ref" in part}
