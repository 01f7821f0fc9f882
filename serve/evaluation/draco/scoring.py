"""Scores after the benchmark's own rules. Pure.

MET means that the thing described is present in the answer, for negative criteria too. A
criterion without a verdict leaves every sum, and is counted as dropped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from serve import statistics

Verdict = Literal["MET", "UNMET"]


class ScoringError(ValueError):
    """Verdicts that no score follows from. The message says which and why."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One criterion and what the judge said of it; None: nothing valid."""

    criterion_id: str
    weight: float
    verdict: Verdict | None


@dataclass(frozen=True, slots=True)
class RunScore:
    """One judge run over one answer.

    `normalized_score` is 0 to 100, `pass_rate` 0 to 1. `raw_score` is the sum of the weights that
    are MET, negative ones too; `max_score` the sum of the positive weights.
    """

    normalized_score: float
    pass_rate: float
    raw_score: float
    max_score: float
    criteria: int
    dropped: int


@dataclass(frozen=True, slots=True)
class TaskScore:
    """The mean over the judge runs; `std` is the population standard deviation of their
    normalised scores."""

    normalized_score: float
    pass_rate: float
    raw_score: float
    max_score: float
    std: float
    runs: tuple[RunScore, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def score_run(verdicts: Sequence[Judged]) -> RunScore:
    """Raises ScoringError for a criterion that stands twice and where no positive weight counts."""
    seen: set[str] = set()
    for one in verdicts:
        if one.criterion_id in seen:
            raise ScoringError(f"the criterion '{one.criterion_id}' stands twice")
        seen.add(one.criterion_id)
    counted = [one for one in verdicts if one.verdict is not None]
    most = math.fsum(one.weight for one in counted if one.weight > 0)
    if not most:
        dropped = len(verdicts) - len(counted)
        without = f" once {dropped} without a verdict are left out" if dropped else ""
        raise ScoringError(f"no criterion has a positive weight{without}, so nothing can be scored")
    raw = math.fsum(one.weight for one in counted if one.verdict == "MET")
    return RunScore(
        normalized_score=100 * min(1.0, max(0.0, raw / most)),
        pass_rate=sum(map(passes, counted)) / len(counted),
        raw_score=raw,
        max_score=most,
        criteria=len(counted),
        dropped=len(verdicts) - len(counted),
    )


def passes(one: Judged) -> bool:
    """Whether a criterion is as it should be: something good there, or something bad not."""
    return (one.weight > 0 and one.verdict == "MET") or (one.weight < 0 and one.verdict == "UNMET")


def score_runs(runs: Sequence[Sequence[Judged]]) -> TaskScore:
    """All judge runs over one answer. Raises ScoringError that names the run."""
    if not runs:
        raise ScoringError("there are no runs")
    scored = []
    for number, verdicts in enumerate(runs, 1):
        try:
            scored.append(score_run(verdicts))
        except ScoringError as error:
            raise ScoringError(f"run {number}: {error}") from None
    return mean_of(scored)


def mean_of(runs: Sequence[RunScore]) -> TaskScore:
    return TaskScore(
        normalized_score=statistics.mean([run.normalized_score for run in runs]),
        pass_rate=statistics.mean([run.pass_rate for run in runs]),
        raw_score=statistics.mean([run.raw_score for run in runs]),
        max_score=statistics.mean([run.max_score for run in runs]),
        std=statistics.spread([run.normalized_score for run in runs]),
        runs=tuple(runs),
    )
