"""The gain model: for every candidate the expected quality, how sure of it, and the cost.

What was learned comes in families: rows that the same models answered. In each family a forest
and two kernels tell how its models fare on a prompt. For a candidate of a family their word is
shrunk towards the candidate's mean, by how much it proved right on other rows of known tasks
near what was seen, and on whole unseen tasks far from it; so is what trees say of its cost. Where
a prompt lies nearer to what another family saw, the gain of strong over weak models there takes
part. A model that no family knows is placed between weak and strong by a prior strength.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from router.arrays import Doubles, Floats
from router.candidate import Candidate
from router.encoder import Encoder
from router.eye import Eye, bare
from router.features import BUCKETS, SURFACE, ngrams, surface
from router.reading import read
from router.sketch import Sketch, sketch
from router.words import AXES, meaning

FAR_SPREAD = 0.25
"""Standard deviation of the expected quality of a model that was never seen."""

FAR = 1.25
"""Distance from which a prompt is unlike anything seen. The rim of the training data is at 1."""

_FAMILIAR = 0.5
"""Distance, in reaches, up to which a prompt is like those of the training data."""

_FREE = 1e-12
"""Dollars that stand for none, to divide by."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What is expected, before anything is spent; arrays are (prompts, candidates).

    quality: expected score. spread: its standard deviation. cost: dollars, NaN where unknown.
    distance (prompts,): from what was seen, 1 at the rim of the training data; well over it a
    prompt is `far`, and there quality and cost are little more than each model's mean. context
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
    _spelt: Mapping[str, str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        names = [model for family in self.plain.families for model in family.models]
        object.__setattr__(self, "_spelt", {bare(name): name for name in reversed(names)})

    def predict(
        self,
        prompts: Sequence[str],
        candidates: Sequence[Candidate],
        encoder: Encoder | None = None,
    ) -> Prediction:
        """What each candidate would make of each prompt. Pure but for the encoder's arithmetic."""
        if not candidates:
            raise ValueError("no candidates to choose from")
        readings = [read(prompt) for prompt in prompts]
        form = np.array([surface(one) for one in readings], np.float32).reshape(-1, SURFACE)
        eye = self.eye(encoder)
        if encoder is not None and eye is self.encoded:
            about = encoder.encode(readings)
        else:
            told = [np.concatenate([ngrams(one), meaning(one)]) for one in readings]
            about = np.array(told, np.float32).reshape(-1, BUCKETS + AXES)
        return self.judge(eye, eye.sight.look(form, about), candidates)

    def eye(self, encoder: Encoder | None) -> Eye:
        """The eye that looks with this encoder, or without one."""
        return self.plain if encoder is None or self.encoded is None else self.encoded

    def judge(self, eye: Eye, inputs: Floats, candidates: Sequence[Candidate]) -> Prediction:
        """`predict` for prompts already seen by an eye, (prompts, features)."""
        distances = eye.sight.distances(inputs)
        heard, weight = hear(eye, inputs, distances), nearness(distances)
        names = [candidate.known_as or candidate.name for candidate in candidates]
        home = eye.beside.home(names)
        if home >= 0:
            known, doubt = _blend(heard, weight, distances, home)
            # Scores of different families are of different prompts and cannot be compared: who
            # is not of the home that most candidates share is placed in it by strength.
            weak, gain = heard.weak[:, home], heard.gain[:, home]
        else:
            weak, gain = _mean(heard.weak, weight), _mean(heard.gain, weight)
        dollars = heard.dollars()
        dearness = _dearness(eye, dollars, len(inputs))
        guessed = []
        shape = (len(inputs), len(candidates))
        quality, spread, cost = np.empty(shape), np.empty(shape), np.empty(shape)
        for index, (name, candidate) in enumerate(zip(names, candidates, strict=True)):
            own, column = eye.beside.place(name, home)
            guessed.append(home < 0 or own != home)
            if guessed[-1]:
                quality[:, index], spread[:, index] = weak + candidate.strength * gain, FAR_SPREAD
            else:
                quality[:, index], spread[:, index] = known[:, column], doubt[:, column]
            typical = self.mean_cost(name) if candidate.cost is None else candidate.cost
            if own in dollars:
                # The family's word; it tells how dear the prompt is, a known price how dear all.
                usual = max(float(eye.beside.cost[own, column]), _FREE)
                scale = 1.0 if candidate.cost is None else candidate.cost / usual
                cost[:, index] = dollars[own][:, column] * scale
            else:
                cost[:, index] = math.nan if typical is None else typical * dearness
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
        return name in self.plain.beside.places

    def recognise(self, name: str) -> str | None:
        """What the training data call a model of this name, if they have it: that name itself, or
        one in another case of letters, with or without its maker's name before a slash."""
        return name if self.knows(name) else self._spelt.get(bare(name))

    def mean_cost(self, name: str) -> float | None:
        """Mean dollars of a model's answers in the training data, None where unknown."""
        for family in self.plain.families:
            if name in family.models:
                cost = family.cost[family.models.index(name)]
                return cost if math.isfinite(cost) else None
        return None


@dataclass(frozen=True, slots=True)
class Heard:
    """The families' word on each prompt: deviation (rows, families, models); weak, gain and lift
    (rows, families), the gain of a family's stronger half and how unusual that gain is. logs
    (rows, families, models): of dollars, where a family knows them. cost_trust (rows, families):
    the factor on how far they are from the mean's. trees (rows, trees, models): what each says.
    """

    eye: Eye
    deviation: Doubles
    weak: Doubles
    gain: Doubles
    lift: Doubles
    logs: Doubles
    cost_trust: Doubles
    trees: Doubles

    def spread(self, family: int) -> Doubles:
        """Standard deviation of a family's expected scores, (rows, models)."""
        first, last = self.eye.families[family].trees
        # Trees of one forest share their rows, so their mean varies more than independent ones'.
        spread: Doubles = np.sqrt(self.trees[:, first:last].var(axis=1) / 3.0 + 0.0004)
        return spread

    def dollars(self) -> dict[int, Doubles]:
        """Dollars of an answer, (rows, models), for each family in which any were seen."""
        found = {}
        for index, family in enumerate(self.eye.families):
            if family.cost_trees[0] < family.cost_trees[1]:
                usual = np.maximum(family.cost, _FREE)
                said = np.exp(self.logs[:, index, : len(family.models)]) * family.cost_scale
                found[index] = usual * (said / usual) ** self.cost_trust[:, index, None]
        return found


def hear(eye: Eye, inputs: Floats, distances: Doubles) -> Heard:
    """Every family's word on prompts already seen by an eye, (prompts, features)."""
    beside, families = eye.beside, len(eye.families)
    width = beside.quality.shape[1]
    trees = eye.forest.values[eye.forest.leaves(inputs), :width].astype(np.float64)
    means = beside.shares @ trees
    said = [means[:, :families] - beside.quality, *(k.predict(inputs) for k in eye.kernels)]
    loud = beside.voices[:, :, None]
    both = sum(loud[:, index] * word for index, word in enumerate(said))
    deviation: Doubles = _trust(distances, beside.near, beside.far)[:, :, None] * both
    halves = (beside.quality + deviation)[:, :, None, :] @ beside.sides
    weak, gain = halves[:, :, 0, 0], halves[:, :, 0, 1] - halves[:, :, 0, 0]
    lift = (gain - beside.gain_mean) / np.maximum(beside.gain_spread, 1e-6)
    cost_trust = _trust(distances, np.ones(families), beside.cost_far)
    return Heard(eye, deviation, weak, gain, lift, means[:, families:], cost_trust, trees)


def _trust(distances: Doubles, near: Doubles, far: Doubles) -> Doubles:
    """The factor on each family's word: near where the like was seen, less and less beyond."""
    beyond = np.minimum(np.maximum(distances - _FAMILIAR, 0.0) / (1.0 - _FAMILIAR), 1.0)
    trust: Doubles = (near + (far - near) * beyond) / np.maximum(distances, 1.0)
    return trust


def nearness(distances: Doubles) -> Doubles:
    """How much each family's experience counts for a prompt that none calls its own."""
    weight: Doubles = np.exp(-4.0 * (distances - distances.min(axis=1, keepdims=True)))
    return weight


def foreign_gain(heard: Heard, weight: Doubles, own: int) -> Doubles:
    """What the other families say of the gain of a family's stronger half over its weaker one,
    (rows,), less its mean and in that family's measure.
    """
    others = weight.copy()
    others[:, own] = 0.0
    lift = _mean(heard.lift, others)
    return lift * heard.eye.families[own].gain_spread


def _blend(heard: Heard, weight: Doubles, distances: Doubles, own: int) -> tuple[Doubles, Doubles]:
    """Quality and spread of a family's models, (rows, models), the other families heard too."""
    beside, family = heard.eye.beside, heard.eye.families[own]
    deviation = heard.deviation[:, own]
    if len(heard.eye.families) > 1:
        elsewhere = distances.copy()
        elsewhere[:, own] = np.inf
        # A half where home is as near as another family, all where home is far off.
        share = 0.5 + 4.0 * (distances[:, own] - elsewhere.min(axis=1))
        share = np.minimum(np.maximum(share, 0.0), 1.0)
        foreign = family.foreign * foreign_gain(heard, weight, own)
        deviation = (1.0 - share)[:, None] * deviation
        deviation += (share * foreign)[:, None] * beside.ways[own]
    unsure = 0.1 * np.minimum(distances[:, own], 2.0)
    return deviation + beside.quality[own], np.hypot(heard.spread(own), unsure[:, None])


def _mean(values: Doubles, weight: Doubles) -> Doubles:
    """Over families, (rows, families) to (rows,)."""
    mean: Doubles = (values * weight).sum(axis=1) / np.maximum(weight.sum(axis=1), 1e-12)
    return mean


def _dearness(eye: Eye, dollars: Mapping[int, Doubles], rows: int) -> Doubles:
    """How dear each prompt is beside a typical one, (rows,), by the families that know costs."""
    if not dollars:
        return np.ones(rows)
    usual = np.maximum(eye.beside.cost, _FREE)
    relative = sum(
        (each / usual[index, : each.shape[1]]).mean(axis=1) for index, each in dollars.items()
    )
    mean: Doubles = relative / len(dollars)
    return mean
