"""What answers to a name: part of what a batch's answers are kept by."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from models.call import Call
from models.catalog import Catalog
from models.errors import UpstreamError
from models.messages import Completion, Request, assistant, user
from serve.jobs.asking import Desk, stands_for

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


async def test_a_bug_of_ours_fails_its_row_and_no_other() -> None:
    class Pipeline:
        async def complete(self, request: Request, call: Call) -> Completion:
            if request.messages[-1].text == "bad":
                raise AttributeError("a secret")
            return Completion("one", assistant("good"))

    edition = SimpleNamespace(catalog=CATALOG, pipeline=Pipeline())
    desk = Desk(cast(Any, SimpleNamespace(current=edition)), lambda: 0, lambda: 0.0)
    asks = [(Request("one", (user(text),)), Call()) for text in ("good", "bad", "good")]
    first, bad, last = await desk.ask_many(asks)
    assert isinstance(first, Completion) and isinstance(last, Completion)
    assert isinstance(bad, UpstreamError)
    assert bad.message == "Internal error: AttributeError."
