"""What an evaluation will cost, from a few of its rows that are really asked.

Their answers are kept, so the evaluation itself does not pay for them again.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from serve.evaluation.outcome import of_row
from serve.evaluation.work import Row
from serve.statistics import Interval, bootstrap

#: Questions or tasks that are asked ahead. A set of no more than twice as many is not estimated:
#: its budget alone keeps it.
SAMPLE = 5

Thing = TypeVar("Thing")


@dataclass(frozen=True, slots=True)
class Forecast:
    """Dollars for all rows, with a 95% interval; None where a model has no price."""

    rows: int
    sampled: int
    usd: Interval | None


def few(things: Sequence[Thing], most: int = SAMPLE) -> list[Thing]:
    """Some of them, the same ones each time."""
    return random.Random(0).sample(things, min(most, len(things)))  # noqa: S311  # a spread


def forecast(parts: Iterable[tuple[Sequence[Row], int]]) -> Forecast:
    """Of each kind of row, those that were asked and how many there will be.

    The ends of the intervals are added up, as if all kinds erred together: rather too wide.
    """
    found = [(rows, total, _usd(rows, total)) for rows, total in parts if total]
    known = [usd for *_, usd in found if usd is not None]
    return Forecast(
        rows=sum(total for _, total, _ in found),
        sampled=sum(len(rows) for rows, *_ in found),
        usd=Interval(
            sum(one.value for one in known),
            sum(one.low for one in known),
            sum(one.high for one in known),
        )
        if len(known) == len(found)
        else None,
    )


def _usd(rows: Sequence[Row], total: int) -> Interval | None:
    costs = [of_row(row, 0.0).usd for row in rows]
    known = [float(one) for one in costs if one is not None]
    if not known or len(known) < len(costs):
        return None
    mean = bootstrap(known)
    return Interval(mean.value * total, mean.low * total, mean.high * total)
