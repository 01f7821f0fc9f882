"""Figures for a router, offline, on rows where every model's outcome is known.

Two models: how much of the gap between weak and strong is recovered by which share of strong
calls (APGR and CPT, Ong et al. 2024, RouteLLM). With costs: the quality-cost curve beside the
best mixture of constant models. Every figure comes with a bootstrap interval over rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from router.arrays import Doubles

Rows = NDArray[np.intp]
"""Numbers of rows, a row as often as it is drawn."""

QUANTILES = 10
"""Thresholds of the recovered-gap curve, besides its two ends."""

BOOTSTRAPS = 200
_COVERAGE = (2.5, 97.5)


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its 95% percentile bootstrap interval; `value` None: never reached."""

    value: float | None
    low: float | None
    high: float | None


Figures = dict[str, Interval]


@dataclass(frozen=True, slots=True)
class Curve:
    """Mean cost in dollars, ascending, and mean quality of a router's operating points.

    A point between two neighbours is reached by choosing between them at random.
    """

    cost: Doubles
    quality: Doubles

    def quality_at(self, cost: float) -> float:
        """Quality at a mean cost a request; outside the curve, that of its nearer end."""
        return float(np.interp(cost, self.cost, self.quality))

    def cost_of(self, quality: float) -> float | None:
        """The least mean cost that reaches a quality, or None where nothing does."""
        return _first_crossing(self.quality, self.cost, quality)

    def area(self, low: float, high: float) -> float:
        """Mean quality over costs from low to high dollars, every dollar weighing the same."""
        if high <= low:
            return self.quality_at(low)
        grid = np.linspace(low, high, 512)
        return float(np.interp(grid, self.cost, self.quality).mean())

    def over(self, other: Curve, low: float, high: float) -> Doubles:
        """Quality less that of another curve, at 64 costs from low to high dollars, (64,), each as
        many times the one before."""
        grid = np.geomspace(max(low, 1e-9), max(high, 1e-9), 64)
        return np.array([self.quality_at(cost) - other.quality_at(cost) for cost in grid])


def recovered_gap(gain: Doubles, weak: Doubles, strong: Doubles) -> tuple[Doubles, Doubles]:
    """Share of strong calls and share of the gap recovered, from (0, 0) to (1, 1).

    `gain` (rows,) ranks the rows, `weak` and `strong` (rows,) are their true scores. Rows at or
    over each of `QUANTILES` + 1 evenly spaced quantiles of gain go to the strong model.
    Raises ValueError where strong is on average no better than weak: there is no gap.
    """
    difference = strong - weak
    gap = float(difference.sum())
    if gap <= 0.0:
        raise ValueError("the strong model scores no better than the weak one on these rows")
    thresholds = np.quantile(gain, np.linspace(1.0, 0.0, QUANTILES + 1))
    called = gain[None, :] >= thresholds[:, None]
    share = called.mean(axis=1)
    recovered = called @ difference / gap
    return np.concatenate([[0.0], share, [1.0]]), np.concatenate([[0.0], recovered, [1.0]])


def apgr(gain: Doubles, weak: Doubles, strong: Doubles) -> float:
    """Average performance gap recovered: area under `recovered_gap`. Random is 0.5."""
    return float(np.trapezoid(*recovered_gap(gain, weak, strong)[::-1]))


def cpt(gain: Doubles, weak: Doubles, strong: Doubles, part: float) -> float:
    """Call-performance threshold: the least share of strong calls that recovers `part` of the gap.

    Between two thresholds the curve is a straight line. CPT50 is part 0.5.
    """
    share, recovered = recovered_gap(gain, weak, strong)
    crossing = _first_crossing(recovered, share, part)
    return 1.0 if crossing is None else crossing


@dataclass(frozen=True, slots=True)
class Sweep:
    """What choosing the model with the greatest quality - price x cost gives, price by price.

    cost, quality (prices, rows): true dollars and scores of the models chosen at each price.
    """

    cost: Doubles
    quality: Doubles

    def curve(self, rows: Rows | None = None) -> Curve:
        """Means over all rows, or over some of them, as often as each is named."""
        weight = np.bincount(rows, minlength=self.cost.shape[1]) if rows is not None else None
        cost = np.average(self.cost, axis=1, weights=weight)
        quality = np.average(self.quality, axis=1, weights=weight)
        order = np.lexsort((quality, cost))
        return Curve(cost[order], quality[order])


