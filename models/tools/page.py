"""What a fetched page says: the readable text of its bytes, by trafilatura."""

from __future__ import annotations

import codecs
from dataclasses import dataclass

#: Kinds of content that are text to begin with, by the start of their type.
_PLAIN = (
    "text/",
    "application/json",
    "application/ld+json",
    "application/xml",
    "application/rss+xml",
    "application/atom+xml",
    "application/yaml",
)
_HTML = ("text/html", "application/xhtml+xml")


@dataclass(frozen=True, slots=True)
class Page:
    title: str
    text: str


def readable(kind: str) -> bool:
    """Whether content of this type (as `text/html`) is something that can be read."""
    return kind in _HTML or kind.startswith(_PLAIN)


def read(body: bytes, kind: str, charset: str | None) -> Page:
    """The title and the main text of a page, without menus, scripts and advertisements."""
    if kind not in _HTML:
        return Page("", _decoded(body, charset))
    # Optional: `pip install 'fusion-cluster[web]'`; the catalog's check asks for it.
    import trafilatura

    text = _decoded(body, charset) if charset else body
    found = trafilatura.bare_extraction(
        text, with_metadata=True, include_links=False, include_tables=True, favor_recall=True
    )
    if found is None or isinstance(found, dict):  # a dict only if one is asked for
        return Page("", "")
    return Page((found.title or "").strip(), (found.text or "").strip())


def _decoded(body: bytes, charset: str | None) -> str:
    try:
        codec = codecs.lookup(charset or "utf-8")
        # A codec such as `zip` or `rot13` makes no text from bytes, or makes too much of it.
        name = codec.name if codec._is_text_encoding else "utf-8"
    except (LookupError, ValueError):
        name = "utf-8"
    return body.decode(name, errors="replace")
