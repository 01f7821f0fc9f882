from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from pydantic import SecretStr, ValidationError

from models.errors import FusionError, Overloaded, Unavailable, UpstreamError
from models.messages import Source
from models.tools.settings import WebSearch
from models.tools.web_search import (
    MAX_ANSWER_BYTES,
    MAX_EXCERPT_CHARS,
    MAX_QUERY_CHARS,
    Search,
)

Answer = Callable[[httpx.Request], httpx.Response]

BRAVE = {
    "web": {
        "results": [
            {"title": "A", "url": "https://a/", "description": "one", "extra_snippets": ["two"]},
            {"title": "B", "url": "https://b/", "description": "three"},
        ]
    }
}
FLAT = {
    "results": [
        {"title": "A", "url": "https://a/", "content": "one two"},
        {"title": "B", "url": "https://b/", "content": "three"},
    ]
}


def search(answer: Answer, provider: str = "brave", **settings: Any) -> Search:
    given = {"provider": provider, "api_key_env": "KEY", "base_url": "https://search/", **settings}
    client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    return Search(WebSearch.model_validate(given), SecretStr("secret"), client)


@pytest.mark.parametrize(
    ("provider", "answer"), [("brave", BRAVE), ("tavily", FLAT), ("searxng", FLAT)]
)
async def test_each_provider_gives_the_same(provider: str, answer: object) -> None:
    tool = search(lambda _: httpx.Response(200, json=answer), provider, price=0.005)
    result = await tool.run({"query": "letters"})
    assert result.text == "1. A\nhttps://a/\none two\n\n2. B\nhttps://b/\nthree"
    assert result.sources == (Source("https://a/", "A"), Source("https://b/", "B"))
    assert result.nano_usd == 5_000_000


@pytest.mark.parametrize(
    ("provider", "url", "header"),
    [
        (
            "brave",
            "https://search/res/v1/web/search?q=two+words&count=3&text_decorations=false",
            ("x-subscription-token", "secret"),
        ),
        ("tavily", "https://search/search", ("authorization", "Bearer secret")),
        (
            "searxng",
            "https://search/search?q=two+words&format=json",
            ("authorization", "Bearer secret"),
        ),
    ],
)
async def test_each_provider_is_asked_its_own_way(
    provider: str, url: str, header: tuple[str, str]
) -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, json={})

    result = await search(answer, provider, results=3).run({"query": " two\n words "})
    assert result.text == "Nothing was found."
    assert str(asked[0].url) == url
    assert asked[0].headers[header[0]] == header[1]
    if provider == "tavily":
        assert json.loads(asked[0].content) == {
            "query": "two words",
            "max_results": 3,
            "include_domains": [],
            "exclude_domains": [],
        }


@pytest.mark.parametrize("provider", ["brave", "searxng"])
async def test_a_requests_own_domains_are_asked_for_by_words(provider: str) -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, json={})

    tool = search(answer, provider).limited(
        {"allowed_domains": ("a.org", "b.org"), "excluded_domains": ("c.b.org",)}
    )
    await tool.run({"query": "x" * 1000})
    words = asked[0].url.params["q"]
    assert words.endswith("x site:a.org OR site:b.org -site:c.b.org")
    assert len(words) == MAX_QUERY_CHARS
    # Where they would leave no room for the question, they only choose among what was found.
    crowd = tuple(f"{'d' * 60}{number}.org" for number in range(4))
    await tool.limited({"allowed_domains": crowd}).run({"query": "letters"})
    assert asked[1].url.params["q"] == "letters"


async def test_a_requests_own_domains_are_tavilys_own() -> None:
    asked: list[Any] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content))
        return httpx.Response(200, json={})

    wanted = {"max_results": 2, "allowed_domains": ("a.org",), "excluded_domains": ("b.a.org",)}
    await search(answer, "tavily").limited(wanted).run({"query": "letters"})
    assert asked == [
        {
            "query": "letters",
            "max_results": 2,
            "include_domains": ["a.org"],
            "exclude_domains": ["b.a.org"],
        }
    ]


@pytest.mark.parametrize(
    ("parameters", "left"),
    [
        ({"max_results": 1}, ["https://a/"]),
        ({"allowed_domains": ("b",)}, ["https://b/"]),
        ({"excluded_domains": ("A",)}, ["https://b/"]),
        ({"allowed_domains": ("a", "b"), "excluded_domains": ("b",)}, ["https://a/"]),
    ],
)
async def test_what_is_found_elsewhere_or_too_much_is_left_out(
    parameters: dict[str, Any], left: list[str]
) -> None:
    tool = search(lambda _: httpx.Response(200, json=BRAVE)).limited(parameters)
    assert [source.url for source in (await tool.run({"query": "letters"})).sources] == left


