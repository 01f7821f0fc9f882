"""The money of one process: reserves from leased budget in memory, and settles behind the call.

A call that leaves costs a look into a purse and a line in the journal. The store is asked only
when a purse runs short; what ended is booked a quarter of a second later, many calls at a time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from models.answerer import Clock, SystemClock
from models.call import Call, new_id
from models.catalog import Catalog
from models.errors import BudgetExceeded, FusionError, StoreUnavailable
from models.prices import usd
from models.values import value
from serve.money import journal
from serve.money.bank import BATCH, LEASE_S, Bank
from serve.money.caps import Capped, Caps
from serve.money.journal import Journal
from serve.money.ledger import ALL, Entry, Limit, Purse, Refusal, limits_of
from serve.money.limits import CatalogLimits
from serve.store.database import Database

log = logging.getLogger(__name__)

#: How often ended calls are told to the store.
FLUSH_S = 0.25
#: After how long without a call a purse's free budget goes back.
IDLE_S = 1.0
#: How often leases are renewed and the dead are looked for.
RENEW_S = 5.0
#: A lease is for so many calls, or for what this many seconds took lately.
CALLS = 16
SECONDS = 1.0


class Alarm(Protocol):
    """Who must hear of a bill that passed what was reserved for it."""

    def overrun(self, model: str, nano_usd: int) -> None: ...


class Payer(Protocol):
    """Where a call is paid: a `Till`, or `serve.money.fake.FakeTill`."""

    async def reserve(self, entry: Entry, worst: int | None, cap: int | None = None) -> Hold: ...

    def settle(self, hold: Hold, entry: Entry) -> None: ...


class _Silent:
    def overrun(self, model: str, nano_usd: int) -> None:
        pass


@dataclass(slots=True, eq=False)
class _Leased:
    """A purse with the lease that fills it. `names` are the accounts that it was taken from."""

    names: tuple[str, ...]
    lease: str = ""
    #: The lease that a question to the store would have made, while no answer to it is known.
    unheard: str = ""
    purse: Purse = field(default_factory=Purse)
    #: When it was last reserved from, last filled, and last known to live in the store.
    used: float = 0.0
    filled: float = 0.0
    alive: float = 0.0
    #: The question to the store that is under way, and for how much at least.
    filling: asyncio.Task[Refusal | FusionError | None] | None = None
    asked: int = 0

    @property
    def is_filling(self) -> bool:
        return self.filling is not None and not self.filling.done()


#: Where nothing is leased, as of a till that only counts.
_NOTHING = _Leased(())


@value(slots=True, eq=False)
class Hold:
    """A call's reservation, to be settled exactly once."""

    entry: Entry
    worst: int
    leased: _Leased = _NOTHING
    #: The lease of that moment.
    lease: str = ""


