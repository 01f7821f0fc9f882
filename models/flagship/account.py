"""One limiter for each provider account over the whole cluster, and each gateway's share of it.

The owner is a deployment of one replica around the `Permits` of each. A gateway holds an
`AccountLimit`, which leases permits in batches, so that a call on the way asks nobody but this
process.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, Protocol

import httpx

from models.answerer import Clock, SystemClock
from models.call import Call, new_id
from models.catalog import ApiModel, ModelSpec
from models.errors import DeadlineExceeded, Overloaded, Unavailable
from models.flagship.permits import Permits

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


def account_name(spec: ApiModel) -> str:
    """Models with the same key at the same host share an account."""
    url = httpx.URL(spec.base_url)
    port = f":{url.port}" if url.port else ""
    return f"{spec.api_key_env or 'no-key'}@{url.host}{port}"


def capacities(models: Mapping[str, ModelSpec]) -> dict[str, int]:
    """Each account's permits: the least that one of its models states."""
    accounts: dict[str, int] = {}
    for spec in models.values():
        if isinstance(spec, ApiModel):
            name = account_name(spec)
            accounts[name] = min(spec.max_concurrent, accounts.get(name, spec.max_concurrent))
    return accounts


class AccountsReplica:
    """The one owner of the permits of every account.

    All in one place, so that a catalog may name a new provider while the cluster runs; its calls
    take microseconds. Capacities come from who asks: the gateways follow the newest catalog.
    """

    def __init__(self) -> None:
        self._permits: dict[str, Permits] = {}

    async def lease(self, account: str, capacity: int, holder: str, wanted: int) -> int:
        return self._of(account, capacity).lease(holder, wanted, time.monotonic())

    async def renew(self, account: str, capacity: int, holder: str, held: int) -> int:
        return self._of(account, capacity).renew(holder, held, time.monotonic())

    async def release(self, account: str, holder: str, n: int) -> None:
        if permits := self._permits.get(account):
            permits.release(holder, n)

    def _of(self, account: str, capacity: int) -> Permits:
        permits = self._permits.setdefault(account, Permits(capacity))
        permits.capacity = capacity
        return permits


def deployment() -> Any:
    """The bound Serve application that owns all accounts."""
    # Here, so that a gateway's share of an account can be had, and tested, without Ray.
    from ray import serve as ray_serve

    return ray_serve.deployment(
        AccountsReplica,
        name="Accounts",
        num_replicas=1,
        # A queue would only hide how many gateways there are.
        max_ongoing_requests=1000,
        ray_actor_options={"num_cpus": 0},
    ).bind()


class Account(Protocol):
    """Where an `AccountLimit` leases from. Any method may raise anything."""

    async def lease(self, holder: str, wanted: int) -> int: ...
    async def renew(self, holder: str, held: int) -> int: ...
    async def release(self, holder: str, n: int) -> None: ...


class AccountHandle:
    """An `Account` behind Serve's handle of the accounts' owner."""

    def __init__(self, handle: Any, name: str, capacity: int) -> None:
        self._handle = handle
        self._name = name
        self._capacity = capacity

    async def lease(self, holder: str, wanted: int) -> int:
        return int(await self._handle.lease.remote(self._name, self._capacity, holder, wanted))

    async def renew(self, holder: str, held: int) -> int:
        return int(await self._handle.renew.remote(self._name, self._capacity, holder, held))

    async def release(self, holder: str, n: int) -> None:
        await self._handle.release.remote(self._name, holder, n)


