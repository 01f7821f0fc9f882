"""What a batch will cost, from a sample of its rows. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serve.statistics import Interval, bootstrap


@dataclass(frozen=True, slots=True)
class Estimate:
    """Totals for all rows, each with a 95% interval. None where the sample does not tell."""

    rows: int
    sampled: int
    failed: int
    tokens: Interval | None
    usd: Interval | None
    hours: Interval | None


def estimate(sample: Sequence[Mapping[str, Any]], rows: int, seconds: float) -> Estimate:
    """From rows of results (`serve.jobs.export.SCHEMA`) that took `seconds` together.

    Hours are for the sample's own concurrency: a long batch learns to use more of the cluster, so
    they are more likely too many than too few.
    """
    answered = [row for row in sample if row["status"] == "done"]
    fresh = [row for row in answered if not row["reused"]]
    costs = [row["cost_usd"] for row in answered]
    # How many rows were at work at a time.
    at_once = max(1.0, sum(row["seconds"] for row in fresh) / seconds) if seconds else 1.0
    return Estimate(
        rows=rows,
        sampled=len(sample),
        failed=len(sample) - len(answered),
        tokens=_total([row["input_tokens"] + row["output_tokens"] for row in answered], rows),
        usd=None if None in costs else _total([float(cost) for cost in costs], rows),
        hours=_total([row["seconds"] / at_once / 3600 for row in fresh], rows),
    )


def _total(values: Sequence[float], rows: int) -> Interval | None:
    if not values:
        return None
    found = bootstrap(values)
    return Interval(found.value * rows, found.low * rows, found.high * rows)
