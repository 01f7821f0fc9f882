"""What systems made of the same tasks: figures with intervals, paired. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from serve.evaluation.systems import System
from serve.statistics import Interval, bootstrap, mean, paired, wilson


@dataclass(frozen=True, slots=True)
class Outcome:
    """One system and one task. `score` is 0 to 1 (0 to 100 in DRACO); a failure is 0."""

    score: float
    #: Dollars; None where a model that answered has no price.
    usd: Decimal | None
    seconds: float
    failed: bool = False
    #: What a failure said.
    why: str | None = None


@dataclass(frozen=True, slots=True)
class Figures:
    """One line of a table."""

    system: str
    kind: str
    tasks: int
    score: Interval
    #: Above the first system of the table, over the same tasks.
    above: Interval
    failed: int
    #: A task; None where it is not known.
    usd: float | None
    seconds: Interval
    on_front: bool = False
    #: What most of its failures said.
    why: str | None = None


def figures(
    systems: Sequence[System], outcomes: Mapping[str, Sequence[Outcome]], *, right_or_wrong: bool
) -> list[Figures]:
    """A line a system, in their order. `outcomes` by system, of the same tasks in one order."""
    first = [one.score for one in outcomes[systems[0].name]]
    lines = []
    for system in systems:
        found = outcomes[system.name]
        scores = [one.score for one in found]
        costs = [one.usd for one in found if one.usd is not None]
        lines.append(
            Figures(
                system=system.name,
                kind=system.kind,
                tasks=len(found),
                score=wilson(round(sum(scores)), len(scores))
                if right_or_wrong
                else bootstrap(scores),
                above=paired(scores, first),
                failed=sum(one.failed for one in found),
                usd=float(sum(costs)) / len(found) if len(costs) == len(found) else None,
                seconds=bootstrap([one.seconds for one in found]),
                why=_most([one.why for one in found if one.why]),
            )
        )
    # What answers nothing costs nothing, and is no bargain.
    best = front(
        [(None if line.failed == line.tasks else line.usd, line.score.value) for line in lines]
    )
    return [replace(line, on_front=place in best) for place, line in enumerate(lines)]


def _most(said: Sequence[str]) -> str | None:
    return Counter(said).most_common(1)[0][0] if said else None


def front(points: Sequence[tuple[float | None, float]]) -> set[int]:
    """Which of these (cost, quality) no other one beats: as good for less, or better for as much.

    One whose cost is not known is on no front.
    """
    found = set()
    for place, (cost, quality) in enumerate(points):
        if cost is None:
            continue
        others = [(c, q) for at, (c, q) in enumerate(points) if at != place and c is not None]
        if not any(c <= cost and q >= quality and (c < cost or q > quality) for c, q in others):
            found.add(place)
    return found


def of_row(row: Mapping[str, Any], score: float) -> Outcome:
    """One row of a batch's results, scored."""
    failed = row["status"] != "done"
    # What failed may have cost money all the same: an answer that was all thought, for one.
    unknown = Decimal(0) if failed else None
    cost = unknown if row["cost_usd"] is None else Decimal(row["cost_usd"])
    why = row.get("error") if failed else None
    return Outcome(0.0 if failed else score, cost, row["seconds"] or 0.0, failed, why)


def together(rows: Sequence[Mapping[str, Any]], score: float) -> Outcome:
    """Several rows that make one answer: dearer by each, and done when the slowest is."""
    parts = [of_row(row, score) for row in rows]
    known = [part.usd for part in parts if part.usd is not None]
    failed = all(part.failed for part in parts)
    return Outcome(
        0.0 if failed else score,
        sum(known, Decimal(0)) if len(known) == len(parts) else None,
        max(part.seconds for part in parts),
        failed,
        _most([part.why for part in parts if part.why]) if failed else None,
    )


def spread_by(scores: Sequence[float], groups: Sequence[str]) -> dict[str, float]:
    """The mean of each group, by its name."""
    names = sorted(set(groups))
    return {
        name: mean([score for score, group in zip(scores, groups, strict=True) if group == name])
        for name in names
    }
