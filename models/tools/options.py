"""What a request may say about its server tools, beside what the catalog says (`settings`)."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from models.record import Record

#: A host; it stands for all hosts under it too.
Domain = Annotated[str, Field(max_length=253, pattern=r"^[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*$")]
Domains = Annotated[tuple[Domain, ...], Field(max_length=16)]


class _Options(Record):
    model_config = ConfigDict(strict=True)


class SearchOptions(_Options):
    """`web_search` in one request. Its names are OpenRouter's."""

    #: In the place of the catalog's `results`.
    max_results: int | None = Field(None, ge=1, le=20)
    #: Empty: all.
    allowed_domains: Domains = ()
    excluded_domains: Domains = ()


class FetchOptions(_Options):
    """`web_fetch` in one request. Its names are OpenRouter's."""

    #: Of one page; never more than the catalog's `max_chars`.
    max_content_tokens: int | None = Field(None, ge=1)
    #: Empty: all.
    allowed_domains: Domains = ()
    blocked_domains: Domains = ()


class DocumentsOptions(_Options):
    """`documents` in one request."""

    #: In the place of the catalog's `results`.
    max_results: int | None = Field(None, ge=1, le=20)