def sweep(quality: Doubles, cost: Doubles, true_quality: Doubles, true_cost: Doubles) -> Sweep:
    """Route at all prices, from none, where quality alone counts, to where cost alone does.

    All four arrays are (rows, models); the first two are what the router predicts.
    """
    spread = max(float(quality.max() - quality.min()), 1e-6)
    dearest = max(float(cost.max()), 1e-12)
    prices = np.concatenate([[0.0], np.geomspace(1e-3, 1e7, 161) * spread / dearest])
    chosen = [np.argmax(quality - price * cost, axis=1) for price in prices]
    chosen.append(np.argmin(cost, axis=1))
    distinct = np.unique(np.array(chosen), axis=0)
    rows = np.arange(len(quality))
    return Sweep(true_cost[rows, distinct], true_quality[rows, distinct])


def constant_mixture(true_quality: Doubles, true_cost: Doubles) -> Curve:
    """The best that constant models and random mixtures of two of them reach at each cost.

    The upper hull of the models' mean cost and quality, flat beyond its best model.
    """
    points = sorted(zip(true_cost.mean(axis=0), true_quality.mean(axis=0), strict=True))
    hull: list[tuple[float, float]] = []
    for point in points:
        if hull and point[1] <= hull[-1][1]:
            continue
        while len(hull) >= 2 and _is_under(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    costs, qualities = zip(*hull, strict=True)
    return Curve(np.array(costs), np.array(qualities))


def bootstrap(figures: Callable[[Rows], Mapping[str, float | None]], rows: int) -> Figures:
    """Figures of row numbers, each with its 95% interval over `BOOTSTRAPS` resamples of the rows.

    Resamples where a figure is not defined are left out of its interval.
    """
    generator = np.random.default_rng(0)
    drawn: dict[str, list[float]] = defaultdict(list)
    for _ in range(BOOTSTRAPS):
        # A resample may have no gap between the models at all.
        with suppress(ValueError):
            for name, value in figures(generator.integers(0, rows, rows)).items():
                if value is not None:
                    drawn[name].append(value)
    found = {}
    for name, value in figures(np.arange(rows)).items():
        ends = np.percentile(drawn[name], _COVERAGE).tolist() if drawn[name] else (None, None)
        found[name] = Interval(value, *ends)
    return found


def task_gain(difference: Doubles, tasks: Sequence[str], prior_rows: float = 20.0) -> Doubles:
    """The gain that a task's label alone tells, (rows,): the task's mean over other rows.

    Shrunken towards the mean of all rows as if `prior_rows` of those had been seen. Each half of
    the rows is told what the other half saw, so that no row tells its own outcome.
    """
    names, index = np.unique(np.array(tasks, dtype=np.str_), return_inverse=True)
    prior = float(difference.mean()) * prior_rows
    half = np.random.default_rng(0).random(len(difference)) < 0.5
    gain = np.empty(len(difference))
    for side in (half, ~half):
        total = np.bincount(index[~side], difference[~side], len(names))
        count = np.bincount(index[~side], minlength=len(names))
        gain[side] = ((total + prior) / (count + prior_rows))[index[side]]
    return gain


def _first_crossing(rising: Doubles, along: Doubles, level: float) -> float | None:
    reached = np.flatnonzero(rising >= level - 1e-12)
    if not len(reached):
        return None
    after = int(reached[0])
    if after == 0:
        return float(along[0])
    low, high = rising[after - 1], rising[after]
    part = (level - low) / (high - low)
    return float(along[after - 1] + part * (along[after] - along[after - 1]))


def _is_under(
    left: tuple[float, float], middle: tuple[float, float], right: tuple[float, float]
) -> bool:
    run, rise = right[0] - left[0], right[1] - left[1]
    return (middle[1] - left[1]) * run <= rise * (middle[0] - left[0])
