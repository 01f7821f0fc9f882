from __future__ import annotations

import re

import pytest

from models.catalog import Catalog
from models.price_table import known, rows

OPENAI = "https://api.openai.com/v1"


def test_every_row_says_where_and_when_it_was_read() -> None:
    for row in rows():
        assert row["source"].startswith("https://"), row
        assert re.fullmatch(r"20\d\d-\d\d(-\d\d)?", row["read_on"]), row
        assert known(f"https://{row['host']}/v1", row["model"]) is not None


def test_no_model_stands_twice() -> None:
    names = [(row["host"], row["model"]) for row in rows()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", ["gpt-5", "gpt-5-2025-08-07"])
def test_a_model_is_known_with_and_without_its_date(name: str) -> None:
    price = known(OPENAI, name)
    assert price is not None
    assert (price.input, price.output) == (1.25, 10)


def test_a_day_of_a_model_that_costs_more_has_a_price_of_its_own() -> None:
    price, newer = known(OPENAI, "gpt-4o-2024-05-13"), known(OPENAI, "gpt-4o-2024-08-06")
    assert price is not None and newer is not None
    assert ((price.input, price.output), (newer.input, newer.output)) == ((5, 15), (2.5, 10))


def test_the_same_name_at_another_host_is_another_model() -> None:
    assert known("https://proxy.example/v1", "gpt-5") is None
    assert known(OPENAI, "my-finetune") is None


def test_a_catalog_takes_a_known_price_and_its_own_comes_first() -> None:
    catalog = Catalog.model_validate(
        {
            "models": {
                "gpt-5-mini": {"engine": "openai"},
                "brain": {"engine": "openai", "upstream": "gpt-5"},
                "mine": {
                    "engine": "openai",
                    "upstream": "gpt-5",
                    "price": {"input": 9, "output": 9},
                },
                "new": {"engine": "openai"},
            },
            "roles": {"judge": "brain"},
        }
    )
    prices = {name: spec.price and spec.price.input for name, spec in catalog.models.items()}
    assert {name: price and float(price) for name, price in prices.items()} == {
        "gpt-5-mini": 0.25,
        "brain": 1.25,
        "mine": 9,
        "new": None,
    }
    again = Catalog.model_validate(catalog.model_dump(mode="json"))
    assert again == catalog