class AccountLimit:
    """This gateway's permits of one account; `models.wrappers.limit` holds one around a call.

    `acquire` and `release` ask nobody while a leased permit is free. Questions to the account
    are asked one at a time, so that what it knows is never less than what is held here. When
    it cannot be reached, the permits held here go on being used and no others are: a limit
    that opens by failing is none.
    """

    def __init__(
        self,
        name: str,
        account: Account,
        *,
        holder: str | None = None,
        batch: int = BATCH,
        wait_s: float = WAIT_S,
        clock: Clock | None = None,
    ) -> None:
        self._name = name
        self._account = account
        self._holder = holder or new_id("gateway")
        self._batch = batch
        self._wait_s = wait_s
        self._clock = clock or SystemClock()
        #: Permits that are ours, those of them not in use, and the fewest of these in a tick.
        self._held = self._free = self._low = 0
        #: Permits to return instead of handing them on, because others wait.
        self._owed = 0
        #: What the account believes we hold.
        self._known = 0
        self._reachable = True
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._asking = asyncio.Lock()
        self._fetcher: asyncio.Task[None] | None = None
        self._tender: asyncio.Task[None] | None = None
        self._payer: asyncio.Task[None] | None = None

    async def acquire(self, call: Call) -> None:
        """Take one permit. Raises Overloaded when none comes in time."""
        left = call.remaining_s(self._clock.now())
        if self._free and not self._waiting:
            self._free -= 1
            self._low = min(self._low, self._free)
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._fetcher = _running(self._fetcher, self._fetch)
        wait = self._wait_s if left is None else min(left, self._wait_s)
        timer = asyncio.ensure_future(self._clock.sleep(wait))
        try:
            await asyncio.wait({turn, timer}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            if turn.done():
                self.release()
            else:
                self._waiting.remove(turn)
            raise
        finally:
            timer.cancel()
        if not turn.done():
            self._waiting.remove(turn)
            raise self._refusal(ran_out=left is not None and left <= self._wait_s)

    def release(self) -> None:
        """Give back one permit that `acquire` took."""
        if self._owed:
            self._owed -= 1
            self._held -= 1
            self._payer = _running(self._payer, self._repay)
        else:
            self._free += 1
            self._hand_out()

    async def aclose(self) -> None:
        """Return what is free and stop. Permits in use end with their lease."""
        tasks = [task for task in (self._fetcher, self._tender, self._payer) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with suppress(Exception):
            await self._account.release(self._holder, self._known - self._held + self._free)

    def _refusal(self, *, ran_out: bool) -> Overloaded | DeadlineExceeded | Unavailable:
        if ran_out:
            return DeadlineExceeded("The deadline passed while the request waited for its turn.")
        if not self._reachable:
            return Unavailable(
                f"The limiter of account '{self._name}' cannot be reached.",
                retry_after_s=RETRY_AFTER_S,
            )
        return Overloaded(
            f"Account '{self._name}' has as many calls in flight as it may. Try again later.",
            retry_after_s=RETRY_AFTER_S,
        )

    def _hand_out(self) -> None:
        while self._free and self._waiting:
            self._free -= 1
            self._waiting.popleft().set_result(None)
        self._low = min(self._low, self._free)

    async def _fetch(self) -> None:
        """Lease until nobody waits."""
        pause, longest = PAUSES_S
        while self._waiting:
            granted = await self._lease(len(self._waiting) + self._batch)
            if granted:
                pause = PAUSES_S[0]
            elif self._waiting:
                await self._clock.sleep(pause)
                pause = min(2 * pause, longest)

    async def _lease(self, wanted: int) -> int:
        async with self._asking:
            try:
                granted = await self._account.lease(self._holder, wanted)
            except Exception as error:
                self._lost(error)
                return 0
            self._reachable = True
            self._known += granted
            self._held += granted
            self._free += granted
            self._hand_out()
        if granted:
            self._tender = _running(self._tender, self._tend)
        return granted

    async def _tend(self) -> None:
        """Renew what we hold and return what we do not need, until the account knows of none."""
        while self._known:
            self._low = self._free
            await self._clock.sleep(TICK_S)
            async with self._asking:
                self._free -= self._low
                self._held -= self._low
                self._low = 0
                held = self._held
                try:
                    keep = await self._account.renew(self._holder, held)
                except Exception as error:
                    self._lost(error)
                    continue
                self._reachable = True
                self._known = held
                self._give_up(self._held - keep)

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
