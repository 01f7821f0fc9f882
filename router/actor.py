"""The router as a Ray Serve deployment: one learner that every gateway asks."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that could answer. Prices are US dollars for a million tokens, None if unknown."""

    name: str
    tier: str
    input_price: Decimal | None
    output_price: Decimal | None
    context: int


@dataclass(frozen=True, slots=True)
class Decision:
    """Which model answers, and why, in a sentence for people."""

    model: str
    why: str


def cheapest(candidates: tuple[Candidate, ...]) -> Decision:
    """The cheapest model; of equals the first. Raises ValueError for no candidate.

    A workforce model without a price costs nothing more than the machine that runs anyway; a
    flagship without one might cost anything.
    """
    if not candidates:
        raise ValueError("no candidate")
    return Decision(min(candidates, key=_expense).name, "the cheapest candidate")


def _expense(one: Candidate) -> tuple[bool, Decimal]:
    if one.input_price is not None and one.output_price is not None:
        return False, one.input_price + one.output_price
    return one.tier != "workforce", Decimal(0)


class RouterReplica:
    """Decides for all gateways.

    Nothing has been learned yet, so it takes the safe default: the cheapest model.
    """

    async def decide(self, prompt: str, candidates: tuple[Candidate, ...]) -> Decision:
        return cheapest(candidates)
