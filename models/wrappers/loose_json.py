"""JSON as models write it: in fences, between sentences, with a comma too many. Pure."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

import json_repair

from models import json_schema

#: A larger text is taken as it is: repairing takes time that grows faster than the text.
MAX_CHARS = 1_000_000
_FENCE = re.compile(r"```[\w-]*[ \t]*\r?\n?(.*?)(?:```|\Z)", re.DOTALL)


class Found(NamedTuple):
    """`value` is None where there is none. `repair` says what had to be done to read it."""

    value: Any
    repair: str | None = None


def read(text: str) -> Found:
    """The JSON in this text."""
    try:
        return Found(json.loads(text))
    except (ValueError, RecursionError):
        pass
    if len(text) > MAX_CHARS:
        return Found(None)
    bare, repair = text.strip(), "json_syntax"
    start = min((i for i in (bare.find("{"), bare.find("[")) if i >= 0), default=-1)
    if start < 0:
        return Found(None)
    if (fenced := _FENCE.search(bare)) and fenced.start() < start:
        bare, repair = fenced[1].strip(), "json_fence"
    else:
        end = max(bare.rfind("}"), bare.rfind("]"))
        if start or end < len(bare) - 1:
            repair = "json_between_words"
        bare = bare[start : end + 1] if end > start else bare[start:]
    try:
        return Found(json.loads(bare), repair)
    except (ValueError, RecursionError):
        pass
    try:
        value = json_repair.loads(bare)
    except (ValueError, RecursionError, TypeError):
        return Found(None)
    # The library makes an empty text of what it cannot read.
    return Found(value, "json_syntax") if isinstance(value, dict | list) else Found(None)


def problem(value: Any, schema: dict[str, Any] | None) -> str | None:
    """What is wrong with a value by this schema, in one line; None where nothing is."""
    if schema is None:
        return None if isinstance(value, dict) else "it is not a JSON object"
    return json_schema.problem(value, schema)
