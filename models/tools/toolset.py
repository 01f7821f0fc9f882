"""The tools that a catalog configures, made once for all requests of a process."""

from __future__ import annotations

import os
from collections.abc import Mapping

import httpx
from pydantic import SecretStr

from models.tools import documents, web_fetch, web_search
from models.tools.settings import Tools
from models.tools.toolbox import Box, ServerTool


class Toolset:
    """Opens a `Box` for each request. `client` is for search APIs; whoever made it closes it."""

    def __init__(
        self, settings: Tools, client: httpx.AsyncClient, environ: Mapping[str, str] = os.environ
    ) -> None:
        tools: dict[str, ServerTool] = {}
        if settings.web_search is not None:
            key = environ.get(settings.web_search.api_key_env or "", "").strip()
            secret = SecretStr(key) if key else None
            tools[web_search.NAME] = web_search.Search(settings.web_search, secret, client)
        if settings.web_fetch is not None:
            tools[web_fetch.NAME] = web_fetch.Fetch(settings.web_fetch)
        if settings.documents is not None:
            index = documents.index_of(settings.documents)
            tools[documents.NAME] = documents.Search(settings.documents, index)
        self._tools = tools

    @property
    def names(self) -> tuple[str, ...]:
        """The tools that there are."""
        return tuple(self._tools)

    def open(self) -> Box:
        """The tools of one request, with nothing kept yet."""
        return Box(self._tools)
