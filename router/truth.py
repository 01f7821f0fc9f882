"""What really happened on rows, as numbers, and what of the rows has no part in that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from router.arrays import Doubles
from router.data import DataError, Row


@dataclass(frozen=True, slots=True)
class Skipped:
    """What was left out. rows: that not all compared models answered; models: that answered too
    few rows; costs: absent ones that their model's mean stands for; priceless: models without
    any cost where others have one, so that nothing is said of costs.
    """

    rows: int = 0
    models: tuple[str, ...] = ()
    costs: int = 0
    priceless: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"models": list(self.models), "priceless": list(self.priceless)}

    def said(self) -> list[str]:
        """The same as sentences, none where nothing was left out."""
        told = []
        if self.models:
            told.append(f"models left out, which answered too few rows: {', '.join(self.models)}")
        if self.rows:
            told.append(f"rows left out, which not all models answered: {self.rows}")
        if self.costs:
            told.append(f"absent costs, taken to be the mean of their model: {self.costs}")
        if self.priceless:
            told.append(f"nothing is said of costs, for want of any of {', '.join(self.priceless)}")
        return told


@dataclass(frozen=True, slots=True)
class Truth:
    """What happened: scores and dollars (rows, models), and what the baselines may look at."""

    rows: tuple[Row, ...]
    models: tuple[str, ...]
    scores: Doubles
    costs: Doubles | None
    skipped: Skipped = field(default_factory=Skipped)

    @property
    def lengths(self) -> Doubles:
        return np.array([len(row.prompt) for row in self.rows], np.float64)

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(row.task for row in self.rows)


def truth_of(rows: Sequence[Row]) -> Truth:
    """The rows and models that can be compared, which are most of them, models from weak to
    strong, or where they have costs from cheap to dear.

    Raises DataError where no two models answered most of the rows.
    """
    models = _compared(rows)
    kept = tuple(row for row in rows if row.outcomes.keys() >= set(models))
    scores = np.array([[row.outcomes[m].score for m in models] for row in kept], np.float64)
    found = [[row.outcomes[m].cost for m in models] for row in kept]
    costs = np.array(found, dtype=object).astype(np.float64)
    absent = np.isnan(costs)
    priceless = absent.all(axis=0)
    order = np.argsort(scores.mean(axis=0), kind="stable")
    filled = None
    if not priceless.any():
        filled = np.where(absent, np.nanmean(costs, axis=0), costs)
        order = np.argsort(filled.mean(axis=0), kind="stable")
        filled = filled[:, order]
    skipped = Skipped(
        len(rows) - len(kept),
        tuple(sorted({name for row in rows for name in row.outcomes} - set(models))),
        0 if filled is None else int(absent.sum()),
        () if priceless.all() else tuple(np.array(models)[priceless].tolist()),
    )
    return Truth(kept, tuple(models[index] for index in order), scores[:, order], filled, skipped)


def _compared(rows: Sequence[Row]) -> list[str]:
    """Of the models that answered the most rows as many as make the most of rows times models."""
    often = Counter(name for row in rows for name in row.outcomes)
    ranked = sorted(often, key=lambda name: (-often[name], name))
    # How many of the ranked models, from the first on, each row has.
    reach = [
        next((i for i, m in enumerate(ranked) if m not in row.outcomes), len(ranked))
        for row in rows
    ]
    best = max(
        range(2, len(ranked) + 1),
        key=lambda count: count * sum(one >= count for one in reach),
        default=0,
    )
    # A report on fewer than half of the rows would be one on other data.
    if not best or 2 * sum(one >= best for one in reach) < len(rows):
        sets = Counter(", ".join(sorted(row.outcomes)) for row in rows).most_common(5)
        told = "; ".join(f"{count} of {names}" for names, count in sets)
        raise DataError(
            "fewer than two models answered most of the rows together, so nothing can be "
            f"compared; there are rows {told}"
        )
    return sorted(ranked[:best])
