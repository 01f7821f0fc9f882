"""`documents`: search in a folder of the user's own texts. Needs no key and no network."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from models.errors import Unavailable
from models.messages import Source, Tool
from models.tools.index import Index, Passage
from models.tools.options import DocumentsOptions
from models.tools.settings import Documents
from models.tools.toolbox import ToolResult

NAME = "documents"
#: Of a whole document that the model asks to read.
MAX_CHARS = 20_000
_DEFAULTS = DocumentsOptions()


def index_of(settings: Documents) -> Index:
    """The index of this folder, in a file of the user's cache that is named after it."""
    folder = Path(settings.folder).expanduser().absolute()
    what = f"{folder}\n{settings.suffixes}\n{settings.max_file_mb}"
    name = hashlib.sha256(what.encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return Index(
        cache / "fusion" / "documents" / f"{name}.db",
        folder,
        settings.suffixes,
        int(settings.max_file_mb * 1_000_000),
    )


@dataclass(slots=True)
class _Freshness:
    """How long the index is as the folder is: one for all requests."""

    until: float = 0.0
    refreshing: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(frozen=True, slots=True)
class Search:
    """Searches and reads what `index` holds, after bringing it up to date."""

    settings: Documents
    index: Index
    #: One request's own.
    options: DocumentsOptions = _DEFAULTS
    _freshness: _Freshness = field(default_factory=_Freshness)

    @property
    def spec(self) -> Tool:
        return Tool(
            NAME,
            "Search the user's own documents, or read one of them.",
            {
                "type": "object",
                "properties": {
                    "query": {"type": "string", "description": "Key words. Gives passages."},
                    "path": {"type": "string", "description": "Read this document, as found."},
                },
                "additionalProperties": False,
            },
        )

    def limited(self, parameters: Mapping[str, Any]) -> Search:
        return replace(self, options=DocumentsOptions.of(parameters))

    @property
    def max_uses(self) -> int | None:
        return self.options.max_uses

    @property
    def nano_usd(self) -> int:
        return 0

    async def run(self, arguments: Mapping[str, Any]) -> ToolResult:
        query, path = arguments.get("query"), arguments.get("path")
        await self._refresh()
        if isinstance(path, str) and path:
            return await self._read(path)
        if not isinstance(query, str) or not query.strip():
            raise ValueError("give 'query', the words to look for, or 'path', a document to read")
        most = self.options.max_results or self.settings.results
        found = await asyncio.to_thread(self.index.search, query, most)
        if not found:
            return ToolResult("Nothing was found. Try other words.")
        text = "\n\n".join(
            f"{number}. {one.title}\npath: {one.path}\n{one.text.strip()}"
            for number, one in enumerate(found, 1)
        )
        return ToolResult(text, tuple(dict.fromkeys(map(_source, found))))

    async def _read(self, path: str) -> ToolResult:
        found = await asyncio.to_thread(self.index.text, path)
        if found is None:
            raise ValueError(f"there is no document '{path}'; search for one first")
        text = found.text[:MAX_CHARS]
        if len(found.text) > MAX_CHARS:
            text += "\n[The document goes on; this is its beginning.]"
        return ToolResult(f"{found.title}\npath: {found.path}\n\n{text}", (_source(found),))

    async def _refresh(self) -> None:
        fresh = self._freshness
        async with fresh.refreshing:
            if time.monotonic() < fresh.until:
                return
            if not await asyncio.to_thread(self.index.folder.is_dir):
                raise Unavailable("The folder of documents is not there (tools.documents.folder).")
            await asyncio.to_thread(self.index.refresh)
            fresh.until = time.monotonic() + self.settings.fresh_s


def _source(passage: Passage) -> Source:
    # Relative: where the folder lies is nobody's business but the operator's.
    return Source(f"documents:{passage.path}", passage.title)
