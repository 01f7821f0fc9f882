from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.call import Call
from models.catalog import OpenAIModel
from models.errors import DeadlineExceeded, Overloaded, Unavailable
from models.fake import FakeClock, settle
from models.flagship.account import BATCH, TICK_S, WAIT_S, AccountLimit, capacities
from models.flagship.permits import LEASE_S, SHORT_S, Permits

# The account


def test_no_more_is_leased_than_there_is() -> None:
    permits = Permits(5)
    assert permits.lease("a", 3, now=0) == 3
    assert permits.lease("b", 3, now=0) == 2
    assert permits.lease("b", 1, now=0) == 0


def test_what_is_released_can_be_leased_again() -> None:
    permits = Permits(2)
    permits.lease("a", 2, now=0)
    permits.release("a", 1)
    assert permits.lease("b", 2, now=0) == 1


def test_nobody_returns_more_than_he_holds() -> None:
    permits = Permits(2)
    permits.lease("a", 1, now=0)
    permits.release("a", 5)
    permits.release("stranger", 5)
    assert permits.in_use(0) == 0
    assert permits.lease("b", 5, now=0) == 2


def test_a_dead_holders_permits_count_until_its_lease_ends() -> None:
    permits = Permits(2, lease_s=10)
    permits.lease("dead", 2, now=0)
    assert permits.lease("b", 1, now=9.9) == 0
    assert permits.lease("b", 1, now=10) == 1


def test_a_renewed_lease_goes_on() -> None:
    permits = Permits(2, lease_s=10)
    permits.lease("a", 2, now=0)
    assert permits.renew("a", 2, now=9) == 2
    assert permits.lease("b", 1, now=18) == 0


def test_a_renewal_says_what_is_held() -> None:
    # The answer to a lease was lost on its way: the holder never knew of its permit.
    permits = Permits(2)
    permits.lease("a", 2, now=0)
    permits.renew("a", 1, now=1)
    assert permits.lease("b", 1, now=1) == 1


def test_after_a_restart_what_still_runs_is_counted_and_drained() -> None:
    permits = Permits(2)
    assert permits.lease("b", 2, now=0) == 2
    assert permits.renew("a", 2, now=0) == 0
    permits.release("b", 2)
    assert permits.lease("b", 1, now=0) == 0
    permits.renew("a", 0, now=0)
    assert permits.lease("b", 1, now=0) == 1


def test_while_one_waits_the_others_keep_their_share() -> None:
    permits = Permits(4)
    permits.lease("a", 4, now=0)
    assert permits.lease("late", 2, now=0) == 0
    assert permits.renew("a", 4, now=0.5) == 2
    permits.renew("a", 2, now=0.6)
    assert permits.lease("a", 1, now=0.6) == 0
    assert permits.lease("late", 9, now=0.6) == 2
    assert permits.renew("a", 2, now=0.6 + 2 * SHORT_S) == 2


@st.composite
def steps(draw: st.DrawFn) -> tuple[str, str, int, float]:
    return (
        draw(st.sampled_from(["lease", "lease", "release", "renew"])),
        draw(st.sampled_from("abc")),
        draw(st.integers(0, 12)),
        draw(st.sampled_from([0.0, 0.1, 1.0, 9.0, 30.0])),
    )


@given(st.integers(1, 10), st.lists(steps(), max_size=60))
def test_never_more_than_capacity_is_leased(
    capacity: int, script: list[tuple[str, str, int, float]]
) -> None:
    """Holders that keep what they may, forget what has ended, and die and come back."""
    permits = Permits(capacity, lease_s=10)
    held: dict[str, int] = {}
    heard: dict[str, float] = {}
    now = 0.0
    for what, who, n, later in script:
        now += later
        held = {name: count for name, count in held.items() if heard[name] + 10 > now}
        mine = held.get(who, 0)
        if what == "lease":
            granted = permits.lease(who, n, now)
            assert 0 <= granted <= n
            held[who], heard[who] = mine + granted, now
        elif what == "release":
            permits.release(who, min(n, mine))
            held[who] = mine - min(n, mine)
            heard.setdefault(who, now)
        else:
            mine = min(n, mine)
            keep = permits.renew(who, mine, now)
            assert 0 <= keep <= mine
            held[who], heard[who] = mine, now
        assert sum(held.values()) == permits.in_use(now) <= capacity


@given(st.integers(1, 20), st.integers(1, 6))
def test_greedy_gateways_leave_each_other_a_permit(capacity: int, gateways: int) -> None:
    """The first one takes all and every one always wants more."""
    permits, held = Permits(capacity), dict.fromkeys(map(str, range(gateways)), 0)
    for round_ in range(4):
        now = round_ / 10
        for name in held:
            held[name] += permits.lease(name, capacity, now)
        assert sum(held.values()) <= capacity
        if round_ == 3:
            break
        for name in held:
            held[name] = permits.renew(name, held[name], now)
            permits.renew(name, held[name], now)
    assert sum(count > 0 for count in held.values()) == min(capacity, gateways)
    assert sum(held.values()) == capacity


# Which models share an account


def openai(**fields: Any) -> OpenAIModel:
    return OpenAIModel.model_validate({"engine": "openai", **fields})


def test_models_with_one_key_at_one_host_share_an_account() -> None:
    models = {
        "a": openai(api_key_env="K", max_concurrent=9),
        "b": openai(api_key_env="K", max_concurrent=5),
        "c": openai(api_key_env="OTHER"),
        "d": openai(base_url="http://127.0.0.1:8001/v1"),
    }
    assert capacities(models) == {
        "K@api.openai.com": 5,
        "OTHER@api.openai.com": 64,
        "no-key@127.0.0.1:8001": 64,
    }


# A gateway's share


class Local:
    """An account in this process, which counts its calls and may be out of reach."""

    def __init__(self, capacity: int, clock: FakeClock) -> None:
        self.permits = Permits(capacity)
        self.clock = clock
        self.asked: list[str] = []
        self.away = False

    def _hear(self, what: str) -> None:
        self.asked.append(what)
        if self.away:
            raise ConnectionError("gone")

    async def lease(self, holder: str, wanted: int) -> int:
        self._hear("lease")
        return self.permits.lease(holder, wanted, self.clock.now())

    async def renew(self, holder: str, held: int) -> int:
        self._hear("renew")
        return self.permits.renew(holder, held, self.clock.now())

    async def release(self, holder: str, n: int) -> None:
        self._hear("release")
        self.permits.release(holder, n)

    @property
    def in_use(self) -> int:
        return self.permits.in_use(self.clock.now())


def share(capacity: int, **options: Any) -> tuple[FakeClock, Local, AccountLimit]:
    clock = FakeClock()
    account = Local(capacity, clock)
    return clock, account, AccountLimit("K@host", account, holder="g1", clock=clock, **options)


async def test_permits_come_in_batches_and_are_then_handed_out_here() -> None:
    _, account, limit = share(64)
    for _ in range(1 + BATCH):
        await limit.acquire(Call())
    for _ in range(100):
        limit.release()
        await limit.acquire(Call())
    assert account.asked == ["lease"]
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
    late = AccountLimit("K@host", account, holder="g2", batch=0, clock=clock)
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
    with pytest.raises(Unavailable, match="cannot be reached"):
        await waiting
    limit.release()
    await limit.acquire(Call())
    account.away = False
    again = asyncio.create_task(limit.acquire(Call()))
    await clock.advance(1)
    await again
    await limit.aclose()
