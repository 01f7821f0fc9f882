"""Whether an HTTP client needs any: to read them takes a tenth of a second, each time."""

from __future__ import annotations


def needed(url: str) -> bool:
    """httpx's `verify` for a client of this URL alone. Over `http://` there is nothing to check."""
    return not url.lower().startswith("http://")
