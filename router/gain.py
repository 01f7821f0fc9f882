"""The gain model: for every candidate the expected quality, how sure of it, and the cost.

What was learned comes in families: rows that the same models answered. In each family a forest
and two kernels tell how its models fare on a prompt. For a candidate of a family their word is
shrunk towards the candidate's mean, by how much it proved right on other rows of known tasks
near what was seen, and on whole unseen tasks far from it. Where a prompt lies nearer to what
another family saw, the gain of strong over weak models there takes part. A model that no family
knows is placed between weak and strong by a prior strength.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from router.arrays import Doubles, Floats
from router.candidate import Candidate
from router.encoder import Encoder
from router.eye import Eye, Family
from router.features import BUCKETS, SURFACE, ngrams, surface
from router.sketch import Sketch, sketch
from router.words import AXES, meaning

FAR_SPREAD = 0.25
"""Standard deviation of the expected quality of a model that was never seen."""

FAR = 1.25
"""Distance from which a prompt is unlike anything seen. The rim of the training data is at 1."""

_FAMILIAR = 0.5
"""Distance, in reaches, up to which a prompt is like those of the training data."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What is expected, before anything is spent; arrays are (prompts, candidates).

    quality: expected score. spread: its standard deviation. cost: dollars, NaN where unknown.
    distance (prompts,): from what was seen, 1 at the rim of the training data; well over it a
    prompt is `far`, and there the quality is little more than each model's mean. context
    (prompts, features): the prompts on one scale, for what learns on line. guessed: for each
    candidate, whether it was placed by its strength alone.
    """

    quality: Doubles
    spread: Doubles
    cost: Doubles
    distance: Doubles
    context: Floats = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    guessed: tuple[bool, ...] = ()

    @property
    def far(self) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        """Which prompts are unlike anything seen."""
        return self.distance > FAR


@dataclass(frozen=True, slots=True)
class GainModel:
    """Everything learned: an eye that needs no encoder, and one that does where it was trained."""

    plain: Eye
    encoded: Eye | None = None
    seen: Sketch = field(default_factory=lambda: sketch(()))
    """Of the prompts that it was learned from."""

    def predict(
        self,
        prompts: Sequence[str],
        candidates: Sequence[Candidate],
        encoder: Encoder | None = None,
    ) -> Prediction:
        """What each candidate would make of each prompt. Pure but for the encoder's arithmetic."""
        if not candidates:
            raise ValueError("no candidates to choose from")
        form = np.array([surface(prompt) for prompt in prompts], np.float32).reshape(-1, SURFACE)
        eye = self.eye(encoder)
        if encoder is not None and eye is self.encoded:
            about = encoder.encode(prompts)
        else:
            told = [np.concatenate([ngrams(prompt), meaning(prompt)]) for prompt in prompts]
            about = np.array(told, np.float32).reshape(-1, BUCKETS + AXES)
        return self.judge(eye, eye.sight.look(form, about), candidates)

    def eye(self, encoder: Encoder | None) -> Eye:
        """The eye that looks with this encoder, or without one."""
        return self.plain if encoder is None or self.encoded is None else self.encoded

    def judge(self, eye: Eye, inputs: Floats, candidates: Sequence[Candidate]) -> Prediction:
        """`predict` for prompts already seen by an eye, (prompts, features)."""
        distances = eye.sight.distances(inputs)
        views, weight = hear(eye, inputs, distances), nearness(distances)
        home = _home(candidates, views)
        blended = _blend(views, weight, distances, home) if home >= 0 else None
        # Scores of different families are of different prompts and cannot be compared: who is
        # not of the home that most candidates share is placed in it by strength.
        near = views if home < 0 else [views[home]]
        weights = weight.T if home < 0 else np.ones((1, len(inputs)))
        dollars = [view.dollars() for view in views]
        dearness = _dearness(views, dollars)
        guessed = []
        shape = (len(inputs), len(candidates))
        quality, spread, cost = np.empty(shape), np.empty(shape), np.empty(shape)
        for index, candidate in enumerate(candidates):
            own, column = _place(candidate, views, home)
            if blended is None or own != home:
                expected = [view.weak + candidate.strength * view.gain for view in near]
                quality[:, index], spread[:, index] = _mean(expected, weights), FAR_SPREAD
            else:
                quality[:, index] = blended[0][:, column]
                spread[:, index] = blended[1][:, column]
            guessed.append(blended is None or own != home)
            cost[:, index] = _cost(candidate, views, dollars, dearness, own, column)
        return Prediction(
            np.clip(quality, 0.0, 1.0),
            spread,
            cost,
            distances.min(axis=1),
            eye.sight.place(inputs),
            tuple(guessed),
        )

    def knows(self, name: str) -> bool:
        """Whether a model of this name is in the training data."""
        return any(name in family.models for family in self.plain.families)

    def recognise(self, name: str) -> str | None:
        """What the training data call a model of this name, if they have it: in any case of
        letters, with or without its maker's name before a slash."""
        wanted = _bare(name)
        names = (model for family in self.plain.families for model in family.models)
        return next((model for model in names if _bare(model) == wanted), None)

    def mean_cost(self, name: str) -> float | None:
        """Mean dollars of a model's answers in the training data, None where unknown."""
        for family in self.plain.families:
            if name in family.models:
                cost = family.cost[family.models.index(name)]
                return cost if math.isfinite(cost) else None
        return None


