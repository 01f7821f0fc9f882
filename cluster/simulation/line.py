"""The line in front of all replicas, in the order that is kept live as well
(`models.workforce.turns`): all requests of a trace are one caller's."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import takewhile

from cluster.simulation.trace import Trace
from models.workforce.turns import Rank, Target, Ticket


class Line:
    """Requests that wait, each by its number in the trace."""

    def __init__(self, trace: Trace, target: Target) -> None:
        self._arrival_s = trace.arrival_s
        self._prompt_tokens = trace.prompt_tokens
        self._target = target
        self._back: deque[int] = deque()  # before all others
        self._waiting: deque[int] = deque()
        # Who was found to be late already when its turn came, the oldest first.
        self._late: deque[int] = deque()

    def __len__(self) -> int:
        return len(self._back) + len(self._waiting) + len(self._late)

    def __iter__(self) -> Iterator[int]:
        yield from (*self._back, *self._late, *self._waiting)

    def join(self, request: int) -> None:
        """One has arrived."""
        self._waiting.append(request)

    def put_back(self, requests: Sequence[int]) -> None:
        """These have had their turn, and lost what it gave them: it is theirs again."""
        self._back.extendleft(reversed(requests))

    def take(self, now_s: float) -> int:
        """The one whose turn it is; somebody waits."""
        if self._back:
            return self._back.popleft()
        self._sort(now_s)
        waiting, late = self._waiting, self._late
        if late and (not waiting or self._rank(late[0], now_s) == Rank.OVERDUE):
            return late.popleft()
        return waiting.popleft()

    def early(self, now_s: float) -> int:
        """How many come before one who comes now and can be in time, once it is in the line."""
        self._sort(now_s)
        overdue = takewhile(lambda one: self._rank(one, now_s) == Rank.OVERDUE, self._late)
        return len(self._back) + len(self._waiting) + sum(1 for _ in overdue)

    def _sort(self, now_s: float) -> None:
        # Who is late stays so: each is looked at until it is in time once, or moved once.
        waiting = self._waiting
        while waiting and self._rank(waiting[0], now_s) != Rank.IN_TIME:
            self._late.append(waiting.popleft())

    def _rank(self, request: int, now_s: float) -> Rank:
        prompt, came_s = self._prompt_tokens[request], self._arrival_s[request]
        return self._target.rank(Ticket(prompt=prompt, came_s=came_s), now_s)