@pytest.mark.parametrize(
    ("parameters", "characters"),
    [
        ({}, MAX_EXCERPT_CHARS),
        ({"search_context_size": "low"}, 400),
        ({"search_context_size": "medium"}, MAX_EXCERPT_CHARS),
        ({"search_context_size": "high"}, 5000),
        ({"search_context_size": "low", "max_characters": 7000}, 7000),
    ],
)
async def test_how_much_of_a_result_is_given(parameters: dict[str, Any], characters: int) -> None:
    long = {"results": [{"title": "A", "url": "https://a/", "content": "x" * 9000}]}
    tool = search(lambda _: httpx.Response(200, json=long), "tavily").limited(parameters)
    assert (await tool.run({"query": "letters"})).text.count("x") == characters


@pytest.mark.parametrize(
    ("parameters", "results", "uses"),
    [
        ({}, 5, None),
        ({"max_uses": 3}, 5, 3),
        ({"max_total_results": 50}, 5, 10),
        ({"max_total_results": 12, "max_results": 4}, 4, 3),
        ({"max_total_results": 50, "max_uses": 2}, 5, 2),
        ({"max_total_results": 3}, 3, 1),
    ],
)
def test_searches_and_their_results_stay_within_the_requests_own_limits(
    parameters: dict[str, Any], results: int, uses: int | None
) -> None:
    tool = search(lambda _: httpx.Response(200, json={})).limited(parameters)
    assert (tool.results, tool.max_uses) == (results, uses)


WHERE = {"type": "approximate", "city": "Köln", "region": "NRW", "country": "DE"}


async def test_where_the_user_is_goes_to_an_engine_that_takes_it_and_to_the_models() -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, json={})

    for provider in ("brave", "tavily", "searxng"):
        tool = search(answer, provider).limited({"user_location": WHERE})
        assert tool.spec.description.endswith(" The user is near: Köln, NRW, DE.")
        await tool.run({"query": "letters"})
    told = [
        {name: value for name, value in one.headers.items() if name.startswith("x-loc-")}
        for one in asked
    ]
    # A header says nothing beyond ASCII.
    assert told == [{"x-loc-state-name": "NRW", "x-loc-country": "DE"}, {}, {}]


def test_where_the_user_is_may_be_only_a_time_zone_or_nothing() -> None:
    plain = search(lambda _: httpx.Response(200))
    zone = plain.limited({"user_location": {"timezone": "Europe/Berlin"}})
    assert zone.spec.description.endswith(" The user is near: time zone Europe/Berlin.")
    assert plain.limited({"user_location": {}}).spec == plain.spec
    city = plain.limited({"user_location": {"city": " Rome "}})
    assert city.spec.description.endswith(" The user is near: Rome.")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (httpx.Response(401), Unavailable),
        (httpx.Response(429), Overloaded),
        (httpx.Response(500, text="secret"), UpstreamError),
        (httpx.Response(200, text="<html>"), UpstreamError),
        (httpx.Response(200, content=b"[" * (MAX_ANSWER_BYTES + 1)), UpstreamError),
    ],
)
async def test_a_provider_that_fails(answer: httpx.Response, error: type[FusionError]) -> None:
    with pytest.raises(error) as caught:
        await search(lambda _: answer).run({"query": "x"})
    assert "secret" not in str(caught.value)


async def test_a_provider_that_cannot_be_reached() -> None:
    def down(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("no route with secret")

    with pytest.raises(Unavailable, match="ConnectError"):
        await search(down).run({"query": "x"})


@pytest.mark.parametrize(
    "answer", [[], {"web": []}, {"web": {"results": [None, 7, {"url": 3}, {"title": "no url"}]}}]
)
async def test_results_of_another_shape_are_nothing(answer: object) -> None:
    result = await search(lambda _: httpx.Response(200, json=answer)).run({"query": "x"})
    assert result.text == "Nothing was found."


@pytest.mark.parametrize("query", [None, "", " ", 7])
async def test_a_query_is_needed(query: object) -> None:
    with pytest.raises(ValueError, match="query"):
        await search(lambda _: httpx.Response(200)).run({"query": query})


def test_a_key_is_in_no_repr() -> None:
    assert "secret" not in repr(search(lambda _: httpx.Response(200)))


@pytest.mark.parametrize("settings", [{"provider": "brave"}, {"provider": "searxng"}])
def test_settings_are_complete_or_refused(settings: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="needs"):
        WebSearch.model_validate(settings)
