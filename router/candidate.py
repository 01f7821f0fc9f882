"""Who may answer: a model's name, and what is believed of it before anything was observed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

TYPICAL_PROMPT, TYPICAL_ANSWER = 300, 400
"""Tokens of a typical request, for a model of which only the prices are known."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that may answer.

    `known_as`: its name in the training data, if it is there (else `name` is looked up).
    `strength`: 0 the weakest to 1 the strongest model thinkable, for a model that is not there.
    `cost`: dollars of a typical answer, None where only the training data may know. `most`: of
    the dearest possible one, None where that is not known.
    """

    name: str
    known_as: str | None = None
    strength: float = 0.5
    cost: float | None = None
    most: float | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.strength <= 1.0:
            raise ValueError(f"strength of {self.name} is {self.strength}, not within 0 to 1")
        if self.cost is not None and not (self.cost >= 0 and math.isfinite(self.cost)):
            raise ValueError(f"cost of {self.name} is {self.cost}, not a number of dollars")


def prior_strength(price: float | None = None, billions: float | None = None) -> float:
    """Strength of a model that nobody observed, from its price or else its size.

    `price`: dollars per million generated tokens, 0.05 or less to 30 or more on a logarithmic
    scale; `billions` of parameters, 0.5 to 500 likewise. 0.5 where neither is known.
    """
    for value, low, high in ((price, 0.05, 30.0), (billions, 0.5, 500.0)):
        if value is not None and value > 0:
            return float(np.clip(math.log(value / low) / math.log(high / low), 0.0, 1.0))
    return 0.5


def from_prices(
    name: str,
    input_price: float | None,
    output_price: float | None,
    billions: float | None = None,
    known_as: str | None = None,
) -> Candidate:
    """A catalog's model: prices in dollars per million tokens, None where unknown."""
    cost = None
    if input_price is not None and output_price is not None:
        cost = (TYPICAL_PROMPT * input_price + TYPICAL_ANSWER * output_price) / 1e6
    return Candidate(name, known_as, prior_strength(output_price, billions), cost)
