"""What a client of ours hears from a server, whatever answers there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import httpx


def lines(pieces: Iterable[bytes]) -> Iterator[str]:
    """Each line without its end, which is LF or CRLF and nothing else.

    JSON may hold U+2028 and its like, at which `httpx.Response.iter_lines` cuts too.
    """
    begun: list[bytes] = []
    for piece in pieces:
        first, *others = piece.split(b"\n")
        begun.append(first)
        for other in others:
            yield _text(begun)
            begun = [other]
    if any(begun):
        yield _text(begun)


def _text(parts: list[bytes]) -> str:
    return b"".join(parts).removesuffix(b"\r").decode()


def said_wrong(response: httpx.Response) -> str:
    """The server's own words for what was wrong, or that nothing of ours has spoken."""
    try:
        return f"{response.json()['error']['message']} (HTTP {response.status_code})"
    except (ValueError, KeyError, TypeError):
        pass
    if response.status_code >= 500:
        return f"No gateway is up behind {origin(response)} (HTTP {response.status_code})."
    return f"What answers at {origin(response)} is no fusion server (HTTP {response.status_code})."


def origin(response: httpx.Response) -> str:
    """Where it came from, as people write it."""
    return str(response.request.url.copy_with(path="/", query=None)).rstrip("/")
