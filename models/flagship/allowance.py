"""One provider account as its owner knows it: what it allows, and who holds what of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from models.flagship.headers import Left, Seen
from models.flagship.permits import Permits
from models.flagship.rates import MINUTE_S, Amount, Rate, Terms

#: After a start nothing is leased for so long, so that whoever still holds and spends says so
#: first: an owner that restarts must not give everything out a second time.
GRACE_S = 1.5

Short = Literal["calls", "requests", "tokens", "pause", "unknown"]


class Grant(NamedTuple):
    """What a holder got, the terms as they are known now, and where it got less than it wanted:
    of what there is too little, and for how many seconds."""

    amount: Amount
    terms: Terms
    short: Short | None = None
    wait_s: float = 0.0


class Report(NamedTuple):
    """What a holder says now and then: calls that it holds, requests and tokens that nobody
    used, what it spent in the last minute (seconds ago, how much), and what the provider told."""

    held: int
    unused: Amount = Amount()
    requests: tuple[tuple[float, int], ...] = ()
    tokens: tuple[tuple[float, int], ...] = ()
    seen: Seen | None = None
    pause_s: float = 0.0


class Kept(NamedTuple):
    """How many calls the holder may keep, the terms, and how long everybody must pause."""

    calls: int
    terms: Terms
    pause_s: float = 0.0


@dataclass(slots=True)
class Allowance:
    """Times are seconds on any one clock. `terms` are the catalog's; a provider that says less
    in its headers is believed."""

    terms: Terms
    born: float
    _permits: Permits = field(init=False)
    _requests: Rate = field(default_factory=Rate)
    _tokens: Rate = field(default_factory=Rate)
    _told: Seen = field(default_factory=Seen)
    _paused_until: float = float("-inf")
    #: When each holder was last heard of; what others say they spent is news.
    _heard: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._permits = Permits(self.terms.calls)

    def lease(self, holder: str, wanted: Amount, now: float) -> Grant:
        """As much of `wanted` as there is. Nothing for a holder that is `unknown`: it must first
        say, by `renew`, what it holds and spent."""
        terms = self._current()
        if holder not in self._heard:
            return Grant(Amount(), terms, "unknown")
        wait = max(self.born + GRACE_S, self._paused_until) - now
        if wait > 0:
            return Grant(Amount(), terms, "pause", wait)
        granted = Amount(
            self._permits.lease(holder, wanted.calls, now) if wanted.calls else 0,
            self._requests.take(wanted.requests, now),
            self._tokens.take(wanted.tokens, now),
        )
        self._heard[holder] = now
        if granted.requests < wanted.requests:
            return Grant(granted, terms, "requests", self._requests.wait_s(now))
        if granted.tokens < wanted.tokens:
            return Grant(granted, terms, "tokens", self._tokens.wait_s(now))
        return Grant(granted, terms, "calls" if granted.calls < wanted.calls else None)

    def renew(self, holder: str, report: Report, now: float) -> Kept:
        """Hear that this holder lives."""
        self._heard = {name: at for name, at in self._heard.items() if at > now - MINUTE_S}
        if holder in self._heard:
            self._requests.give_back(report.unused.requests)
            self._tokens.give_back(report.unused.tokens)
            # Below zero: answers turned out longer than was reserved for them.
            self._tokens.charge(-report.unused.tokens, now)
        else:
            # What it spent is told without what it did not use, and with what it owes.
            for rate, spent in (
                (self._requests, report.requests),
                (self._tokens, report.tokens),
            ):
                for ago, n in spent:
                    rate.charge(n, now - ago)
        self._heard[holder] = now
        self._paused_until = max(self._paused_until, now + report.pause_s)
        if report.seen is not None:
            self._learn(report.seen, now)
        terms = self._current()
        calls = self._permits.renew(holder, report.held, now)
        return Kept(calls, terms, max(0.0, self._paused_until - now))

    def release(self, holder: str, n: int) -> None:
        """Take back `n` calls."""
        self._permits.release(holder, n)

    def in_use(self, now: float) -> Amount:
        return Amount(self._permits.in_use(now), self._requests.used(now), self._tokens.used(now))

    def _learn(self, seen: Seen, now: float) -> None:
        self._told = Seen(seen.requests or self._told.requests, seen.tokens or self._told.tokens)
        self._current()
        for rate, left in ((self._requests, seen.requests), (self._tokens, seen.tokens)):
            if left is not None:
                # Somebody else uses the same account, or counts otherwise.
                rate.charge(left.limit - left.remaining - rate.used(now), now)

    def _current(self) -> Terms:
        self._permits.capacity = self.terms.calls
        self._requests.limit = _least(self.terms.requests, self._told.requests)
        self._tokens.limit = _least(self.terms.tokens, self._told.tokens)
        return Terms(self.terms.calls, self._requests.limit, self._tokens.limit)


def _least(stated: int | None, told: Left | None) -> int | None:
    if told is None:
        return stated
    return told.limit if stated is None else min(stated, told.limit)
