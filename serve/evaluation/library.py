"""Where research finds its sources: a folder of documents, or the web by the catalog's tools."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import httpx

from models.call import Call
from models.tools.documents import index_of
from models.tools.settings import Documents, Tools
from models.tools.toolset import Toolset
from serve.evaluation.evidence import Stored

_PASSAGES = 4
_PAGES = 3


def search_folder(folder: Path, queries: Sequence[str]) -> list[Stored]:
    """Passages that fit, those of the first query first. Raises ValueError without a folder."""
    if not folder.is_dir():
        raise ValueError(f"--sources: there is no folder {folder}")
    index = index_of(Documents(folder=str(folder)))
    index.refresh()
    return [
        Stored(one.path, one.title, one.text)
        for query in queries
        for one in index.search(query, _PASSAGES)
    ]


def search_web(tools: Tools, queries: Sequence[str]) -> list[Stored]:
    """Pages that fit, as the web's search and fetch give them. Raises ValueError without those."""
    if tools.web_search is None or tools.web_fetch is None:
        raise ValueError(
            "--sources web needs tools.web_search and tools.web_fetch in the catalog; "
            "a folder of documents needs nothing: --sources FOLDER"
        )
    return asyncio.run(_search_web(tools, queries))


async def _search_web(tools: Tools, queries: Sequence[str]) -> list[Stored]:
    async with httpx.AsyncClient(timeout=30.0) as client:
        box, call = Toolset(tools, client).open(), Call()
        found: dict[str, Stored] = {}
        for query in queries:
            listed = await box.call("web_search", json.dumps({"query": query}), call)
            for source in listed.sources[:_PAGES]:
                if source.url in found:
                    continue
                page = await box.call("web_fetch", json.dumps({"url": source.url}), call)
                if not page.is_error:
                    found[source.url] = Stored(source.url, source.title or source.url, page.text)
        return list(found.values())
