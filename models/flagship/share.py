"""A gateway's share of a provider account.

It leases in batches from the account's owner, so that a call on the way asks nobody but this
process.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from models.answerer import Clock, SystemClock
from models.call import Call, new_id
from models.errors import DeadlineExceeded, FusionError, Overloaded
from models.flagship import headers
from models.flagship.allowance import Grant, Kept, Report, Short
from models.flagship.rates import Amount, Rate, Terms
from models.wrappers.limit import LimiterUnreachable

log = logging.getLogger(__name__)

#: Permits leased beyond those that somebody waits for.
BATCH = 4
#: How long a call waits for a permit before it is turned away.
WAIT_S = 2.0
RETRY_AFTER_S = 2.0
#: How often a gateway renews what it holds and returns what nobody used meanwhile.
TICK_S = 1.0
#: Between two questions for permits when there were none: from the first to the second.
PAUSES_S = (0.02, 0.25)
_WHY: Mapping[Short | None, str] = {
    "calls": "has as many calls in flight as it may",
    "requests": "has made as many requests in this minute as it may",
    "tokens": "has used as many tokens in this minute as it may",
    "pause": "was asked by its provider to pause",
    "unknown": "is being taken over by another owner",
    None: "has more to do than it may",
}


class Account(Protocol):
    """Where an `AccountLimit` leases from. Any method may raise anything."""

    async def lease(self, terms: Terms, holder: str, wanted: Amount) -> Grant: ...
    async def renew(self, terms: Terms, holder: str, report: Report) -> Kept: ...
    async def release(self, holder: str, n: int) -> None: ...


@dataclass(slots=True)
class _Turn:
    tokens: int
    future: asyncio.Future[None]


class AccountLimit:
    """This gateway's permits of one account; `models.wrappers.limit` holds one around a call.

    `acquire` and `release` ask nobody while what is leased suffices. Questions to the account
    are asked one at a time, so that what it knows is never less than what is held here. When
    it cannot be reached, what is held here goes on being used and nothing else is: a limit that
    opens by failing is none.

    `terms` are the catalog's and may be set at any time; in force are those that the account
    answers with, which knows what the provider says.
    """

    def __init__(
        self,
        name: str,
        account: Account,
        terms: Terms,
        *,
        holder: str | None = None,
        batch: int = BATCH,
        wait_s: float = WAIT_S,
        clock: Clock | None = None,
    ) -> None:
        self.terms = terms
        self._in_force = terms
        self._name = name
        self._account = account
        self._holder = holder or new_id("gateway")
        self._batch = batch
        self._wait_s = wait_s
        self._clock = clock or SystemClock()
        #: Calls that are ours, those of them not in use, and the fewest of these in a tick.
        self._held = self._free = self._low = 0
        #: Requests and tokens that are ours and not used. Tokens below zero are a debt.
        self._requests = self._tokens = 0
        self._low_requests = self._low_tokens = 0
        #: Calls that began in this tick, and in the one before.
        self._begun = self._pace = 0
        #: What was leased and kept in the last minute, for an owner that knows nothing.
        self._spent = (Rate(), Rate())
        #: Calls to return instead of handing them on, because others wait.
        self._owed = 0
        #: How many calls the account believes we hold.
        self._known = 0
        self._reachable = True
        self._seen: headers.Seen | None = None
        #: Until when all of us pause, and whether the account has yet to hear of it.
        self._paused_until = float("-inf")
        self._pause_is_news = False
        #: Of what there was too little when the account was last asked, and for how long.
        self._short: tuple[Short | None, float] = (None, RETRY_AFTER_S)
        self._waiting: deque[_Turn] = deque()
        self._asking = asyncio.Lock()
        self._fetcher: asyncio.Task[None] | None = None
        self._tender: asyncio.Task[None] | None = None
        self._payer: asyncio.Task[None] | None = None

    async def acquire(self, call: Call, tokens: int = 0) -> int:
        """Take one call, and about as many tokens as it will use; returns how many were taken.

        Raises Overloaded when there is none in time.
        """
        now = self._clock.now()
        left = call.remaining_s(now)
        # What is larger than a minute's worth waits for a whole minute's worth.
        tokens = min(tokens, self._in_force.tokens or 0)
        if now >= self._paused_until and not self._waiting and self._suffices(tokens):
            self._take(tokens)
            return tokens
        wait = self._wait_s if left is None else min(left, self._wait_s)
        if self._paused_until - now > wait:
            self._short = ("pause", self._paused_until - now)
            raise self._refusal(ran_out=False)
        turn = _Turn(tokens, asyncio.get_running_loop().create_future())
        self._waiting.append(turn)
        self._fetcher = _running(self._fetcher, self._fetch)
        timer = asyncio.ensure_future(self._clock.sleep(wait))
        try:
            await asyncio.wait({turn.future, timer}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            if turn.future.done():
                self.release(tokens, 0)
            else:
                self._waiting.remove(turn)
            raise
        finally:
            timer.cancel()
        if not turn.future.done():
            self._waiting.remove(turn)
            raise self._refusal(ran_out=left is not None and left <= self._wait_s)
        return tokens

    def release(self, taken: int = 0, used: int | None = None) -> None:
        """Give back the call that `acquire` took, and settle its tokens to what it really used.
        None: nobody knows, so as many as were taken."""
        if used is not None and self._in_force.tokens is not None:
            self._tokens += taken - used
        if self._owed:
            self._owed -= 1
            self._held -= 1
            self._payer = _running(self._payer, self._repay)
        else:
            self._free += 1
            self._hand_out()

    def heed(self, told: Mapping[str, str]) -> None:
        """Take notice of a provider's headers. The account hears of them with the next tick."""
        if (seen := headers.seen(told)) is not None:
            self._seen = seen
            self._tender = _running(self._tender, self._tend)

    def pause(self, seconds: float) -> None:
        """The provider wants nobody to ask for so long."""
        self._paused_until = max(self._paused_until, self._clock.now() + seconds)
        self._pause_is_news = True
        self._tender = _running(self._tender, self._tend)

    async def aclose(self) -> None:
        """Return what is free and stop. Calls in flight end with their lease."""
        tasks = [task for task in (self._fetcher, self._tender, self._payer) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with suppress(Exception):
            await self._account.release(self._holder, self._known - self._held + self._free)

    def _suffices(self, tokens: int) -> bool:
        terms = self._in_force
        return (
            self._free > 0
            and (terms.requests is None or self._requests > 0)
            and (terms.tokens is None or self._tokens >= tokens)
        )

    def _take(self, tokens: int) -> None:
        self._begun += 1
        self._free -= 1
        self._low = min(self._low, self._free)
        if self._in_force.requests is not None:
            self._requests -= 1
            self._low_requests = min(self._low_requests, self._requests)
        if self._in_force.tokens is not None:
            self._tokens -= tokens
            self._low_tokens = min(self._low_tokens, self._tokens)

    def _hand_out(self) -> None:
        while (
            self._waiting
            and self._clock.now() >= self._paused_until
            and self._suffices(self._waiting[0].tokens)
        ):
            turn = self._waiting.popleft()
            self._take(turn.tokens)
            turn.future.set_result(None)
        self._low = min(self._low, self._free)

    def _refusal(self, *, ran_out: bool) -> FusionError:
        if ran_out:
            return DeadlineExceeded("The deadline passed while the request waited for its turn.")
        if not self._reachable:
            return LimiterUnreachable(
                f"The limiter of account '{self._name}' cannot be reached.",
                retry_after_s=RETRY_AFTER_S,
            )
        short, wait = self._short
        return Overloaded(
            f"Account '{self._name}' {_WHY[short]}. Try again later.",
            retry_after_s=max(wait, RETRY_AFTER_S),
        )

    async def _fetch(self) -> None:
        """Lease until nobody waits."""
        pause, longest = PAUSES_S
        while self._waiting:
            if await self._lease(self._wanted()):
                pause = PAUSES_S[0]
            elif self._waiting:
                await self._clock.sleep(pause)
                pause = min(2 * pause, longest)

    def _wanted(self) -> Amount:
        waiting = len(self._waiting)
        # A busy gateway leases what it will need in the next quarter of a second. Calls at once
        # come back, requests and tokens do not.
        many = waiting + max(self._batch, self._pace // 4)
        tokens = sum(turn.tokens for turn in self._waiting)
        return Amount(
            max(0, waiting + self._batch - self._free),
            max(0, many - self._requests) if self._in_force.requests is not None else 0,
            max(0, tokens * many // waiting - self._tokens)
            if self._in_force.tokens is not None
            else 0,
        )

    async def _lease(self, wanted: Amount) -> bool:
        async with self._asking:
            try:
                granted = await self._account.lease(self.terms, self._holder, wanted)
                if granted.short == "unknown":
                    # A new owner, or a new holder: it wants to hear of us first.
                    await self._renew()
                    granted = await self._account.lease(self.terms, self._holder, wanted)
            except Exception as error:
                self._lost(error)
                return False
            self._reachable = True
            self._in_force = granted.terms
            if granted.short is not None:
                self._short = (granted.short, granted.wait_s)
            amount, now = granted.amount, self._clock.now()
            self._known += amount.calls
            self._held += amount.calls
            self._free += amount.calls
            self._requests += amount.requests
            self._tokens += amount.tokens
            for rate, n in zip(self._spent, amount[1:], strict=True):
                rate.charge(n, now)
            self._hand_out()
        if any(amount):
            self._tender = _running(self._tender, self._tend)
        return any(amount)

    async def _tend(self) -> None:
        """Renew what we hold and return what we do not need, until there is nothing to say."""
        while self._something_to_say():
            self._low, self._low_requests, self._low_tokens = (
                self._free,
                self._requests,
                self._tokens,
            )
            await self._clock.sleep(TICK_S)
            self._pace, self._begun = self._begun, 0
            async with self._asking:
                try:
                    await self._renew()
                except Exception as error:
                    self._lost(error)

    async def _renew(self) -> None:
        report = self._report()
        try:
            kept = await self._account.renew(self.terms, self._holder, report)
        except BaseException:
            self._untold(report)
            raise
        self._reachable = True
        self._in_force = kept.terms
        self._known = report.held
        self._paused_until = max(self._paused_until, self._clock.now() + kept.pause_s)
        self._give_up(self._held - kept.calls)

    def _something_to_say(self) -> bool:
        now = self._clock.now()
        return bool(
            self._known
            or self._seen
            or self._pause_is_news
            or self._requests
            or self._tokens
            or any(rate.used(now) for rate in self._spent)
        )

    def _report(self) -> Report:
        """What is idle is not ours any more: were its report lost, it would count as used."""
        now = self._clock.now()
        self._free -= self._low
        self._held -= self._low
        # A debt is told whole.
        tokens = self._tokens if self._tokens < 0 else max(0, self._low_tokens)
        unused = Amount(0, max(0, self._low_requests), tokens)
        self._requests -= unused.requests
        self._tokens -= unused.tokens
        self._low = 0
        for rate, n in zip(self._spent, unused[1:], strict=True):
            rate.give_back(n)
            rate.charge(-n, now)
        spent = [rate.history(now) for rate in self._spent]
        pause = max(0.0, self._paused_until - now) if self._pause_is_news else 0.0
        report = Report(self._held, unused, spent[0], spent[1], self._seen, pause)
        self._seen, self._pause_is_news = None, False
        return report

    def _untold(self, report: Report) -> None:
        """Nobody heard this report: its news are news again, and a debt is one still."""
        self._seen = self._seen or report.seen
        self._pause_is_news = self._pause_is_news or report.pause_s > 0
        debt = max(0, -report.unused.tokens)
        self._tokens -= debt
        self._spent[1].give_back(debt)

    def _give_up(self, surplus: int) -> None:
        """Free permits go back at once, those in use when their calls end."""
        surplus = max(0, surplus)
        free = min(surplus, self._free)
        self._free -= free
        self._held -= free
        self._owed = surplus - free
        if free:
            self._payer = _running(self._payer, self._repay)

    async def _repay(self) -> None:
        """Tell the account now of permits that others wait for. A failure is told with a tick."""
        while self._known > self._held:
            async with self._asking:
                due = self._known - self._held
                try:
                    await self._account.release(self._holder, due)
                except Exception as error:
                    self._lost(error)
                    return
                self._known -= due

    def _lost(self, error: Exception) -> None:
        if self._reachable:
            log.warning(
                "the limiter of account %s cannot be reached: %s", self._name, type(error).__name__
            )
        self._reachable = False


def _running(
    task: asyncio.Task[None] | None, start: Callable[[], Coroutine[Any, Any, None]]
) -> asyncio.Task[None]:
    return asyncio.create_task(start()) if task is None or task.done() else task
