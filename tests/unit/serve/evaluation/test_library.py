"""Where research finds its sources on the web. The tools themselves have real servers in
`test_web_search.py` and `test_web_fetch.py`: here is what is asked of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from models.call import Call
from models.messages import Source
from models.tools.settings import Tools
from models.tools.toolbox import ToolResult
from serve.evaluation import library
from serve.evaluation.evidence import Stored

CONFIGURED = Tools.model_validate(
    {"web_search": {"provider": "searxng", "base_url": "http://127.0.0.1:9"}, "web_fetch": {}}
)


class Web:
    """Three queries find overlapping pages, of which one cannot be fetched."""

    def __init__(self, *_: object) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def open(self) -> Web:
        return self

    async def call(self, name: str, arguments: str, call: Call) -> ToolResult:
        asked = json.loads(arguments)
        self.asked.append((name, asked))
        if name == "web_fetch":
            url = asked["url"]
            return ToolResult("gone" if url == "b" else f"text of {url}", is_error=url == "b")
        pages = {"one": "abcd", "two": "a", "three": ""}[asked["query"]]
        return ToolResult("listed", tuple(Source(page, page.upper()) for page in pages))


def test_pages_are_fetched_once_and_those_that_fail_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    web = Web()
    monkeypatch.setattr(library, "Toolset", lambda *_: web)
    found = library.search_web(CONFIGURED, ["one", "two", "three"])
    assert found == [Stored("a", "A", "text of a"), Stored("c", "C", "text of c")]
    fetched = [asked["url"] for name, asked in web.asked if name == "web_fetch"]
    assert fetched == ["a", "b", "c"], "three pages a query, and none twice"


def test_without_tools_it_says_what_is_missing() -> None:
    with pytest.raises(ValueError, match=r"tools\.web_search and tools\.web_fetch"):
        library.search_web(Tools(), ["one"])
