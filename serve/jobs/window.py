"""How many rows to have at work at once, learned from how fast they come back. Pure.

The cluster's size is not asked for: it changes, and behind one model name there may be a panel,
a router or an API with limits of its own. What can be seen is the rate of rows that end. The
window grows as long as a larger one is faster, stays where it is not, and tries again now and
then, so that it follows a cluster that has grown. An overload halves it.
"""

from __future__ import annotations

from dataclasses import dataclass

#: What a larger window must gain to be kept.
_WORTH = 1.1
#: Windows at one size before the next larger one is tried again.
_PATIENCE = 8


@dataclass(slots=True)
class Window:
    """`size` rows may be at work. Tell it what ends; a generation is `size` rows."""

    #: At first as many as vLLM computes together: what is too much says so, and what is too little
    #: takes longer to find out than a short batch.
    size: int = 256
    least: int = 1
    most: int = 1024
    _ended: int = 0
    _began: float = 0.0
    #: Size and rate (rows a second) that the present size must beat; none: nothing to beat.
    _before: tuple[int, float] | None = None
    _waited: int = 0
    _trying: bool = True

    def start(self, now: float) -> None:
        """Work begins, or begins again after a pause."""
        self._began, self._ended = now, 0

    def ended(self, rows: int, now: float) -> None:
        """So many rows came back."""
        self._ended += rows
        if self._ended >= self.size and now > self._began:
            self._judge(self._ended / (now - self._began))
            self.start(now)

    def overloaded(self, now: float) -> None:
        """Something on the way was full."""
        self.size = max(self.least, self.size // 2)
        self._before, self._waited, self._trying = None, 0, False
        self.start(now)

    def _judge(self, rate: float) -> None:
        if self._trying:
            if self._before is not None and rate < self._before[1] * _WORTH:
                # Not worth it: back to what was as fast.
                self.size, self._trying = self._before[0], False
                return
            self._grow(rate)
            return
        self._waited += 1
        if self._waited >= _PATIENCE:
            self._waited, self._trying = 0, True
            self._grow(rate)

    def _grow(self, rate: float) -> None:
        self._before = (self.size, rate)
        self.size = min(self.most, self.size * 2)
        self._trying = self.size > self._before[0]