@dataclass(frozen=True, slots=True)
class View:
    """One family's word on each prompt: deviation (rows, models); weak, gain and lift (rows,),
    the gain of its stronger half and how unusual that gain is. heard: what each tree says of
    scores and of dollars, (rows, trees, models); what is made of it costs time, so it is made
    only where it is asked for.
    """

    family: Family
    deviation: Doubles
    weak: Doubles
    gain: Doubles
    lift: Doubles
    heard: tuple[Doubles, Doubles]

    def spread(self) -> Doubles:
        """Standard deviation of the expected scores, (rows, models)."""
        # Trees of one forest share their rows, so their mean varies more than independent ones'.
        spread: Doubles = np.sqrt(self.heard[0].var(axis=1) / 3.0 + 0.0004)
        return spread

    def dollars(self) -> Doubles | None:
        """Dollars of an answer, (rows, models); None where none were seen."""
        costs = self.heard[1]
        if not costs.shape[1]:
            return None
        dollars: Doubles = np.exp(costs.mean(axis=1)) * self.family.cost_scale
        return dollars


def nearness(distances: Doubles) -> Doubles:
    """How much each family's experience counts for a prompt that none calls its own."""
    weight: Doubles = np.exp(-4.0 * (distances - distances.min(axis=1, keepdims=True)))
    return weight


def foreign_gain(views: list[View], weight: Doubles, own: int) -> Doubles:
    """What the other families say of the gain of a family's stronger half over its weaker one,
    (rows,), less its mean and in that family's measure.
    """
    others = [index for index in range(len(views)) if index != own]
    lift = _mean([views[index].lift for index in others], weight.T[others])
    return lift * views[own].family.gain_spread


def hear(eye: Eye, inputs: Floats, distances: Doubles) -> list[View]:
    """Every family's word on prompts already seen by an eye, (prompts, features)."""
    found = eye.forest.values[eye.forest.leaves(inputs)].astype(np.float64)
    smooth = [kernel.predict(inputs) for kernel in eye.kernels]
    views = []
    for index, family in enumerate(eye.families):
        width = len(family.models)
        scores, costs = (
            found[:, first:last, :width] for first, last in (family.trees, family.cost_trees)
        )
        quality = np.array(family.quality)
        said = [scores.mean(axis=1) - quality, *(word[index][:, :width] for word in smooth)]
        both = sum(loud * word for loud, word in zip(family.voices, said, strict=True))
        # Trusted where the like was seen, less and less beyond.
        away = distances[:, index]
        beyond = np.clip((away - _FAMILIAR) / (1.0 - _FAMILIAR), 0.0, 1.0)
        trust = (family.near + (family.far - family.near) * beyond) / np.maximum(away, 1.0)
        deviation: Doubles = trust[:, None] * both
        weak, strong = ((quality + deviation) @ family.sides).T
        lift = (strong - weak - family.gain_mean) / max(family.gain_spread, 1e-6)
        views.append(View(family, deviation, weak, strong - weak, lift, (scores, costs)))
    return views


def _bare(name: str) -> str:
    return name.rpartition("/")[2].lower()


def _place(candidate: Candidate, views: list[View], home: int) -> tuple[int, int]:
    """Family and column of a candidate, at home or else where most rows are; -1, -1 for an
    unknown one."""
    name = candidate.known_as or candidate.name
    found = [
        (index == home, view.family.rows, index, view.family.models.index(name))
        for index, view in enumerate(views)
        if name in view.family.models
    ]
    return max(found)[2:] if found else (-1, -1)


def _home(candidates: Sequence[Candidate], views: list[View]) -> int:
    """The family that most candidates are of, where most rows are; -1 if there is none."""
    names = {candidate.known_as or candidate.name for candidate in candidates}
    found = [
        (len(names & {*view.family.models}), view.family.rows, index)
        for index, view in enumerate(views)
    ]
    count, _, index = max(found)
    return index if count else -1


def _blend(
    views: list[View], weight: Doubles, distances: Doubles, own: int
) -> tuple[Doubles, Doubles]:
    """Quality and spread of a family's models, (rows, models), the other families heard too."""
    view = views[own]
    deviation = view.deviation
    if len(views) > 1:
        elsewhere = distances.copy()
        elsewhere[:, own] = np.inf
        # A half where home is as near as another family, all where home is far off.
        share = np.clip(0.5 + 4.0 * (distances[:, own] - elsewhere.min(axis=1)), 0.0, 1.0)
        foreign = view.family.foreign * foreign_gain(views, weight, own)
        ways = 0.5 * np.sign(view.family.sides @ [-1.0, 1.0])
        deviation = (1.0 - share)[:, None] * deviation + (share * foreign)[:, None] * ways
    unsure = 0.1 * np.minimum(distances[:, own], 2.0)
    return deviation + view.family.quality, np.hypot(view.spread(), unsure[:, None])


def _mean(values: Sequence[Doubles], weights: Sequence[Doubles] | Doubles) -> Doubles:
    total = sum(weights)
    mean: Doubles = sum(
        value * weight for value, weight in zip(values, weights, strict=True)
    ) / np.maximum(total, 1e-12)
    return mean


def _dearness(views: list[View], dollars: list[Doubles | None]) -> Doubles:
    """How dear each prompt is beside a typical one, (rows,), by the families that know costs."""
    relative = [
        (each / np.maximum(view.family.cost, 1e-12)).mean(axis=1)
        for view, each in zip(views, dollars, strict=True)
        if each is not None
    ]
    return np.mean(relative, axis=0) if relative else np.ones(len(views[0].weak))


def _cost(
    candidate: Candidate,
    views: list[View],
    dollars: list[Doubles | None],
    dearness: Doubles,
    own: int,
    column: int,
) -> Doubles:
    """Dollars a prompt: the family's word, else the typical cost times the prompt's dearness."""
    typical = candidate.cost
    told = dollars[own] if own >= 0 else None
    if told is not None:
        scale = 1.0 if typical is None else typical / max(views[own].family.cost[column], 1e-12)
        return told[:, column] * scale
    return np.full(len(dearness), np.nan) if typical is None else typical * dearness