class Till:
    """One a process. `folder` is where its journal lies, beside those of its neighbours."""

    def __init__(
        self,
        bank: Bank,
        folder: Path,
        limits: Callable[[], Mapping[str, Limit]],
        *,
        clock: Clock | None = None,
        alarm: Alarm | None = None,
    ) -> None:
        self._bank = bank
        self._folder = folder
        #: Those in force at the moment.
        self.limits = limits
        self._clock = clock or SystemClock()
        self._alarm = alarm or _Silent()
        self._holder = journal.new_holder()
        self._journal = Journal(folder / f"{self._holder}.journal")
        self._purses: dict[tuple[str, ...], _Leased] = {}
        #: Purses that give nothing any more, until their last call has ended.
        self._leaving: list[_Leased] = []
        self._done: dict[str, list[tuple[Entry, int]]] = {}
        self._caps = Caps()
        self._tender: asyncio.Task[None] | None = None
        self._reachable = True
        self._closed = False

    async def open(self) -> None:
        """Settle what dead neighbours left, and begin to look after this till."""
        with suppress(StoreUnavailable):
            await self._recover()
        self._tender = asyncio.create_task(self._tend())

    async def close(self) -> None:
        """Tell the store all it should know and return the rest. What cannot be told stays in
        the journal, for whoever looks next."""
        if self._closed:
            return
        self._closed = True
        if self._tender is not None:
            self._tender.cancel()
            await asyncio.gather(self._tender, return_exceptions=True)
        with suppress(StoreUnavailable):
            await self.flush()
            self._leaving += self._purses.values()
            self._purses.clear()
            await self._end_leases()
        self._journal.close()

    async def reserve(self, entry: Entry, worst: int | None, cap: int | None = None) -> Hold:
        """Set aside the most that a call can cost; None where its model has no price. `cap`
        bounds all calls of the entry's request together.

        Raises BudgetExceeded where a limit does not allow it, and StoreUnavailable where that
        cannot be known.
        """
        limits = self.limits()
        if limits:
            limits = limits_of(entry.accounts, limits)
        if worst is None:
            _refuse_unpriced(entry, limits, cap)
            worst = 0
        now = self._clock.now()
        if cap is not None:
            self._caps.reserve(_capped(entry), cap, worst, now)
        try:
            leased = await self._reserved(tuple(dict.fromkeys((ALL, *limits))), limits, worst)
            hold = Hold(entry, worst, leased, leased.lease)
            try:
                self._journal.opened(entry, leased.lease, worst)
            except BaseException:
                leased.purse.settle(worst, 0)
                raise
        except BaseException:
            if cap is not None:
                self._caps.settle(_capped(entry), worst, 0)
            raise
        return hold

    def settle(self, hold: Hold, entry: Entry) -> None:
        """The call ended and is what `entry` says. Asks nobody."""
        passed = hold.leased.purse.settle(hold.worst, entry.cost)
        self._journal.ended(entry)
        self._done.setdefault(hold.lease, []).append((entry, hold.worst))
        self._caps.settle(_capped(entry), hold.worst, entry.cost)
        if passed:
            self._overrun(hold, entry, passed)

    def left(self, call: Call, cap: int) -> int:
        """What the request of this call may still spend under its cap."""
        return self._caps.left((call.project, call.request or call.id), cap)

    def spent_elsewhere(self, call: Call, cost: int) -> None:
        """Count what another process spent for the request of this call."""
        self._caps.add((call.project, call.request or call.id), cost, self._clock.now())

    async def flush(self) -> None:
        """Book every call that has ended."""
        for lease in list(self._done):
            while done := self._done[lease][:BATCH]:
                await self._bank.settle(lease, done)
                del self._done[lease][: len(done)]
                self._journal.settled([entry.id for entry, _ in done])
            del self._done[lease]

    async def _reserved(
        self, names: tuple[str, ...], limits: Mapping[str, Limit], worst: int
    ) -> _Leased:
        """The purse of these accounts, with a call's worst case set aside in it."""
        while True:
            leased = self._purses.get(names)
            if leased is None:
                leased = self._purses[names] = _Leased(names)
            now = self._clock.now()
            # A lease that could not be renewed may be taken for lost, and resolved by hand.
            if worst and leased.lease and now - leased.alive > LEASE_S:
                self._retire(leased)
                continue
            if leased.purse.reserve(worst):
                leased.used = now
                return leased
            if leased.filling is None or not leased.is_filling:
                leased.asked = worst - leased.purse.free
                leased.filling = asyncio.create_task(self._fill(leased, limits, worst))
            asked = leased.asked
            # What it brings must reach the purse also when this call is cancelled meanwhile.
            refused = await asyncio.shield(leased.filling)
            if isinstance(refused, FusionError):
                raise refused
            if refused is not None and worst - leased.purse.free >= asked:
                raise BudgetExceeded(refused.message(worst))

    async def _fill(
        self, leased: _Leased, limits: Mapping[str, Limit], worst: int
    ) -> Refusal | FusionError | None:
        now = self._clock.now()
        rate = leased.purse.recent / max(now - leased.filled, FLUSH_S) if leased.filled else 0
        wanted = max(CALLS * worst, int(rate * SECONDS))
        unheard = leased.unheard
        try:
            if unheard:
                await self._bank.give_back(unheard, None)
            leased.unheard = new_id("lease")
            got = await self._bank.lease(
                self._holder,
                leased.names,
                limits,
                least=leased.asked,
                wanted=max(leased.asked, wanted),
                # The store may have more under the old one than the purse knows of, so that one
                # ends, and gives it back.
                onto=None if unheard else leased.lease or None,
                new=leased.unheard,
            )
        except FusionError as error:
            return error
        if isinstance(got, Refusal):
            leased.unheard = unheard
            return got
        leased.unheard = ""
        if leased.lease not in ("", got.id):
            self._retire(leased)
            leased = _Leased(leased.names)
            if leased.names in self._purses:
                self._leaving.append(leased)
            else:
                self._purses[leased.names] = leased
        leased.lease = got.id
        leased.purse.amount += got.amount
        leased.purse.recent = 0
        leased.filled = leased.used = leased.alive = now
        return None

    def _retire(self, leased: _Leased) -> None:
        if self._purses.get(leased.names) is leased:
            del self._purses[leased.names]
        if leased not in self._leaving:
            self._leaving.append(leased)

    def _overrun(self, hold: Hold, entry: Entry, passed: int) -> None:
        log.error(
            "the bill of call %s to %s passed its reservation of %s USD by %s USD; "
            "its accounts (%s) are frozen until `fusion usage unfreeze`",
            *(entry.id, entry.model, usd(hold.worst), usd(passed), ", ".join(hold.leased.names)),
        )
        self._alarm.overrun(entry.model, passed)
        self._retire(hold.leased)

    async def _tend(self) -> None:
        renewed = self._clock.now()
        while True:
            await self._clock.sleep(FLUSH_S)
            try:
                await self.flush()
                await self._return_idle()
                # A clock that went back must not stop this until it has caught up.
                if not 0 <= self._clock.now() - renewed < RENEW_S:
                    renewed = self._clock.now()
                    await self._renew()
                    try:
                        await self._recover()
                    finally:
                        await self._bank.collect()
                    self._caps.forget(renewed)
                self._reachable = True
            except StoreUnavailable as error:
                if self._reachable:
                    log.warning("the ledger waits for its store: %s", error.message)
                self._reachable = False
            except Exception:  # money must go on being looked after
                log.exception("the till failed; it goes on")

    async def _return_idle(self) -> None:
        now = self._clock.now()
        for leased in list(self._purses.values()):
            # A clock that went back makes nothing idle and nothing busy for ever.
            leased.used = min(leased.used, now)
            if now - leased.used < IDLE_S or leased.is_filling:
                continue
            if not leased.purse.reserved:
                self._retire(leased)
            elif (free := leased.purse.free) > 0:
                leased.purse.amount -= free
                try:
                    await self._bank.give_back(leased.lease, free)
                except BaseException:
                    # It may have gone back all the same. The end of the lease returns the rest.
                    self._retire(leased)
                    raise
        await self._end_leases()

    async def _end_leases(self) -> None:
        for leased in list(self._leaving):
            if leased.purse.reserved or leased.is_filling or leased.lease in self._done:
                continue
            for lease in filter(None, (leased.lease, leased.unheard)):
                await self._bank.give_back(lease, None)
            self._leaving.remove(leased)

    async def _renew(self) -> None:
        if not (self._purses or self._leaving):
            return
        asked = self._clock.now()
        known = [(leased, leased.lease) for leased in self._purses.values() if leased.lease]
        there = await self._bank.renew(self._holder)
        for leased, lease in known:
            leased.alive = asked
            if lease not in there:  # taken for lost, and perhaps spent by others since
                self._retire(leased)

    async def _recover(self) -> None:
        failed: StoreUnavailable | None = None
        for path, left in journal.abandoned(self._folder):
            holder, whole = path.stem, not journal.outlived_the_machine(path.stem)
            try:
                await self._bank.recover(holder, left, whole=whole)
            except StoreUnavailable as error:  # one that cannot be booked keeps no other back
                failed = error
                continue
            path.unlink(missing_ok=True)
            ended, still_open = (sum(map(len, x.values())) for x in (left.ended, left.open))
            log.warning(
                "booked what the dead process %s left: %d calls that had ended, %d whose end "
                "nobody knows (fusion usage)",
                *(holder, ended, still_open),
            )
        if failed is not None:
            raise failed


def _capped(entry: Entry) -> Capped:
    # A client may choose a request's id, and must not meet another project's by it.
    return (entry.project, entry.request)


def new_till(
    database: Database,
    current: Callable[[], Catalog],
    clock: Clock,
    alarm: Alarm | None = None,
) -> Till:
    """The till of this process on this store, under the limits of the catalog of the moment."""
    folder, limits = journal.folder(database.url), CatalogLimits(current)
    return Till(Bank(database, clock), folder, limits, clock=clock, alarm=alarm)


def _refuse_unpriced(entry: Entry, limits: Mapping[str, Limit], cap: int | None) -> None:
    bound = next(iter(limits), None) or ("this request" if cap is not None else None)
    if bound is not None:
        raise BudgetExceeded(
            f"Model '{entry.model}' has no price, and a budget bounds {bound}: what it would cost "
            f"cannot be known. Set models.{entry.model}.price in the catalog."
        )
