"""JSON as models write it: in fences, between sentences, with a comma too many. Pure."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

import json_repair

from models import json_schema

#: A larger text is taken as it is: repairing takes time that grows faster than the text.
MAX_CHARS = 1_000_000
_FENCE = "```"
#: It begins a line, as a fence within a text of the JSON does not.
_CLOSING = re.compile(r"\n[ \t]*```")
_BETWEEN = re.compile(r"[\s,;]*")


class Found(NamedTuple):
    """`value` is None where there is none. `repair` says what had to be done to read it."""

    value: Any
    repair: str | None = None


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


#: Python alone would read NaN and its like, which nobody else takes.
_DECODER = json.JSONDecoder(parse_constant=_no_number)


def read(text: str) -> Found:
    """The JSON in this text."""
    try:
        return Found(_DECODER.decode(text))
    except (ValueError, RecursionError):
        pass
    if len(text) > MAX_CHARS:
        return Found(None)
    start = _start(text)
    if start < 0:
        return Found(None)
    fenced = _FENCE in text[:start]
    if whole := _whole(text, start):
        return Found(_meant(whole), "json_fence" if fenced else "json_between_words")
    bare = text[start:]
    if fenced and (closing := _CLOSING.search(bare)):
        bare = bare[: closing.start()]
    end = max(bare.rfind("}"), bare.rfind("]"))
    try:
        # Without its own way to read JSON, which takes NaN.
        value = json_repair.loads(bare[: end + 1] if end > 0 else bare, skip_json_loads=True)
    except (ValueError, RecursionError, TypeError):
        return Found(None)
    # The library makes an empty text of what it cannot read.
    return Found(value, "json_syntax") if isinstance(value, dict | list) else Found(None)


def _start(text: str) -> int:
    """Where the first object or list begins, or -1."""
    places = (text.find(mark) for mark in "{[")
    return min((place for place in places if place >= 0), default=-1)


def _whole(text: str, start: int) -> list[Any]:
    """The values without a fault that follow one another from here."""
    values: list[Any] = []
    while text[start : start + 1] in ("{", "["):
        try:
            value, end = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            break
        values.append(value)
        between = _BETWEEN.match(text, end)
        start = between.end() if between else end
    return values


def _meant(values: list[Any]) -> Any:
    """The first object, not a number in brackets; all, where all are objects, and not the same."""
    objects = [value for value in values if isinstance(value, dict)]
    if len(objects) == len(values) and any(value != objects[0] for value in objects):
        return objects
    return (objects or values)[0]


def problem(value: Any, schema: dict[str, Any] | None) -> str | None:
    """What is wrong with a value by this schema, in one line; None where nothing is."""
    if schema is None:
        return None if isinstance(value, dict) else "it is not a JSON object"
    return json_schema.problem(value, schema)
