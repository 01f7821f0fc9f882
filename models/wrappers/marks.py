"""Takes marked pieces out of a text that comes in any pieces. Pure."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Literal, NamedTuple


class Piece(NamedTuple):
    """`text` outside of all marks or `inside` of one; `end` closes an inside piece."""

    kind: Literal["text", "inside", "end"]
    text: str = ""


class Splitter:
    """Gives out what was fed, without the marks.

    What may be the beginning of a mark is held back until that is clear. With `at_start`, marks
    count only before anything else but white space. An empty closing mark is the text's end.
    With `inside` the text begins behind an opening mark that was never written; then, if no
    closing mark comes, `inside` pieces were none: whoever reads decides at the end.
    """

    def __init__(
        self, marks: tuple[tuple[str, str], ...], *, at_start: bool = False, inside: bool = False
    ) -> None:
        self._marks = marks
        self._at_start = at_start
        self._held = ""
        self._close = marks[0][1] if inside and marks else None
        self._over = not marks
        #: The marks around the last inside piece.
        self.around = marks[0] if inside and marks else ("", "")

    @property
    def idle(self) -> bool:
        """Nothing is held back and nothing will be taken out any more."""
        return self._over and not self._held

    def feed(self, text: str) -> Iterator[Piece]:
        self._held += text
        while self._held:
            if self._over:
                yield Piece("text", self._take(len(self._held)))
            elif self._close is not None:
                if not (yield from self._inside(self._close)):
                    return
            elif not (yield from self._outside()):
                return

    def finish(self) -> Iterator[Piece]:
        """What is still held, now that nothing follows."""
        if self._held:
            yield Piece(
                "inside" if self._close is not None else "text", self._take(len(self._held))
            )
        if self._close == "":
            yield Piece("end")
            self._close = None

    @property
    def open(self) -> bool:
        """Whether a mark was opened and not closed."""
        return self._close is not None

    def _take(self, n: int) -> str:
        taken, self._held = self._held[:n], self._held[n:]
        return taken

    def _inside(self, close: str) -> Generator[Piece, None, bool]:
        place = self._held.find(close) if close else -1
        if place >= 0:
            if place:
                yield Piece("inside", self._take(place))
            self._take(len(close))
            yield Piece("end")
            self._close = None
            self._over = self._at_start
            return True
        if free := len(self._held) - _overlap(self._held, (close,) if close else ()):
            yield Piece("inside", self._take(free))
        return False

    def _outside(self) -> Generator[Piece, None, bool]:
        found = [
            (place, -len(mark), mark, close)
            for mark, close in self._marks
            if (place := self._held.find(mark)) >= 0
        ]
        if self._at_start:
            found = [each for each in found if not self._held[: each[0]].strip()]
        if found:
            place, _, mark, close = min(found)
            if place:
                yield Piece("text", self._take(place))
            self._take(len(mark))
            self._close, self.around = close, (mark, close)
            return True
        opening = tuple(mark for mark, _ in self._marks)
        if self._at_start:
            begun = self._held.lstrip()
            if begun and not any(mark.startswith(begun) for mark in opening):
                self._over = True
                return True
            return False
        if free := len(self._held) - _overlap(self._held, opening):
            yield Piece("text", self._take(free))
        return False


def _overlap(text: str, marks: tuple[str, ...]) -> int:
    """How many characters at the end of `text` may be the beginning of a mark."""
    longest = max(map(len, marks), default=1) - 1
    return next(
        (
            n
            for n in range(min(longest, len(text)), 0, -1)
            if any(mark.startswith(text[-n:]) for mark in marks)
        ),
        0,
    )
