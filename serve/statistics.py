"""How sure a figure is. Every interval here is a 95% interval, the same on every machine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: Resamples of a bootstrap.
DRAWS = 2000
_COVERAGE = (2.5, 97.5)
_Z = 1.959963984540054  # the normal quantile of 97.5%


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and the two ends of its interval."""

    value: float
    low: float
    high: float


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def spread(values: Sequence[float]) -> float:
    """The population standard deviation: 0 of one value."""
    middle = mean(values)
    return math.sqrt(math.fsum((value - middle) ** 2 for value in values) / len(values))


def wilson(successes: int, trials: int) -> Interval:
    """A share with Wilson's score interval (1927). Of no trials nothing is known: 0 to 1."""
    if not trials:
        return Interval(0.0, 0.0, 1.0)
    share, room = successes / trials, _Z**2 / trials
    centre = (share + room / 2) / (1 + room)
    half = math.sqrt(room * share * (1 - share) + room**2 / 4) / (1 + room)
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half))


def bootstrap(values: Sequence[float]) -> Interval:
    """The mean of one value a task, with a percentile bootstrap over the tasks."""
    known = np.asarray(values, dtype=float)
    drawn = np.random.default_rng(0).integers(0, len(known), (DRAWS, len(known)))
    low, high = np.percentile(known[drawn].mean(axis=1), _COVERAGE)
    return Interval(mean(values), float(low), float(high))


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Interval:
    """By how much we are above them on the same tasks, in the same order.

    Each resample draws tasks, not answers: what makes a task hard for both cancels out.
    """
    return bootstrap([mine - other for mine, other in zip(ours, theirs, strict=True)])
