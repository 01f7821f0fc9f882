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
from models.tools.toolbox import Box, Fees, ServerTool

#: What a panel has that names no tools. The user's own documents are not shown to whoever asks
#: something else.
DEFAULT = (web_search.NAME, web_fetch.NAME)


class Toolset:
    """Opens a `Box` for each request. `client` is for search APIs; whoever made it closes it.
    `fees` pays for what costs something."""

    def __init__(
        self,
        settings: Tools,
        client: httpx.AsyncClient,
        environ: Mapping[str, str] = os.environ,
        fees: Fees | None = None,
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
        self._fees = fees

    @property
    def names(self) -> tuple[str, ...]:
        """The tools that there are."""
        return tuple(self._tools)

    def open(self, wanted: Sequence[messages.ServerTool] | None = None) -> Box:
        """These tools for one request, with nothing kept yet; None: those of the web that there
        are, as the Fusion contract has it. Raises BadRequest for one that there is not."""
        if wanted is None:
            tools = {name: self._tools[name] for name in DEFAULT if name in self._tools}
        else:
            tools = {one.name: self._tool(one) for one in wanted}
        return Box(tools, wanted, self._fees)

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
