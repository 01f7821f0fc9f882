"""`fusion router eval`: a gain model against rows, as one record of figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from router.arrays import Doubles
from router.candidate import Candidate
from router.data import DataError, Row
from router.encoder import Encoder
from router.evaluate import (
    Curve,
    Figures,
    Interval,
    Rows,
    Sweep,
    apgr,
    bootstrap,
    constant_mixture,
    cpt,
    sweep,
    task_gain,
)
from router.gain import GainModel
from router.sketch import part_seen
from router.truth import Skipped, Truth, truth_of


@dataclass(frozen=True, slots=True)
class Report:
    """Figures with intervals, each by the name that `as_json` gives it. trained_on: the part of
    the rows that the weights were learned from, as far as that can be told. skipped: what of the
    rows the figures are not about.
    """

    n: int
    models: tuple[str, ...]
    encoder: bool
    mapping: Mapping[str, str]
    trained_on: float | None = None
    skipped: Skipped = field(default_factory=Skipped)
    figures: Mapping[str, Interval] = field(default_factory=dict)
    baselines: Mapping[str, Interval] = field(default_factory=dict)
    curve: Curve | None = None
    mixture: Curve | None = None
    constants: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """One object: the figures plain, their intervals beside them under `intervals`."""
        spoken: dict[str, Any] = {"n": self.n, "models": list(self.models)}
        spoken |= {name: figure.value for name, figure in self.figures.items()}
        if self.baselines:
            spoken["baselines"] = {name: found.value for name, found in self.baselines.items()}
        if self.curve is not None:
            spoken["curve"] = _points(self.curve)
            spoken["constants"] = {name: dict(value) for name, value in self.constants.items()}
        if self.mixture is not None:
            spoken["constant_mixture"] = _points(self.mixture)
        intervals: dict[str, Any] = {
            name: [figure.low, figure.high] for name, figure in self.figures.items()
        }
        if self.baselines:
            intervals["baselines"] = {k: [v.low, v.high] for k, v in self.baselines.items()}
        return spoken | {
            "intervals": intervals,
            "encoder": self.encoder,
            "mapping": dict(self.mapping),
            "trained_on": self.trained_on,
            "skipped": self.skipped.as_json(),
        }


def evaluate(
    model: GainModel,
    rows: Sequence[Row],
    mapping: Mapping[str, str] | None = None,
    encoder: Encoder | None = None,
) -> Report:
    """How well the model routes rows whose outcomes are known. Deterministic.

    `mapping`: name in the rows to name in the weights. A name that the weights do not know is
    else placed between the weakest and the strongest by order of price, or, where rows have no
    costs, of mean score: the order that tells which model is the strong one anyway.
    Raises DataError where most rows do not share two models or more.
    """
    truth = truth_of(rows)
    candidates = _candidates(model, truth, mapping or {})
    prediction = model.predict([row.prompt for row in truth.rows], candidates, encoder)
    named = {c.name: c.known_as or f"strength {c.strength:.2f}" for c in candidates}
    figures: Figures = {}
    baselines: Figures = {}
    curve = mixture = None
    constants: dict[str, dict[str, float]] = {}
    if len(candidates) == 2:
        figures, baselines = _two(truth, prediction.quality)
    if truth.costs is not None:
        swept = sweep(prediction.quality, prediction.cost, truth.scores, truth.costs)
        curve = swept.curve()
        mixture = constant_mixture(truth.scores, truth.costs)
        constants = _constants(truth, curve)
        figures |= _priced(truth, swept)
    elif len(candidates) > 2:
        figures |= _unpriced(truth, prediction.quality)
    used = encoder is not None and model.encoded is not None
    return Report(
        n=len(truth.rows),
        models=truth.models,
        encoder=used,
        mapping=named,
        trained_on=part_seen(model.seen, (row.prompt for row in truth.rows)),
        skipped=truth.skipped,
        figures=figures,
        baselines=baselines,
        curve=curve,
        mixture=mixture,
        constants=constants,
    )


def _candidates(model: GainModel, truth: Truth, mapping: Mapping[str, str]) -> list[Candidate]:
    for name, known in mapping.items():
        if name not in truth.models:
            raise DataError(f"no model {name!r} in the data; there are {', '.join(truth.models)}")
        if not model.knows(known):
            there = ", ".join(sorted(model.plain.beside.places))
            raise DataError(f"no model {known!r} in the weights; there are {there}")
    candidates = []
    for index, name in enumerate(truth.models):
        known = mapping.get(name) or model.recognise(name) or name
        cost = None if truth.costs is None else float(truth.costs[:, index].mean())
        strength = index / (len(truth.models) - 1)
        if model.knows(known):
            own = model.mean_cost(known) is not None
            candidates.append(Candidate(name, known, strength, None if own else cost))
        else:
            candidates.append(Candidate(name, None, strength, cost))
    return candidates


def _two(truth: Truth, quality: Doubles) -> tuple[Figures, Figures]:
    means = truth.scores.mean(axis=0)
    low, high = (0, 1) if means[1] >= means[0] else (1, 0)
    weak, strong = truth.scores[:, low], truth.scores[:, high]
    gain = quality[:, high] - quality[:, low]
    rankings = {
        # In expectation; one draw of few rows may show anything.
        "random": np.zeros(len(gain)),
        "prompt_length": truth.lengths,
        "task_label": task_gain(strong - weak, truth.tasks),
        # A constant ranks nothing: shares of it are drawn at random, and its area is a half.
        "best_constant": np.zeros(len(gain)),
        "oracle": strong - weak,
    }

    def figures(at: Rows) -> dict[str, float | None]:
        found = (gain[at], weak[at], strong[at])
        return {"apgr": apgr(*found), "cpt50": cpt(*found, 0.5), "cpt80": cpt(*found, 0.8)}

    def baselines(at: Rows) -> dict[str, float | None]:
        return {name: apgr(by[at], weak[at], strong[at]) for name, by in rankings.items()}

    if not (strong - weak).sum() > 0.0:
        # Without a gap there is nothing to recover.
        nothing = Interval(None, None, None)
        return dict.fromkeys(("apgr", "cpt50", "cpt80"), nothing), dict.fromkeys(rankings, nothing)
    return bootstrap(figures, len(gain)), bootstrap(baselines, len(gain))


def _priced(truth: Truth, swept: Sweep) -> Figures:
    scores, dollars = truth.scores, truth.costs
    assert dollars is not None

    def figures(at: Rows) -> dict[str, float | None]:
        router, constants = swept.curve(at), constant_mixture(scores[at], dollars[at])
        means = dollars[at].mean(axis=0)
        low, high, dearest = float(means.min()), float(means.max()), int(means.argmax())
        reached = router.cost_of(float(scores[at, dearest].mean()))
        margins = router.over(constants, low, high)
        return {
            "cost_ratio_at_best_quality": None if reached is None else reached / max(high, 1e-12),
            "area": router.area(low, high),
            "constant_area": constants.area(low, high),
            "least_margin": float(margins.min()),
            "mean_margin": float(margins.mean()),
        }

    return bootstrap(figures, len(scores))


def _constants(truth: Truth, curve: Curve) -> dict[str, dict[str, float]]:
    assert truth.costs is not None
    found = {}
    for index, name in enumerate(truth.models):
        cost, quality = float(truth.costs[:, index].mean()), float(truth.scores[:, index].mean())
        at_cost = curve.quality_at(cost)
        found[name] = {"cost": cost, "quality": quality, "router_quality_at_cost": at_cost}
    return found


def _unpriced(truth: Truth, quality: Doubles) -> Figures:
    """More than two models without costs: the mean score of whoever seems best."""
    named = {
        "quality": truth.scores[np.arange(len(quality)), quality.argmax(axis=1)],
        "best_constant_quality": truth.scores[:, int(truth.scores.mean(axis=0).argmax())],
        "oracle_quality": truth.scores.max(axis=1),
    }
    return bootstrap(lambda at: {n: float(v[at].mean()) for n, v in named.items()}, len(quality))


def _points(curve: Curve) -> list[dict[str, float]]:
    pairs = zip(curve.cost.tolist(), curve.quality.tolist(), strict=True)
    return [{"cost": cost, "quality": quality} for cost, quality in pairs]
