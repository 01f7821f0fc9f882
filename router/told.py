"""Numbers that come from outside: a state that is imported must not break what goes on from it."""

from __future__ import annotations

from typing import Any

MOST = 1e12
"""No number of a state is greater: sums and squares of such ones stay finite."""


def number(value: Any, low: float = -MOST, high: float = MOST) -> float:
    """A finite number within these bounds. Raises ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is not a number")  # noqa: TRY004  bad data, not a bug
    if not low <= value <= high:  # nor is what is no number at all
        raise ValueError(f"{value!r} is not within {low:g} to {high:g}")
    return float(value)


def count(value: Any, low: int = 0, high: int = int(MOST)) -> int:
    """A whole number within these bounds. Raises ValueError for anything else."""
    if number(value, low, high) != (whole := int(value)):
        raise ValueError(f"{value!r} is not a whole number")
    return whole
