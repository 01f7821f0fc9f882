"""Reading JSON that somebody else wrote: whatever is missing or of another type is empty."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

#: Half a character's escape, or its first byte.
_MAYBE_HALF = re.compile(r"\\u[dD]|\xed")


def clean(text: str) -> str:
    """The text without half characters (lone surrogates), which no UTF-8 can carry."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def decoded(raw: str | bytes) -> Any:
    """The value of this JSON, its texts clean. Raises ValueError or RecursionError.

    JSON may spell half a character (`"\\ud83d"`), and Python keeps it until somebody writes it out.
    """
    value = json.loads(raw)
    text = raw if isinstance(raw, str) else raw.decode("latin-1")
    return cleaned(value) if _MAYBE_HALF.search(text) else value


def cleaned(value: Any) -> Any:
    """The value with every text in it clean."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list | tuple):
        return [cleaned(one) for one in value]
    if isinstance(value, dict):
        return {cleaned(key): cleaned(one) for key, one in value.items()}
    return value


def mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def mappings(value: Any) -> list[Mapping[str, Any]]:
    """The objects of a list."""
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def count(value: Any) -> int:
    """A number of tokens or a place in a list, never negative."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and value > 0 else 0


def text(value: Any) -> str:
    """A text as it is, nothing for null, other values as they print."""
    return "" if value is None else str(value)


def as_json(value: Any) -> str:
    """JSON that came as text, or, from servers that know no better, as the value itself."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False) if value else ""
