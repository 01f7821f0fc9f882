"""Which path speaks which dialect."""

from __future__ import annotations

from collections.abc import Mapping

from serve.dialects import chat, messages, responses
from serve.dialects.dialect import Dialect

DIALECTS: Mapping[str, Dialect] = {
    "/v1/chat/completions": chat,
    "/v1/responses": responses,
    "/v1/messages": messages,
}


def spoken_at(path: str) -> Dialect:
    """The dialect of this path and all under it; OpenAI's chat where none is its own."""
    found = (one for root, one in DIALECTS.items() if path == root or path.startswith(root + "/"))
    return next(found, chat)
