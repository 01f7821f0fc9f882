"""JSON as models write it: in fences, between sentences, with a comma too many. Pure."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import Any, NamedTuple

import json_repair

from models import json_schema

#: A larger text is taken as it is: repairing takes time that grows faster than the text.
MAX_CHARS = 1_000_000
_FENCE = "```"
#: It begins a line, as a fence within a text of the JSON does not.
_CLOSING = re.compile(r"\n[ \t]*```")


class Found(NamedTuple):
    """`value` is None where there is none. `repair` says what had to be done to read it."""

    value: Any
    repair: str | None = None


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


#: Python alone would read NaN and its like, which nobody else takes.
_DECODER = json.JSONDecoder(parse_constant=_no_number)
#: As JavaScript writes them.
_NULLS = json.JSONDecoder(parse_constant=lambda _: None)


def read(text: str) -> Found:
    """The JSON in this text."""
    try:
        return Found(_DECODER.decode(text))
    except (ValueError, RecursionError):
        pass
    if len(text) > MAX_CHARS:
        return Found(None)
    opening = text.find(_FENCE)
    fenced = opening >= 0 and _start(text, opening) >= 0
    at, values = _start(text, opening if fenced else 0), list[Any]()
    repair = "json_fence" if fenced else "json_between_words"
    while at >= 0:
        try:
            value, end = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError):
            if text[at] == "[" and _objects(values):
                break  # words in brackets
            value = _repaired(text[at:], fenced)
            repair, end = "json_syntax", len(text)
        if isinstance(value, dict | list):
            values.append(value)
        at = _start(text, end)
        if fenced and _CLOSING.search(text, end, at):
            break
    return Found(_meant(values), repair) if values else Found(None)


def _start(text: str, begin: int) -> int:
    """Where the next object or list begins, or -1."""
    places = (text.find(mark, begin) for mark in "{[")
    return min((place for place in places if place >= 0), default=-1)


def _repaired(bare: str, fenced: bool) -> Any:
    """What can be made of it, None where nothing can."""
    if fenced and (closing := _CLOSING.search(bare)):
        bare = bare[: closing.start()]
    with suppress(ValueError, RecursionError):
        return _NULLS.raw_decode(bare)[0]
    end = max(bare.rfind("}"), bare.rfind("]"))
    try:
        # Without its own way to read JSON, which takes NaN.
        return json_repair.loads(bare[: end + 1] if end > 0 else bare, skip_json_loads=True)
    except (ValueError, RecursionError, TypeError):
        return None


def _objects(values: list[Any]) -> list[Any]:
    """The different ones; an empty one is a way to speak of none."""
    found = [value for value in values if isinstance(value, dict)]
    found = [value for value in found if value] or found
    return [value for place, value in enumerate(found) if value not in found[:place]]


def _meant(values: list[Any]) -> Any:
    """An object rather than words in brackets; all of them where they differ, which is then no
    object, and asked again."""
    objects = _objects(values)
    if len(objects) > 1:
        return objects
    return objects[0] if objects else next(filter(None, values), values[0])


def problem(value: Any, schema: dict[str, Any] | None) -> str | None:
    """What is wrong with a value by this schema, in one line; None where nothing is."""
    if schema is None:
        return None if isinstance(value, dict) else "it is not a JSON object"
    return json_schema.problem(value, schema)
