"""The second decision: keep the cheap answer or ask a dearer model. Values in, a belief out.

A look at the cheap answer tells far more than a longer look at the prompt. Each look is a sign
that is there or not; how often it is there for right and for wrong answers is counted on live
traffic, from a cautious start.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from router.objective import Objective, Verifier
from router.told import number

#: For each sign: the part of right answers and the part of wrong ones that show it, to start with.
START: Mapping[str, tuple[float, float]] = {
    "finished": (0.98, 0.85),  # not cut off, not empty, no refusal
    "valid": (0.97, 0.60),  # JSON of the shape that was asked for
    "sums": (0.95, 0.60),  # the sums that it writes out are right
    "agrees": (0.80, 0.40),  # another sample of the same model says the same
    "confident": (0.70, 0.40),  # its tokens were as likely as is usual for its model, or more
    "judged": (0.85, 0.40),  # a judge believes it
}

_START_ROWS = 20.0
"""Answers that the start counts as."""

_START_LOGPROB = -0.25
"""Mean log probability of a token that is usual for a model of which nothing was heard."""

_HEARD = 500.0
"""Answers of a model that tell what is usual for it now."""


@dataclass(frozen=True, slots=True)
class Tally:
    """How often a sign showed on right and on wrong answers whose truth became known."""

    right: float
    right_shown: float
    wrong: float
    wrong_shown: float

    @property
    def rates(self) -> tuple[float, float]:
        """The part of right and of wrong answers that show it, never quite 0 or 1."""
        return (self.right_shown + 0.5) / (self.right + 1.0), (self.wrong_shown + 0.5) / (
            self.wrong + 1.0
        )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Tally:
        """What `dataclasses.asdict` made of one. Raises KeyError, TypeError or ValueError."""
        right, wrong = number(data["right"], 0.0), number(data["wrong"], 0.0)
        # What showed is a part of all; sums of parts may differ in the last digits.
        shown = number(data["right_shown"], 0.0, right + 1e-6)
        return cls(right, shown, wrong, number(data["wrong_shown"], 0.0, wrong + 1e-6))

    def after(self, shown: bool, truth: float) -> Tally:
        """The tally once an answer proved right (1), wrong (0) or in between."""
        return Tally(
            self.right + truth,
            self.right_shown + truth * shown,
            self.wrong + 1.0 - truth,
            self.wrong_shown + (1.0 - truth) * shown,
        )


def _started() -> dict[str, Tally]:
    half = _START_ROWS / 2.0
    return {sign: Tally(half, r * half, half, w * half) for sign, (r, w) in START.items()}


@dataclass(frozen=True, slots=True)
class Signs:
    """What is known of every sign. usual: for each model, how many answers told how likely their
    tokens were, and the mean of what they told."""

    tallies: Mapping[str, Tally] = field(default_factory=_started)
    usual: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def belief(self, prior: float, shown: Mapping[str, bool]) -> float:
        """Probability that an answer is right, from what was expected of its model on this
        prompt and what the answer shows. Signs count as independent, at most fourfold each."""
        prior = min(max(prior, 0.02), 0.98)
        odds = math.log(prior / (1.0 - prior))
        for sign, there in shown.items():
            if sign not in self.tallies:
                continue
            right, wrong = self.tallies[sign].rates
            ratio = right / wrong if there else (1.0 - right) / (1.0 - wrong)
            odds += min(max(math.log(ratio), -math.log(4.0)), math.log(4.0))
        return 1.0 / (1.0 + math.exp(-odds))

    def after(self, shown: Mapping[str, bool], truth: float) -> Signs:
        """The same once the truth about an answer is known, 0 wrong to 1 right."""
        tallies = dict(self.tallies)
        for sign, there in shown.items():
            if sign in tallies:
                tallies[sign] = tallies[sign].after(there, truth)
        return Signs(tallies, self.usual)

    def confident(self, model: str, logprob: float) -> bool:
        """Whether an answer's tokens were as likely as is usual for its model, or more: models
        differ in how sure they are more than their right answers from their wrong ones."""
        return logprob >= self._usual(model)[1]

    def heard(self, model: str, logprob: float) -> Signs:
        """The same once an answer told the mean log probability of its tokens."""
        count, mean = self._usual(model)
        count = min(count + 1.0, _HEARD)
        return Signs(self.tallies, {**self.usual, model: (count, mean + (logprob - mean) / count)})

    def _usual(self, model: str) -> tuple[float, float]:
        return self.usual.get(model, (_START_ROWS, _START_LOGPROB))

    def verifier(self, looked_at: tuple[str, ...], samples: int) -> Verifier:
        """How well looking at these signs works, for planning: the best one of them rules."""
        best = Verifier(catches=0.15, doubts=0.02, samples=samples)
        for sign in looked_at:
            if sign in self.tallies:
                right, wrong = self.tallies[sign].rates
                if right - wrong > best.catches - best.doubts:
                    best = Verifier(catches=1.0 - wrong, doubts=1.0 - right, samples=samples)
        return best


def needed(stronger: float, cost: float, objective: Objective) -> float:
    """The belief from which a cheap answer is given as it is: below it, a dearer model that is
    expected to be right with `stronger`, for `cost` dollars, is worth asking.
    """
    if objective.share is not None or math.isinf(objective.worth):
        # Where a share or the best is asked for, doubt alone decides.
        return stronger
    return stronger - cost / objective.worth if objective.worth > 0.0 else 0.0
