"""How fast a model answers one gateway's requests, and so how long who waits will wait.

Pure. Each gateway has its own queue, so its own pace is what moves it; who comes first in it is
said by `turns`.
"""

from __future__ import annotations

import math
from collections import Counter

from models.workforce.turns import Ticket, ahead

#: How long a count of tokens may take: milliseconds, unless the replica is gone.
COUNT_S = 10.0
_FORGOTTEN_S = 60.0  # an answer counts for a pace of about the last minute
_LONGEST_S = 600.0
_FORGOTTEN = 1e-3  # of one answer


class Pace:
    """Requests under way, and answers a second over about the last minute."""

    def __init__(self) -> None:
        self._under_way: Counter[tuple[bool, str]] = Counter()
        self._answers = 0.0
        self._seconds = 0.0
        self._at_s: float | None = None

    def began(self, mine: Ticket, now_s: float) -> None:
        """A request is handed to the model."""
        if not self._under_way:
            # Time in which nobody asked says nothing about how fast is answered.
            self._at_s = now_s
        self._pass(now_s)
        self._under_way[mine.low, mine.caller] += 1

    def ended(self, mine: Ticket, now_s: float) -> None:
        """A request was answered, or went away: either frees a place."""
        self._pass(now_s)
        self.refused(mine)
        self._answers += 1

    def refused(self, mine: Ticket) -> None:
        """It found no place, and no place has become free."""
        known = mine.low, mine.caller
        self._under_way[known] -= 1
        if not self._under_way[known]:
            del self._under_way[known]

    def _pass(self, now_s: float) -> None:
        passed = max(0.0, now_s - self._at_s) if self._at_s is not None else 0.0
        kept = math.exp(-passed / _FORGOTTEN_S)
        self._answers *= kept
        self._seconds = self._seconds * kept + passed
        self._at_s = now_s

    def wait_s(self, mine: Ticket, places: float) -> float:
        """Seconds until one who comes now has a place, where `places` of those under way have
        one; 0 where nothing was answered yet."""
        before = ahead(self._under_way, mine, places)
        if before <= 0 or self._answers < _FORGOTTEN or self._seconds <= 0.0:
            return 0.0
        return before * self._seconds / self._answers

    def retry_after_s(self, mine: Ticket, unknown_s: float) -> float:
        """Whole seconds until those under way who come before it are through at this pace, from
        1 to ten minutes: then it finds no queue. `unknown_s` where nothing was answered yet."""
        if self._answers < _FORGOTTEN or self._seconds <= 0.0:
            return unknown_s
        before = ahead(self._under_way, mine, 0.0) - 1
        needed = before * self._seconds / self._answers
        return float(min(_LONGEST_S, max(1, math.ceil(needed))))

    def drained_s(self) -> float:
        """Seconds until all that is under way is through at this pace; 0 where nothing was
        answered yet."""
        if self._answers < _FORGOTTEN:
            return 0.0
        return self._under_way.total() * self._seconds / self._answers
