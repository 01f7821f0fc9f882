"""What a judge's analysis of a panel tells of each panelist. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any


def scores(told: Mapping[str, Any], members: Mapping[str, str]) -> dict[str, float]:
    """How well each model did, 0 to 1, by what a fusion tells beside its answer.

    `members`: the panelists that answered, and their models. Each point of the analysis is worth
    one: what all agree on to everybody, a point that some cover to those and nothing to the
    others, an own insight to who had it. Where they contradict each other one is right at most,
    so that each of k stances is worth 1/k. Who was named the best has a point that the others
    have not. A model that was asked twice gets the mean; without any point nothing is told.
    """
    analysis = told.get("analysis") or {}
    earned: dict[str, list[float]] = defaultdict(list)
    for member in members:
        earned[member] += [1.0] * len(analysis.get("consensus") or ())
    for point in analysis.get("contradictions") or ():
        sides = [one["model"] for one in point["stances"]]
        for side in sides:
            earned[side].append(1.0 / len(sides))
    for point in analysis.get("partial_coverage") or ():
        for member in members:
            earned[member].append(float(member in point["models"]))
    for point in analysis.get("unique_insights") or ():
        earned[point["model"]].append(1.0)
    if told.get("best") in members:
        for member in members:
            earned[member].append(float(member == told["best"]))
    of_model: dict[str, list[float]] = defaultdict(list)
    for member, points in earned.items():
        # A judge may make names up: they are nobody's.
        if member in members and points:
            of_model[members[member]].append(sum(points) / len(points))
    return {model: sum(each) / len(each) for model, each in of_model.items()}
