"""How fast a model answers one gateway's requests, and so how long who waits will wait.

Pure. Each gateway has its own queue, so its own pace is what moves it; who comes first in it is
said by `turns`.
"""

from __future__ import annotations

import math

from models.workforce.turns import Target, Ticket, ahead

#: How long a count of tokens may take: milliseconds, unless the replica is gone.
COUNT_S = 10.0
_FORGOTTEN_S = 60.0  # an answer counts for a pace of about the last minute
_LONGEST_S = 600.0
_FORGOTTEN = 1e-3  # of one answer


class Pace:
    """Requests under way, and answers a second over about the last minute. `target`: what is
    promised to those who wait."""

    def __init__(self, target: Target | None = None) -> None:
        self._target = target or Target()
        #: By priority and caller.
        self._under_way: dict[tuple[bool, str], list[Ticket]] = {}
        self._answers = 0.0
        self._seconds = 0.0
        self._at_s: float | None = None

    def began(self, mine: Ticket, now_s: float) -> None:
        """A request is handed to the model."""
        if not self._under_way:
            # Time in which nobody asked says nothing about how fast is answered.
            self._at_s = now_s
        self._pass(now_s)
        self._under_way.setdefault(_whose(mine), []).append(mine)

    def ended(self, mine: Ticket, now_s: float) -> None:
        """A request was answered, or went away: either frees a place."""
        self._pass(now_s)
        self.refused(mine)
        self._answers += 1

    def refused(self, mine: Ticket) -> None:
        """It found no place, and no place has become free."""
        own = self._under_way[_whose(mine)]
        own.remove(mine)
        if not own:
            del self._under_way[_whose(mine)]

    def _pass(self, now_s: float) -> None:
        passed = max(0.0, now_s - self._at_s) if self._at_s is not None else 0.0
        kept = math.exp(-passed / _FORGOTTEN_S)
        self._answers *= kept
        self._seconds = self._seconds * kept + passed
        self._at_s = now_s

    def wait_s(self, mine: Ticket, places: float) -> float:
        """Seconds until one who comes now has a place, where `places` of those under way have
        one; 0 where nothing was answered yet. Where it would be late itself, it waits for those
        as well who are late already."""
        crowd = self._crowd()
        before = ahead(crowd, mine, places)
        if before <= 0 or self._answers < _FORGOTTEN or self._seconds <= 0.0:
            return 0.0
        each_s = self._seconds / self._answers
        in_time_s = ahead(crowd, mine, places, self._early(mine)) * each_s
        return in_time_s if in_time_s <= self._target.slack_s(mine) else before * each_s

    def _early(self, mine: Ticket) -> float:
        """About how many of its own caller's are not late when it comes, as if they were read in no
        time: each is looked at for each that comes."""
        if mine.low:
            return math.inf  # nobody is late of batch work
        ttft_s, longest_s = self._target.ttft_s, self._target.longest_s
        own = self._under_way.get(_whose(mine), [])
        return sum(not ttft_s < mine.came_s - one.came_s < longest_s for one in own)

    def _crowd(self) -> dict[tuple[bool, str], int]:
        return {whose: len(own) for whose, own in self._under_way.items()}

    def retry_after_s(self, mine: Ticket, unknown_s: float) -> float:
        """Whole seconds until those under way who come before it are through at this pace, from
        1 to ten minutes: then it finds no queue. `unknown_s` where nothing was answered yet.

        Who is late already counts as well: it is in their line that there is no room.
        """
        if self._answers < _FORGOTTEN or self._seconds <= 0.0:
            return unknown_s
        before = ahead(self._crowd(), mine, 0.0) - 1
        needed = before * self._seconds / self._answers
        return float(min(_LONGEST_S, max(1, math.ceil(needed))))

    def drained_s(self) -> float:
        """Seconds until all that is under way is through at this pace; 0 where nothing was
        answered yet."""
        if self._answers < _FORGOTTEN:
            return 0.0
        return sum(self._crowd().values()) * self._seconds / self._answers


def _whose(ticket: Ticket) -> tuple[bool, str]:
    return ticket.low, ticket.caller
