"""`web_search`: what a search API finds. Brave, Tavily and SearXNG, by the catalog."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import httpx
from pydantic import SecretStr

from models.errors import Overloaded, Refused, Unavailable, UpstreamError
from models.messages import Source, Tool
from models.tools.domains import permits
from models.tools.options import Location, SearchOptions
from models.tools.settings import WebSearch
from models.tools.toolbox import ToolResult

NAME = "web_search"
MAX_ANSWER_BYTES = 4_000_000
#: Characters of one result: unless the request says otherwise, ten of them fit a small model's
#: window.
MAX_EXCERPT_CHARS = 1200
_SIZES = {"low": 400, "medium": MAX_EXCERPT_CHARS, "high": 5000}
MAX_QUERY_CHARS = 400
_DEFAULTS = SearchOptions()


@dataclass(frozen=True, slots=True)
class Found:
    title: str
    url: str
    text: str


@dataclass(frozen=True, slots=True)
class Search:
    """Asks the provider of `settings` with `client`, which somebody else closes. `options` are one
    request's own."""

    settings: WebSearch
    key: SecretStr | None
    client: httpx.AsyncClient
    options: SearchOptions = _DEFAULTS

    @property
    def spec(self) -> Tool:
        where = self.options.user_location
        near = f" The user is near: {where}." if where and str(where) else ""
        return Tool(
            NAME,
            f"Search the web. Gives titles, addresses and excerpts.{near}",
            {
                "type": "object",
                "properties": {
                    "query": {"type": "string", "description": "What to look for, in key words."}
                },
                "required": ["query"],
                "additionalProperties": False,
            },
        )

    def limited(self, parameters: Mapping[str, Any]) -> Search:
        return replace(self, options=SearchOptions.of(parameters))

    @property
    def results(self) -> int:
        wanted = self.options.max_results or self.settings.results
        return min(wanted, self.options.max_total_results or wanted)

    @property
    def max_uses(self) -> int | None:
        """A total of results is held as so many searches, which may be going on at once."""
        uses, total = self.options.max_uses, self.options.max_total_results
        if total is None:
            return uses
        searches = total // self.results
        return min(searches, uses or searches)

    @property
    def nano_usd(self) -> int:
        return self.settings.nano_usd

    @property
    def excerpt(self) -> int:
        """Characters of one result."""
        asked = self.options
        return asked.max_characters or _SIZES[asked.search_context_size or "medium"]

    async def run(self, arguments: Mapping[str, Any]) -> ToolResult:
        query = arguments.get("query")
        if not isinstance(query, str) or not query.strip():
            raise ValueError("'query' must be the words to look for")
        answer = await self._ask(" ".join(query.split()))
        hosts = self.options.allowed_domains, self.options.excluded_domains
        every = _results(self.settings.provider, answer)
        found = [one for one in every if one.url and permits(one.url, *hosts)][: self.results]
        if not found:
            return ToolResult("Nothing was found.", nano_usd=self.settings.nano_usd)
        text = "\n\n".join(
            f"{number}. {one.title}\n{one.url}\n{one.text[: self.excerpt]}"
            for number, one in enumerate(found, 1)
        )
        sources = tuple(Source(one.url, one.title) for one in found)
        return ToolResult(text, sources, nano_usd=self.settings.nano_usd)

    async def _ask(self, query: str) -> Any:
        request = self._request(query)
        try:
            answer = await self.client.send(request, stream=True)
            try:
                _check(answer)
                return json.loads(await _bounded(answer))
            finally:
                await answer.aclose()
        except (httpx.HTTPError, aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Unavailable(
                f"The search API cannot be reached ({type(error).__name__})."
            ) from None
        except ValueError:
            raise UpstreamError("The search API's answer is not JSON.") from None

    def _request(self, query: str) -> httpx.Request:
        spec, secret = self.settings, self.key.get_secret_value() if self.key else ""
        match spec.provider:
            case "brave":
                return self.client.build_request(
                    "GET",
                    f"{spec.address}/res/v1/web/search",
                    params={
                        "q": self._with_sites(query),
                        "count": str(self.results),
                        "text_decorations": "false",
                    },
                    headers={
                        "x-subscription-token": secret,
                        "accept": "application/json",
                        **_location(self.options.user_location),
                    },
                )
            case "tavily":
                return self.client.build_request(
                    "POST",
                    f"{spec.address}/search",
                    json={
                        "query": query[:MAX_QUERY_CHARS],
                        "max_results": self.results,
                        "include_domains": self.options.allowed_domains,
                        "exclude_domains": self.options.excluded_domains,
                    },
                    headers={"authorization": f"Bearer {secret}"},
                )
            case "searxng":
                return self.client.build_request(
                    "GET",
                    f"{spec.address}/search",
                    params={"q": self._with_sites(query), "format": "json"},
                    headers={"authorization": f"Bearer {secret}"} if secret else {},
                )

    def _with_sites(self, query: str) -> str:
        """The query with its domains as search engines read them, where they leave it room. What an
        engine finds elsewhere all the same is left out of the result."""
        allowed = " OR ".join(f"site:{one}" for one in self.options.allowed_domains)
        excluded = " ".join(f"-site:{one}" for one in self.options.excluded_domains)
        sites = f" {allowed} {excluded}".rstrip()
        if len(sites) > MAX_QUERY_CHARS // 2:
            sites = ""
        return query[: MAX_QUERY_CHARS - len(sites)] + sites


def _location(where: Location | None) -> dict[str, str]:
    """As Brave's headers tell it; the others take no location. What a header cannot say is left
    out."""
    if where is None:
        return {}
    told = {
        "x-loc-city": where.city,
        "x-loc-state-name": where.region,
        "x-loc-country": where.country if len(where.country or "") == 2 else None,
        "x-loc-timezone": where.timezone,
    }
    return {name: said for name, said in told.items() if said and said.isascii()}


def _check(answer: httpx.Response) -> None:
    if answer.status_code == 200:
        return
    if answer.status_code in (401, 403):
        raise Unavailable(
            "The search API refused: its key is wrong, or it does not serve JSON "
            "(SearXNG: search.formats)."
        )
    if answer.status_code == 429:
        raise Overloaded("The search API takes no more requests now.")
    broken = UpstreamError if answer.status_code >= 500 else Refused
    raise broken(f"The search API answers with HTTP {answer.status_code}.")


async def _bounded(answer: httpx.Response) -> bytes:
    body = bytearray()
    async for piece in answer.aiter_bytes():
        body += piece
        if len(body) > MAX_ANSWER_BYTES:
            raise UpstreamError("The search API's answer has no end.")
    return bytes(body)


def _results(provider: str, answer: Any) -> list[Found]:
    """What each provider calls its results. Whatever is missing is empty."""
    if provider == "brave":
        items = _list(_mapping(_mapping(answer).get("web")).get("results"))
        return [
            Found(
                _text(item, "title"),
                _text(item, "url"),
                " ".join(
                    [_text(item, "description"), *map(str, _list(item.get("extra_snippets")))]
                ),
            )
            for item in map(_mapping, items)
        ]
    items = _list(_mapping(answer).get("results"))
    return [
        Found(_text(item, "title"), _text(item, "url"), _text(item, "content"))
        for item in map(_mapping, items)
    ]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(item: Mapping[str, Any], key: str) -> str:
    value = item.get(key)
    return value if isinstance(value, str) else ""
