"""A gateway's share of an account, and the owner's terms that it obeys."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from models.call import Call
from models.errors import DeadlineExceeded, Overloaded
from models.fake import FakeClock, settle
from models.flagship.allowance import GRACE_S, Allowance, Grant, Kept, Report
from models.flagship.permits import LEASE_S
from models.flagship.rates import Amount, Terms
from models.flagship.share import BATCH, TICK_S, WAIT_S, AccountLimit
from models.wrappers.limit import LimiterUnreachable


class Local:
    """An account in this process, which counts its calls and may be out of reach."""

    def __init__(self, terms: Terms, clock: FakeClock) -> None:
        self.allowance = Allowance(terms, born=-GRACE_S)
        self.clock = clock
        self.asked: list[str] = []
        self.away = False

    def restart(self) -> None:
        self.allowance = Allowance(self.allowance.terms, born=self.clock.now())

    def _hear(self, what: str) -> None:
        self.asked.append(what)
        if self.away:
            raise ConnectionError("gone")

    async def lease(self, terms: Terms, holder: str, wanted: Amount) -> Grant:
        self._hear("lease")
        return self.allowance.lease(holder, wanted, self.clock.now())

    async def renew(self, terms: Terms, holder: str, report: Report) -> Kept:
        self._hear("renew")
        return self.allowance.renew(holder, report, self.clock.now())

    async def release(self, holder: str, n: int) -> None:
        self._hear("release")
        self.allowance.release(holder, n)

    @property
    def in_use(self) -> int:
        return self.allowance.in_use(self.clock.now()).calls


def share(
    capacity: int, requests: int | None = None, tokens: int | None = None, **options: Any
) -> tuple[FakeClock, Local, AccountLimit]:
    clock = FakeClock()
    terms = Terms(capacity, requests, tokens)
    account = Local(terms, clock)
    return clock, account, gateway("g1", account, **options)


def gateway(name: str, account: Local, **options: Any) -> AccountLimit:
    terms, clock = account.allowance.terms, account.clock
    return AccountLimit("K@host", account, terms, holder=name, clock=clock, **options)


async def test_permits_come_in_batches_and_are_then_handed_out_here() -> None:
    _, account, limit = share(64)
    for _ in range(1 + BATCH):
        await limit.acquire(Call())
    for _ in range(100):
        limit.release()
        await limit.acquire(Call())
    # It asks, is not known, says what it holds, and asks again.
    assert account.asked == ["lease", "renew", "lease"]
    await limit.aclose()


async def test_when_none_comes_it_says_when_to_come_back() -> None:
    clock, account, limit = share(1)
    await limit.acquire(Call())
    waiting = asyncio.create_task(limit.acquire(Call()))
    await clock.advance(WAIT_S)
    with pytest.raises(Overloaded, match="K@host") as caught:
        await waiting
    assert caught.value.retry_after_s
    await clock.advance(1)
    limit.release()
    await limit.acquire(Call())
    assert account.in_use == 1
    await limit.aclose()


async def test_who_waits_gets_the_next_one_in_order() -> None:
    _, _, limit = share(1)
    await limit.acquire(Call())
    first, second = (asyncio.create_task(limit.acquire(Call())) for _ in range(2))
    await settle()
    limit.release()
    await settle()
    assert (first.done(), second.done()) == (True, False)
    limit.release()
    await settle()
    assert second.done()
    await limit.aclose()


async def test_it_waits_no_longer_than_the_deadline() -> None:
    clock, _, limit = share(1)
    await limit.acquire(Call())
    waiting = asyncio.create_task(limit.acquire(Call(deadline=0.5)))
    await clock.advance(0.5)
    with pytest.raises(DeadlineExceeded):
        await waiting
    await limit.aclose()


async def test_a_cancelled_waiter_keeps_no_permit() -> None:
    _, _, limit = share(1)
    await limit.acquire(Call())
    early, late = (asyncio.create_task(limit.acquire(Call())) for _ in range(2))
    await settle()
    early.cancel()
    await settle()
    limit.release()
    late_too = asyncio.create_task(limit.acquire(Call()))
    # Cancelled in the very moment in which it was given its permit.
    late.cancel()
    await settle()
    assert late_too.done()
    await asyncio.gather(early, late, return_exceptions=True)
    await limit.aclose()


async def test_idle_permits_go_back_and_the_last_question_is_asked() -> None:
    clock, account, limit = share(64)
    await limit.acquire(Call())
    assert account.in_use == 1 + BATCH
    await clock.advance(2 * TICK_S)
    assert account.in_use == 1
    limit.release()
    await clock.advance(3 * TICK_S)
    assert account.in_use == 0
    asked = len(account.asked)
    await clock.advance(60)
    assert len(account.asked) == asked


async def test_a_long_call_keeps_its_lease() -> None:
    clock, account, limit = share(1)
    await limit.acquire(Call())
    await clock.advance(10 * LEASE_S)
    assert account.in_use == 1
    limit.release()
    await limit.aclose()
    assert account.in_use == 0


async def test_a_busy_gateway_gives_way_to_one_that_came_late() -> None:
    clock, account, busy = share(4, batch=0)
    late = gateway("g2", account, batch=0)
    for _ in range(4):
        await busy.acquire(Call())
    waiting = asyncio.create_task(late.acquire(Call()))
    await clock.advance(TICK_S + 0.1)
    more = asyncio.create_task(busy.acquire(Call()))
    busy.release()
    await clock.advance(0.3)
    assert (waiting.done(), more.done()) == (True, False)
    busy.release()
    busy.release()
    await settle()
    assert more.done()
    assert account.in_use <= 4
    await asyncio.gather(busy.aclose(), late.aclose())


async def test_without_the_account_what_is_held_goes_on_and_no_more() -> None:
    clock, account, limit = share(64, batch=1)
    await limit.acquire(Call())
    account.away = True
    await limit.acquire(Call())
    waiting = asyncio.create_task(limit.acquire(Call()))
    await clock.advance(WAIT_S)
    with pytest.raises(LimiterUnreachable, match="cannot be reached"):
        await waiting
    limit.release()
    await limit.acquire(Call())
    account.away = False
    again = asyncio.create_task(limit.acquire(Call()))
    await clock.advance(1)
    await again
    await limit.aclose()


# Requests and tokens a minute


async def granted(limit: AccountLimit, clock: FakeClock, seconds: float, tokens: int = 0) -> int:
    """How many calls pass within these seconds, when always one more wants to."""
    passed, ends = 0, clock.now() + seconds
    while clock.now() < ends:
        asking = asyncio.create_task(limit.acquire(Call(), tokens))
        while not asking.done() and clock.now() < ends:
            await settle()
            if not asking.done():
                await clock.advance(0.25)
        if not asking.done():
            asking.cancel()
        elif asking.exception() is None:
            passed += 1
            limit.release(asking.result(), asking.result())
        await asyncio.gather(asking, return_exceptions=True)
    return passed


async def test_no_more_requests_in_a_minute_than_the_account_may() -> None:
    clock, _, limit = share(64, requests=10)
    assert await granted(limit, clock, 59) == 10
    assert await granted(limit, clock, 60) == 10
    await limit.aclose()


async def test_no_more_tokens_either() -> None:
    clock, _, limit = share(64, tokens=1000)
    assert await granted(limit, clock, 59, tokens=300) == 3
    await limit.aclose()


async def test_two_gateways_share_the_minute() -> None:
    clock, account, one = share(64, requests=10)
    other = gateway("g2", account)
    first = await granted(one, clock, 5)
    assert first + await granted(other, clock, 50) == 10
    await asyncio.gather(one.aclose(), other.aclose())


async def test_an_owner_that_restarts_does_not_double_the_rate() -> None:
    clock, account, limit = share(64, requests=10)
    before = await granted(limit, clock, 5)
    account.restart()
    assert before + await granted(limit, clock, 50) == 10
    await limit.aclose()


async def test_an_owner_gives_nothing_to_whom_it_does_not_know() -> None:
    clock, account, limit = share(64, requests=10)
    before = await granted(limit, clock, 5)
    # Nobody is heard of in the new owner's first moments.
    account.away = True
    account.restart()
    await clock.advance(GRACE_S + 1)
    account.away = False
    assert before + await granted(limit, clock, 40) == 10
    await limit.aclose()


async def test_an_owner_that_restarts_learns_first_what_is_in_flight() -> None:
    clock, account, busy = share(4, batch=0)
    late = gateway("g2", account, batch=0)
    for _ in range(4):
        await busy.acquire(Call())
    account.restart()
    waiting = asyncio.create_task(late.acquire(Call()))
    await clock.advance(WAIT_S)
    with pytest.raises(Overloaded):
        await waiting
    assert account.in_use == 4
    await asyncio.gather(busy.aclose(), late.aclose())


async def test_who_is_turned_away_hears_why_and_for_how_long() -> None:
    clock, _, limit = share(64, requests=1)
    await limit.acquire(Call())
    waiting = asyncio.create_task(limit.acquire(Call()))
    await clock.advance(WAIT_S)
    with pytest.raises(Overloaded, match="as many requests in this minute") as caught:
        await waiting
    assert caught.value.retry_after_s is not None
    assert 50 < caught.value.retry_after_s <= 60
    await limit.aclose()


async def test_tokens_are_settled_to_what_was_used() -> None:
    clock, account, limit = share(64, tokens=1000, batch=0)
    taken = await limit.acquire(Call(), 900)
    limit.release(taken, 100)
    await limit.acquire(Call(), 800)
    await clock.advance(3 * TICK_S)
    assert account.allowance.in_use(clock.now()).tokens == 900
    await limit.aclose()


async def test_an_answer_that_was_longer_than_expected_is_paid_back() -> None:
    clock, account, limit = share(64, tokens=1000, batch=0)
    limit.release(await limit.acquire(Call(), 100), 1000)
    await clock.advance(3 * TICK_S)
    assert account.allowance.in_use(clock.now()).tokens == 1000
    waiting = asyncio.create_task(limit.acquire(Call(), 10))
    await clock.advance(WAIT_S)
    with pytest.raises(Overloaded, match="tokens"):
        await waiting
    await limit.aclose()


async def test_a_prompt_larger_than_a_minute_passes_all_the_same() -> None:
    _, _, limit = share(64, tokens=1000, batch=0)
    assert await limit.acquire(Call(), 5000) == 1000
    await limit.aclose()


async def test_idle_requests_and_tokens_go_back() -> None:
    clock, account, limit = share(64, requests=100, tokens=10_000)
    await limit.acquire(Call(), 100)
    await clock.advance(3 * TICK_S)
    assert account.allowance.in_use(clock.now()) == Amount(1, 1, 100)
    await limit.aclose()


async def test_a_busy_gateway_leases_more_at_once() -> None:
    clock, account, limit = share(64, requests=100_000)
    leases = []
    for _ in range(2):
        before = account.asked.count("lease")
        for _ in range(400):
            await limit.acquire(Call())
            limit.release()
        leases.append(account.asked.count("lease") - before)
        await clock.advance(TICK_S)
    assert leases[1] < leases[0] / 10
    await limit.aclose()


# What the provider says


def told(what: str, limit: int, remaining: int) -> dict[str, str]:
    return {
        f"x-ratelimit-limit-{what}": str(limit),
        f"x-ratelimit-remaining-{what}": str(remaining),
    }


async def test_limits_come_from_the_providers_headers() -> None:
    clock, account, limit = share(64)
    await limit.acquire(Call())
    limit.heed(told("requests", 10, 3))
    await clock.advance(2 * TICK_S)
    # Seven were made by somebody else.
    assert await granted(limit, clock, 50) == 3
    other = gateway("g2", account)
    assert await granted(other, clock, 1) == 0
    await asyncio.gather(limit.aclose(), other.aclose())


async def test_a_provider_that_allows_more_than_the_catalog_changes_nothing() -> None:
    clock, _, limit = share(64, requests=2)
    limit.heed(told("requests", 1000, 1000))
    await clock.advance(2 * TICK_S)
    assert await granted(limit, clock, 50) == 2
    await limit.aclose()


async def test_a_pause_is_everybodys() -> None:
    clock, account, limit = share(64)
    other = gateway("g2", account)
    await other.acquire(Call())
    await limit.acquire(Call())
    limit.pause(10)
    with pytest.raises(Overloaded, match="pause") as caught:
        await limit.acquire(Call())
    assert caught.value.retry_after_s == 10
    await clock.advance(3 * TICK_S)
    with pytest.raises(Overloaded, match="pause"):
        await other.acquire(Call())
    await clock.advance(10)
    for each in (limit, other):
        await each.acquire(Call())
    await asyncio.gather(limit.aclose(), other.aclose())


async def test_news_that_nobody_heard_are_told_again() -> None:
    clock, account, limit = share(64, tokens=1000, batch=0)
    limit.release(await limit.acquire(Call(), 100), 400)
    limit.heed(told("requests", 10, 3))
    limit.pause(30)
    account.away = True
    await clock.advance(3 * TICK_S)
    account.away = False
    await clock.advance(2 * TICK_S)
    other = gateway("g2", account)
    with pytest.raises(Overloaded, match="pause"):
        waiting = asyncio.create_task(other.acquire(Call()))
        await clock.advance(WAIT_S)
        await waiting
    # The provider's count of requests, and the debt, which is told once.
    assert account.allowance.in_use(clock.now()) == Amount(0, 7, 400)
    await asyncio.gather(limit.aclose(), other.aclose())


async def test_a_new_owner_gives_back_nothing_that_it_never_counted() -> None:
    owner = Allowance(Terms(64, requests=10, tokens=1000), born=-GRACE_S)
    owner.renew("known", Report(0, requests=((1.0, 4),), tokens=((1.0, 300),)), 0)
    # From before the restart: what was unused is not within what was spent, what is owed is.
    owner.renew("g1", Report(0, Amount(0, 3, 200), ((1.0, 2),), ((1.0, 100),)), 0)
    owner.renew("g2", Report(0, Amount(0, 0, -50), (), ((0.0, 50),)), 0)
    assert owner.in_use(0) == Amount(0, 6, 450)


async def test_a_short_pause_is_waited_for() -> None:
    clock, _, limit = share(64)
    await limit.acquire(Call())
    limit.pause(1)
    waiting = asyncio.create_task(limit.acquire(Call()))
    await clock.advance(0.9)
    assert not waiting.done()
    await clock.advance(0.5)
    await waiting
    await limit.aclose()
