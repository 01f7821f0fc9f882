"""Lines of a body that comes in pieces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


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
