"""How much of something happens within a minute. Pure: it is told the time."""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

MINUTE_S = 60.0


class Amount(NamedTuple):
    """Calls in flight, requests and tokens: what a call needs of its account."""

    calls: int = 0
    requests: int = 0
    tokens: int = 0


class Terms(NamedTuple):
    """What an account allows: calls at once, requests and tokens a minute. None: no limit."""

    calls: int
    requests: int | None = None
    tokens: int | None = None


class Rate:
    """At most `limit` within any sixty seconds. Times are seconds on any one clock.

    A window and not a bucket: a full bucket lets twice its rate through in its first minute.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        #: What was taken, by the whole second that it counts until it is a minute old.
        self._taken: deque[list[int]] = deque()

    def used(self, now: float) -> int:
        while self._taken and self._taken[0][0] <= now - MINUTE_S:
            self._taken.popleft()
        return sum(n for _, n in self._taken)

    def take(self, wanted: int, now: float) -> int:
        """Up to `wanted`; returns how much there was."""
        if self.limit is None:
            return wanted
        granted = max(0, min(wanted, self.limit - self.used(now)))
        self.charge(granted, now)
        return granted

    def charge(self, n: int, now: float) -> None:
        """Count `n` as taken at `now`, also beyond the limit."""
        if n <= 0:
            return
        second = math.ceil(now)
        for slot in self._taken:
            if slot[0] == second:
                slot[1] += n
                return
        self._taken.append([second, n])
        if len(self._taken) > 1 and self._taken[-2][0] > second:
            self._taken = deque(sorted(self._taken))

    def give_back(self, n: int) -> None:
        """What was taken last and not used."""
        while n > 0 and self._taken:
            slot = self._taken[-1]
            back = min(n, slot[1])
            slot[1] -= back
            n -= back
            if not slot[1]:
                self._taken.pop()

    def wait_s(self, now: float) -> float:
        """Seconds until there is room for one more."""
        if self.limit is None or self.used(now) < self.limit:
            return 0.0
        over = self.used(now) - self.limit
        for second, n in self._taken:
            over -= n
            if over < 0:
                return max(0.0, second + MINUTE_S - now)
        return MINUTE_S

    def history(self, now: float) -> tuple[tuple[float, int], ...]:
        """What still counts: how many seconds ago, and how much."""
        self.used(now)
        return tuple((max(0.0, now - second), n) for second, n in self._taken)
