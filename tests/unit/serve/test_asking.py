"""What answers to a name: part of what a batch's answers are kept by."""

from __future__ import annotations

import pytest

from models.catalog import Catalog
from serve.jobs.asking import stands_for

CATALOG = Catalog.model_validate(
    {
        "models": {"one": {"engine": "fake"}, "two": {"engine": "fake"}},
        "aliases": {"it": "one"},
        "panels": {"duo": {"members": ["it", "two"]}},
        "roles": {"judge": "two"},
    }
)


@pytest.mark.parametrize("name", ["fusion/auto", "fusion/plan", "nobody"])
def test_what_is_chosen_later_stands_for_itself(name: str) -> None:
    assert stands_for(CATALOG, name) == name


def test_an_alias_is_its_model_and_a_panel_all_its_members() -> None:
    assert stands_for(CATALOG, "it") == stands_for(CATALOG, "one") == "one"
    behind = stands_for(CATALOG, "fusion/duo")
    other = CATALOG.model_copy(update={"aliases": {"it": "two"}})
    assert behind != stands_for(other, "fusion/duo")
