"""A small world: short questions that a small model answers, long sums that it does not."""

from __future__ import annotations

import pytest

from router.data import Outcome, Row
from router.forest import Growth
from router.gain import GainModel
from router.train import train


def make_row(number: int) -> Row:
    hard = number % 2 == 0
    prompt = (
        f"What is {number} times {number + 7}, plus 12?" if hard else f"Name a bird, no {number}"
    )
    small = 0.2 if hard else 0.8
    return Row(
        prompt=prompt,
        outcomes={"small": Outcome(small, 0.001), "large": Outcome(0.9, 0.02 if hard else 0.01)},
        task=f"task {number % 10}",
        source="made up",
        id=str(number),
    )


@pytest.fixture(scope="session")
def rows() -> list[Row]:
    return [make_row(number) for number in range(160)]


@pytest.fixture(scope="session")
def model(rows: list[Row]) -> GainModel:
    return train(rows, growth=Growth(trees=6, leaf=5))
