"""Whose turn it is where requests wait for a hosted model, and who may not join them.

Pure. Whatever a person waits for comes before batch work. Among equals the callers take turns by
the work that they were given, not by how often they ask (start-time fair queueing): one who sends a
thousand requests and one who sends ten get the same share while both wait, and who comes back
after a rest has saved nothing up.

Of one caller, the oldest comes first who can still get its first token in time, and then those
who are late. In plain order of arrival everybody behind one jump of the load would be late as
well, since all wait until those who cannot be helped any more are through. So that these do not
wait for ever, who has waited as long as anybody may comes first of all. Nobody is late of batch
work, nor where no time is promised: there the oldest comes first.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from typing import NamedTuple

from models.scaling import Scaling

#: In a request's body: its `Ticket`.
TICKET = "fusion_ticket"
# Callers that are remembered. Beyond, those are forgotten who are owed nothing.
_KNOWN = 1_000


class Ticket(NamedTuple):
    """What is known of one that waits.

    work: about its tokens; prompt: those of them that are read before the first one is written.
    came_s: when it came, by `time.time()`. patience_s: for how long it stands back for others at
    most, whatever is promised to all.
    """

    caller: str = ""
    low: bool = False
    work: float = 1.0
    prompt: float = 0.0
    came_s: float = 0.0
    patience_s: float = math.inf


class Rank(IntEnum):
    """Who of one caller comes first: the smallest, and of these the oldest."""

    OVERDUE = 0
    IN_TIME = 1
    LATE = 2


class Target(NamedTuple):
    """What is promised to those who wait, in seconds: the first token within `ttft_s`, and that who
    was let in waits for nobody once it has waited for `longest_s`. Without a word: nothing.

    A prompt takes `token_s` for each token, and `step_s`: the step that it finds under way.
    """

    ttft_s: float = math.inf
    longest_s: float = math.inf
    token_s: float = 0.0
    step_s: float = 0.0

    def rank(self, one: Ticket, now_s: float) -> Rank:
        """That of `one` who waits."""
        waited_s = now_s - one.came_s
        if waited_s >= min(self.longest_s, one.patience_s):
            return Rank.OVERDUE
        return Rank.IN_TIME if waited_s <= self.slack_s(one) else Rank.LATE

    def slack_s(self, one: Ticket) -> float:
        """For how long `one` may wait and is still in time."""
        return self.ttft_s - one.prompt * self.token_s - self.step_s


#: Who waits, or is under way: how many of each.
Crowd = Mapping[tuple[bool, str], int]


def longest_wait_s(shed_after_s: float, startup_s: float) -> float:
    """Seconds for which those who are late stand back for those who are not.

    What is ordered when the load jumps serves a start-up time later: until then each that is late
    already would only make another one late, and then there is room for all. Where that is soon,
    they may wait as long as anybody who is let in was expected to.
    """
    return max(shed_after_s, startup_s)


def target(scaling: Scaling) -> Target:
    """What a model that is scaled so promises to those who wait for it."""
    replica = scaling.replica
    decode = replica.decode
    return Target(
        scaling.targets.ttft_s,
        longest_wait_s(scaling.shed_after_s, scaling.node.startup_s),
        1 / replica.prefill_tokens_per_s,
        decode.step_base_s + decode.step_per_sequence_s * decode.max_batch,
    )


class Turns:
    """What each caller was given. All are promised the same."""

    def __init__(self, target: Target | None = None) -> None:
        self._target = target or Target()
        self._given: dict[tuple[bool, str], float] = {}
        self._level = {False: 0.0, True: 0.0}

    def next(self, waiting: Sequence[Ticket], now_s: float) -> int:
        """The index of the one whose turn it is; `waiting` is not empty, the oldest first."""
        low = all(ticket.low for ticket in waiting)
        caller = min((one for one in waiting if one.low == low), key=self._start).caller
        line = [i for i, one in enumerate(waiting) if (one.low, one.caller) == (low, caller)]
        chosen = line[0] if low else self._first(line, waiting, now_s)
        ticket = waiting[chosen]
        start = self._level[low] = self._start(ticket)
        self._given[low, ticket.caller] = start + ticket.work
        if sum(one.low == low for one in waiting) == 1:
            # Nobody had to stand back for it.
            self._level[low] = start + ticket.work
        if len(self._given) > _KNOWN:
            self._given = {k: v for k, v in self._given.items() if v > self._level[k[0]]}
        return chosen

    def _first(self, line: Sequence[int], waiting: Sequence[Ticket], now_s: float) -> int:
        """Of one caller's line the oldest who is not just late: whoever is overdue, unless by its
        own patience, is older than all who are in time."""
        rank = self._target.rank
        return next((i for i in line if rank(waiting[i], now_s) != Rank.LATE), line[0])

    def back(self, ticket: Ticket) -> None:
        """Its turn came to nothing: the replica had no room after all."""
        known = ticket.low, ticket.caller
        if known in self._given:
            self._given[known] -= ticket.work

    def _start(self, ticket: Ticket) -> float:
        return max(self._given.get((ticket.low, ticket.caller), 0.0), self._level[ticket.low])


def crowd(tickets: Iterable[Ticket]) -> Counter[tuple[bool, str]]:
    """How many wait of each caller."""
    return Counter((ticket.low, ticket.caller) for ticket in tickets)


def is_full(waiting: Crowd, mine: Ticket, most: int) -> bool:
    """Whether `mine` may not join those who wait, of whom there should be at most `most`.

    Batch work does not take the room of who comes before it, and nobody takes more than an equal
    part once there is no room left: so there are at times up to twice as many of either kind.
    """
    before = {who: n for who, n in waiting.items() if mine.low or not who[0]}
    if sum(before.values()) < most:
        return False
    own = mine.low, mine.caller
    return before.get(own, 0) >= most / len(before.keys() | {own})


def ahead(under_way: Crowd, mine: Ticket, places: float, early: float = math.inf) -> float:
    """How many have their turn before one who comes now and is none of `under_way`, itself
    counted; at most 0 where there is a place for it at once.

    Of those under way `places` are being answered: of whatever a person waits for first, an
    equal part of each caller. The others wait, and all are taken for equally long. At most `early`
    of its own caller's have their turn before it: the others are late already.
    """
    free, waiting = places, dict[tuple[bool, str], float]()
    for low in (False, True):
        crowd_of = {who: float(n) for who, n in under_way.items() if who[0] == low}
        served = _level(list(crowd_of.values()), free)
        for who, n in crowd_of.items():
            waiting[who] = max(0.0, n - served)
            free -= min(n, served)
    if free >= 1:
        return 1 - free
    own = mine.low, mine.caller
    turn = min(waiting.get(own, 0.0), early) + 1
    others = sum(
        (min(n, turn) if low == mine.low else n)
        for (low, caller), n in waiting.items()
        if (low, caller) != own and (mine.low or not low)
    )
    return turn + others


def _level(amounts: list[float], free: float) -> float:
    """The most that each may have so that all together have at most `free`."""
    left, rest = max(0.0, free), sorted(amounts)
    while rest:
        part = left / len(rest)
        if rest[0] > part:
            return part
        left -= rest.pop(0)
    return float("inf")
