"""Server-sent events, from bytes that come in any pieces."""

from __future__ import annotations

import codecs
from collections.abc import Iterator

from models.errors import UpstreamError

MAX_ANSWER_BYTES = 32 * 2**20


class ServerSentEvents:
    """Takes bytes as they come and gives the data of each event that is complete. Pure.

    Lines end after LF, CR or CRLF and nothing else: JSON may hold U+2028 and its like.
    """

    def __init__(self, limit: int = MAX_ANSWER_BYTES) -> None:
        self._limit = limit
        self._line = bytearray()
        self._data: list[bytes] = []
        self._size = 0
        self._after_cr = False
        self._begun = False

    def feed(self, chunk: bytes) -> Iterator[str]:
        """Raises UpstreamError if one event grows over the limit."""
        if not chunk:
            return
        if self._after_cr:
            chunk = chunk.removeprefix(b"\n")
        self._after_cr = chunk.endswith(b"\r")
        for piece in chunk.splitlines(keepends=True):
            self._line += piece
            if len(self._line) + self._size > self._limit:
                raise UpstreamError(f"An event of the stream is over {self._limit} bytes.")
            if piece.endswith((b"\n", b"\r")):
                yield from self._end_line()

    def end(self) -> Iterator[str]:
        """What a server left without the empty line that should follow it."""
        yield from self._end_line()
        yield from self._end_line()

    def _end_line(self) -> Iterator[str]:
        line = bytes(self._line).rstrip(b"\r\n")
        self._line.clear()
        if not self._begun:
            # Some servers write a mark of byte order first.
            line, self._begun = line.removeprefix(codecs.BOM_UTF8), True
        if not line:
            # An event without data, or with none in it, is no event.
            if data := b"\n".join(self._data):
                yield data.decode("utf-8", "replace")
            self._data, self._size = [], 0
            return
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
            self._size += len(value)
