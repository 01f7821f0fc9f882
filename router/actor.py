"""The router as a Ray Serve deployment: one learner that every gateway asks."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that could answer. Prices are US dollars for a million tokens, None if unknown."""

    name: str
    input_price: Decimal | None
    output_price: Decimal | None
    context: int


@dataclass(frozen=True, slots=True)
class Decision:
    """Which model answers, and why, in a sentence for people."""

    model: str
    why: str


def cheapest(candidates: tuple[Candidate, ...]) -> Decision:
    """The cheapest model that has a price, else the first. Raises ValueError for none."""
    if not candidates:
        raise ValueError("no candidate")
    priced = [
        (one.input_price + one.output_price, index)
        for index, one in enumerate(candidates)
        if one.input_price is not None and one.output_price is not None
    ]
    if not priced:
        return Decision(candidates[0].name, "no candidate has a price; the first was taken")
    _, index = min(priced)
    return Decision(candidates[index].name, "the cheapest candidate")


class RouterReplica:
    """Decides for all gateways.

    Nothing has been learned yet, so it takes the safe default: the cheapest model.
    """

    async def decide(self, prompt: str, candidates: tuple[Candidate, ...]) -> Decision:
        return cheapest(candidates)
