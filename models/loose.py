"""Reading JSON that somebody else wrote: whatever is missing or of another type is empty."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def mappings(value: Any) -> list[Mapping[str, Any]]:
    """The objects of a list."""
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def count(value: Any) -> int:
    """A number of tokens or a place in a list, never negative."""
    return value if isinstance(value, int) and value > 0 else 0


def text(value: Any) -> str:
    """A text as it is, nothing for null, other values as they print."""
    return "" if value is None else str(value)
