"""A catalog of a cheap and a dear model, and a router of a small world."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import stores

from models.catalog import Catalog
from router.data import Outcome, Row
from router.forest import Growth
from router.gain import GainModel
from router.train import train
from serve.store.database import Database


@pytest.fixture(scope="session")
def weights() -> GainModel:
    """Small answers half of the short questions, and no sums."""
    rows = []
    for n in range(120):
        hard = n % 2 == 0
        prompt = f"What is {n} times {n + 7}, plus 12?" if hard else f"Name a bird, no {n}"
        small = 0.1 if hard else 0.5
        outcomes = {"small": Outcome(small, 0.0001), "large": Outcome(0.95, 0.01)}
        rows.append(Row(prompt, outcomes, f"task {n % 10}", "made up"))
    return train(rows, growth=Growth(trees=8, leaf=4))


@pytest.fixture
def catalog() -> Catalog:
    return Catalog.model_validate(
        {
            "models": {
                "small": {"engine": "fake"},
                "large": {
                    "engine": "openai",
                    "price": {"input": 3, "output": 60},
                    "max_output": 4096,
                },
            },
            "panels": {"pair": {"members": ["small", "large"]}},
            "roles": {"judge": "large"},
            "router": {"explore": 0.0},
        }
    )


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with stores.empty(f"sqlite:///{tmp_path}/x.db") as made:
        yield made
