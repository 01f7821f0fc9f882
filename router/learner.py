"""Learning on line: what live traffic says about each model, on top of what the weights say.

For each model a Bayesian linear regression of the surprise (the score less what the weights
expected) on the prompt's context, with a prior of known and capped weight: a few dozen answers
that went as expected. Old lessons are discounted. Everything is a sum over lessons, so the order
of two replicas' lessons does not matter but for the discount.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from router.arrays import Doubles, Floats
from router.told import MOST, count, number

PRIOR_ROWS = 30.0
"""Answers that the weights' word on a model they know is worth: 200 observations overrule it."""

GUESS_ROWS = 3.0
"""The same for a model they do not know, which is a guess from its price."""

DIRECTION_ROWS = 10.0
"""Answers in one direction of the context that weigh as much as the belief in no surprise there."""

DISCOUNT = 0.9995
"""What a lesson weighs less for each later one about the same model: 2,000 are remembered."""

NOISE = 0.4
"""Standard deviation of one answer's score around its expectation; scores lie in 0 to 1."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """One answer that was judged.

    context (features,): the prompt as the weights' eye saw it; `eye` names that eye, and a
    lesson of another eye tells of the model's mean alone. expected: the weights' word on it.
    weight: of this judgement beside a person's; known: whether the weights know the model.
    """

    model: str
    context: Floats
    eye: str
    expected: float
    score: float
    weight: float = 1.0
    known: bool = True

    def __post_init__(self) -> None:
        if not 0.0 <= self.score <= 1.0:
            raise ValueError(f"score {self.score} is not within 0 to 1")
        if not 0.0 < self.weight <= 1.0:
            raise ValueError(f"weight {self.weight} is not above 0 and up to 1")


@dataclass(slots=True)
class _Arm:
    """Sums over one model's lessons: square (d, d), surprise (d,), and how many they were."""

    square: Doubles
    surprise: Doubles
    known: bool
    lessons: float = 0.0
    solved: tuple[Doubles, Doubles] | None = None

    def add(self, context: Doubles, surprise: float, weight: float) -> None:
        self.square *= DISCOUNT
        self.surprise *= DISCOUNT
        self.square += weight * np.outer(context, context)
        self.surprise += weight * surprise * context
        self.lessons = self.lessons * DISCOUNT + weight
        self.solved = None

    def belief(self) -> tuple[Doubles, Doubles]:
        """Mean (d,) and covariance (d, d) of what to add to the weights' word."""
        if self.solved is None:
            inverse = np.linalg.inv(self.certainty()).astype(np.float64, copy=False)
            self.solved = inverse @ self.surprise, NOISE**2 * inverse
        return self.solved

    def certainty(self) -> Doubles:
        """How many answers the belief rests on in each direction, with the prior's, (d, d)."""
        prior = np.full(len(self.surprise), DIRECTION_ROWS)
        prior[0] = PRIOR_ROWS if self.known else GUESS_ROWS
        certainty: Doubles = self.square + np.diag(prior)
        return certainty


@dataclass(slots=True)
class Learner:
    """What was learned on line of every model. `eye`, `width`: of the contexts it understands."""

    eye: str
    width: int
    _arms: dict[str, _Arm] = field(default_factory=dict)

    def learn(self, lesson: Lesson) -> None:
        """Take one more lesson in."""
        arm = self._arms.get(lesson.model)
        size = self.width + 1
        if arm is None:
            arm = _Arm(np.zeros((size, size)), np.zeros(size), lesson.known)
            self._arms[lesson.model] = arm
        context = np.zeros(size)
        context[0] = 1.0
        if lesson.eye == self.eye and lesson.context.shape == (self.width,):
            context[1:] = lesson.context
        arm.known = lesson.known
        arm.add(context, lesson.score - lesson.expected, lesson.weight)

    def lessons(self) -> Mapping[str, float]:
        """How many lessons each model's belief rests on, discounted."""
        return {name: arm.lessons for name, arm in self._arms.items()}

    def corrected(
        self, models: Sequence[str], contexts: Floats, quality: Doubles, spread: Doubles
    ) -> tuple[Doubles, Doubles]:
        """The weights' quality and spread, (prompts, models), with what was learned."""
        rows = np.hstack([np.ones((len(contexts), 1)), contexts.astype(np.float64)])
        surprise, unsure = np.zeros_like(quality), np.full_like(spread, np.inf)
        fading = np.ones(len(models))
        for index, name in enumerate(models):
            arm = self._arms.get(name)
            if arm is None:
                continue
            mean, covariance = arm.belief()
            surprise[:, index] = rows @ mean
            unsure[:, index] = np.maximum(((rows @ covariance) * rows).sum(axis=1), 0.0)
            # The weights' own doubt fades as lessons come.
            prior = PRIOR_ROWS if arm.known else GUESS_ROWS
            fading[index] = prior / (prior + arm.lessons)
        doubt = np.sqrt(unsure + spread**2 * fading)
        return np.clip(quality + surprise, 0.0, 1.0), np.minimum(spread, doubt)

    def to_json(self) -> dict[str, Any]:
        """For a checkpoint or an export. See `from_json`."""
        arms = {
            name: {
                "known": arm.known,
                "lessons": arm.lessons,
                "square": _packed(arm.square[np.triu_indices(self.width + 1)]),
                "surprise": _packed(arm.surprise),
            }
            for name, arm in self._arms.items()
        }
        return {"eye": self.eye, "width": self.width, "arms": arms}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], eye: str, width: int) -> Learner:
        """What was learned, for this eye; with another one's, each model's mean alone is kept.

        Raises ValueError where the data is not what `to_json` made.
        """
        learner = cls(eye, width)
        try:
            had = count(data["width"]) + 1
            same = data["eye"] == eye and had == width + 1
            for name, told in data["arms"].items():
                # As many numbers as are really there bound what is made room for.
                upper = _unpacked(told["square"], had * (had + 1) // 2)
                square, surprise = np.zeros((had, had)), _unpacked(told["surprise"], had)
                square[np.triu_indices(had)] = upper
                square = square + np.triu(square, 1).T
                if not same:
                    mean = square[0, 0], surprise[0]
                    square, surprise = np.zeros((width + 1, width + 1)), np.zeros(width + 1)
                    square[0, 0], surprise[0] = mean
                arm = _Arm(square, surprise, bool(told["known"]), number(told["lessons"], 0.0))
                np.linalg.cholesky(arm.certainty())  # raises where no lessons sum to such a square
                learner._arms[str(name)] = arm
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"not a learner's state: {error!r}") from error
        return learner


def _packed(numbers: Doubles) -> str:
    return base64.b64encode(numbers.astype("<f4").tobytes()).decode()


def _unpacked(text: str, size: int) -> Doubles:
    numbers = np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype(np.float64)
    if len(numbers) != size or not (np.abs(numbers) <= MOST).all():
        raise ValueError("numbers are missing or not finite")
    return numbers
