"""The tools that a catalog configures, made once for all requests of a process."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import httpx
from pydantic import SecretStr

from models import messages
from models.errors import BadRequest
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

    def open(self, wanted: Sequence[messages.ServerTool] | None = None) -> Box:
        """These tools for one request, with nothing kept yet; None: all that there are. Raises
        BadRequest for one that there is not."""
        if wanted is None:
            return Box(self._tools)
        return Box({one.name: self._tool(one) for one in wanted})

    def _tool(self, wanted: messages.ServerTool) -> ServerTool:
        tool = self._tools.get(wanted.name)
        if tool is None:
            there = ", ".join(self._tools) or "none"
            raise BadRequest(
                f"No server tool is called '{wanted.name}' here; configured are: {there}. "
                "Add it under tools: in the catalog, or leave it out.",
                param="tools",
            )
        return tool.limited(wanted.parameters) if wanted.parameters else tool
