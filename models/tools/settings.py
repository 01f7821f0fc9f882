"""What the catalog says about tools."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from models.prices import NANO_PER_USD
from models.record import Record

#: Where each search provider is, unless the catalog says otherwise.
_ADDRESSES = {"brave": "https://api.search.brave.com", "tavily": "https://api.tavily.com"}


class WebSearch(Record):
    """A search API."""

    provider: Literal["brave", "tavily", "searxng"]
    #: The environment variable that holds the key. SearXNG needs none.
    api_key_env: str | None = Field(None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    #: Where the API is. Default: the provider's own; SearXNG has none.
    base_url: str | None = Field(None, pattern=r"^https?://[^\s?#@]+$")
    #: Results of one search.
    results: int = Field(5, ge=1, le=20)
    #: US dollars that the provider takes for one search.
    price: float = Field(0.0, ge=0, le=100)

    @model_validator(mode="after")
    def _complete(self) -> WebSearch:
        if self.provider == "searxng" and self.base_url is None:
            raise ValueError("searxng needs base_url, the address of your server")
        if self.provider != "searxng" and self.api_key_env is None:
            raise ValueError(f"{self.provider} needs api_key_env, the variable with its key")
        return self

    @property
    def address(self) -> str:
        return (self.base_url or _ADDRESSES[self.provider]).rstrip("/")

    @property
    def nano_usd(self) -> int:
        return round(self.price * NANO_PER_USD)


class WebFetch(Record):
    """Reading pages of the open internet."""

    #: Seconds for one page, its redirects included.
    timeout_s: float = Field(15.0, gt=0, le=60)
    #: Bytes of a page that are read.
    max_bytes: int = Field(2_000_000, ge=1000, le=20_000_000)
    #: Characters of its text that the model gets.
    max_chars: int = Field(20_000, ge=200, le=1_000_000)
    max_redirects: int = Field(5, ge=0, le=10)


class Documents(Record):
    """A folder of the user's own texts."""

    #: Searched with all folders in it, except those whose names begin with a dot.
    folder: str = Field(min_length=1)
    #: Which files are read, by the ends of their names.
    suffixes: tuple[Annotated[str, Field(pattern=r"^\.[A-Za-z0-9.]+$")], ...] = (
        ".md",
        ".txt",
        ".rst",
        ".html",
        ".csv",
        ".json",
        ".yaml",
        ".py",
    )
    #: Passages that one search gives.
    results: int = Field(5, ge=1, le=20)
    #: Larger files are passed over.
    max_file_mb: float = Field(10.0, gt=0, le=500)
    #: Seconds for which the folder is taken to be as it was seen last.
    fresh_s: float = Field(10.0, ge=0)


class Tools(Record):
    """What models may reach for while they answer. A tool that is not named here is not there."""

    web_search: WebSearch | None = None
    web_fetch: WebFetch | None = None
    documents: Documents | None = None
