"""What a request may say about its server tools, beside what the catalog says (`settings`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, StringConstraints

from models.record import Record

#: A host; it stands for all hosts under it too.
Domain = Annotated[str, Field(max_length=253, pattern=r"^[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*$")]
Domains = Annotated[tuple[Domain, ...], Field(max_length=16)]
#: A city, a region, a country, a time zone. One line, as it may become a header.
_Place = Annotated[
    str, StringConstraints(strip_whitespace=True, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")
]


class _Options(Record):
    model_config = ConfigDict(strict=True)

    #: Calls of this tool in the whole request, by its panelists and the judge together.
    max_uses: int | None = Field(None, ge=1)

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> Self:
        """What the door has checked. In a request that was parked since, lists stand for tuples."""
        return cls.model_validate(parameters, strict=False)


class Location(Record):
    """About where the user is. Its names are OpenRouter's."""

    model_config = ConfigDict(strict=True)

    type: Literal["approximate"] = "approximate"
    city: _Place | None = None
    region: _Place | None = None
    #: Two letters, for engines to know it.
    country: _Place | None = None
    timezone: _Place | None = None

    def __str__(self) -> str:
        said = (
            self.city,
            self.region,
            self.country,
            self.timezone and f"time zone {self.timezone}",
        )
        return ", ".join(filter(None, said))


class SearchOptions(_Options):
    """`web_search` in one request. Its names are OpenRouter's."""

    #: The catalog says which engine there is, and a request cannot have another.
    engine: Literal["auto"] = "auto"
    #: In the place of the catalog's `results`.
    max_results: int | None = Field(None, ge=1, le=20)
    #: Over all searches of the request.
    max_total_results: int | None = Field(None, ge=1)
    #: How much of each result.
    search_context_size: Literal["low", "medium", "high"] | None = None
    #: The same in characters; wins over the size.
    max_characters: int | None = Field(None, ge=1)
    user_location: Location | None = None
    #: Empty: all.
    allowed_domains: Domains = ()
    excluded_domains: Domains = ()


class FetchOptions(_Options):
    """`web_fetch` in one request. Its names are OpenRouter's."""

    #: `openrouter` is their word for what is done here: the server itself reads the page.
    engine: Literal["auto", "openrouter"] = "auto"
    #: Of one page; never more than the catalog's `max_chars`.
    max_content_tokens: int | None = Field(None, ge=1)
    #: Empty: all.
    allowed_domains: Domains = ()
    blocked_domains: Domains = ()


class DocumentsOptions(_Options):
    """`documents` in one request."""

    #: In the place of the catalog's `results`.
    max_results: int | None = Field(None, ge=1, le=20)
