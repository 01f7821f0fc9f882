from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.call import Call
from models.errors import (
    AccountRefused,
    BadRequest,
    DeadlineExceeded,
    FusionError,
    Overloaded,
    Unavailable,
    UpstreamError,
)
from models.fake import FakeClock, FakeModel, settle
from models.messages import Request, user
from models.wire import ProviderForbids
from models.wrappers.breaker import Breaker, BreakerState, Outcome
from models.wrappers.limit import LimiterUnreachable

ASK = Request("small", (user("hi"),))


def opened(threshold: int = 2) -> BreakerState:
    """A breaker that opened at time 0, with a first pause of 10 seconds."""
    state = BreakerState(threshold=threshold, pause_s=10, longest_s=35)
    for _ in range(threshold):
        state.ended(state.admit(0), "failure", 0)
    return state


def is_open(state: BreakerState, now: float) -> float | None:
    with pytest.raises(Unavailable) as caught:
        state.admit(now)
    return caught.value.retry_after_s


# The state


def refused() -> BreakerState:
    state = BreakerState(refused_s=300)
    state.ended(state.admit(0), "refused", 0, "Check the variable K.")
    return state


def test_a_refusal_takes_the_model_out_at_once_and_says_what_to_check() -> None:
    state = refused()
    for _ in range(2):
        with pytest.raises(AccountRefused, match="variable K"):
            state.admit(299)


def test_after_a_while_one_call_looks_whether_it_is_mended() -> None:
    state = refused()
    state.ended(state.admit(300), "refused", 300, "Check the variable K.")
    with pytest.raises(AccountRefused):
        state.admit(599)
    state.ended(state.admit(600), "success", 600)
    assert state.standing(600) == {"status": "ok"}
    state.admit(600)


def test_a_model_that_fails_otherwise_is_no_longer_refused() -> None:
    state = refused()
    state.ended(state.admit(300), "failure", 300)
    with pytest.raises(Unavailable):
        state.admit(300)
    assert state.standing(300)["status"] == "failing"


async def test_the_models_own_refusal_is_what_the_next_caller_sees() -> None:
    model = FakeModel(reply=[AccountRefused("Check the variable K."), "ok"])
    breaker = Breaker(model, clock=FakeClock())
    for _ in range(3):
        with pytest.raises(AccountRefused, match="variable K"):
            await breaker.complete(ASK, Call())
    assert len(model.calls) == 1


def test_it_opens_after_failures_in_a_row() -> None:
    assert is_open(opened(), 4) == 6


def test_a_success_between_starts_the_count_again() -> None:
    state = BreakerState(threshold=2)
    outcomes: list[Outcome] = ["failure", "success", "failure", "neither"]
    for outcome in outcomes:
        state.ended(state.admit(0), outcome, 0)
    state.admit(0)


def test_after_the_pause_one_call_is_let_through() -> None:
    state = opened()
    state.admit(10)
    assert is_open(state, 10) == 1


def test_a_good_probe_closes_it() -> None:
    state = opened()
    state.ended(state.admit(10), "success", 11)
    for _ in range(5):
        state.admit(11)
    state.ended(state.admit(11), "failure", 11)
    state.admit(11)


@pytest.mark.parametrize("outcome", ["failure", "timeout"])
def test_a_bad_probe_opens_it_for_longer_up_to_a_limit(outcome: Outcome) -> None:
    state = opened()
    state.ended(state.admit(10), outcome, 10)
    assert is_open(state, 10) == 20
    state.ended(state.admit(30), outcome, 30)
    assert is_open(state, 30) == 35
    state.ended(state.admit(65), outcome, 65)
    assert is_open(state, 65) == 35


def test_a_probe_that_says_nothing_lets_the_next_one_try() -> None:
    state = opened()
    state.ended(state.admit(10), "neither", 10)
    state.admit(10)


def test_calls_from_before_it_opened_say_nothing_about_now() -> None:
    state = BreakerState(threshold=1, pause_s=10)
    early, late = state.admit(0), state.admit(0)
    state.ended(early, "failure", 0)
    state.ended(late, "failure", 1)
    assert is_open(state, 1) == 9
    probe = state.admit(10)
    state.ended(late, "success", 10)
    assert is_open(state, 10) == 1
    state.ended(probe, "success", 10)
    state.admit(10)


@given(st.lists(st.sampled_from(["success", "failure", "timeout", "neither"]), max_size=60))
def test_it_always_lets_a_call_through_again(outcomes: list[Outcome]) -> None:
    state = BreakerState(threshold=3, pause_s=1, longest_s=60)
    now = 0.0
    for outcome in outcomes:
        now += 60
        state.ended(state.admit(now), outcome, now)


# The wrapper


async def ask(breaker: Breaker, error: type[FusionError] | None = None) -> None:
    if error is None:
        await breaker.complete(ASK, Call())
    else:
        with pytest.raises(error):
            await breaker.complete(ASK, Call())


async def test_an_open_breaker_asks_no_model_until_its_pause_is_over() -> None:
    clock, model = FakeClock(), FakeModel(reply=[Unavailable("down"), UpstreamError("odd"), "ok"])
    breaker = Breaker(model, BreakerState(name="big", threshold=2, pause_s=10), clock)
    await ask(breaker, Unavailable)
    await ask(breaker, UpstreamError)
    with pytest.raises(Unavailable, match="'big'") as caught:
        await breaker.complete(ASK, Call())
    assert caught.value.retry_after_s == 10
    assert len(model.calls) == 2
    await clock.advance(10)
    await ask(breaker)
    await ask(breaker)


@pytest.mark.parametrize(
    "error",
    [
        BadRequest("no"),
        Overloaded("full"),
        DeadlineExceeded("late"),
        # Our own limiter, and a matter of one caller's words.
        LimiterUnreachable("gone"),
        ProviderForbids("moderation"),
    ],
)
async def test_what_is_not_the_models_fault_does_not_count(error: FusionError) -> None:
    breaker = Breaker(FakeModel(reply=error), BreakerState(threshold=1), FakeClock())
    await ask(breaker, type(error))
    await ask(breaker, type(error))


async def test_streams_count_as_well() -> None:
    breaker = Breaker(FakeModel(reply=UpstreamError("odd")), BreakerState(threshold=1), FakeClock())
    for error in (UpstreamError, Unavailable):
        with pytest.raises(error):
            async for _ in breaker.stream(ASK, Call()):
                pass


async def test_a_probe_that_was_cancelled_does_not_block_the_next() -> None:
    clock = FakeClock()
    model = FakeModel(reply=[Unavailable("down"), "ok"], first_token_s=1, clock=clock)
    breaker = Breaker(model, BreakerState(threshold=1, pause_s=10), clock)
    first = asyncio.create_task(ask(breaker, Unavailable))
    await clock.advance(1)
    await first
    await clock.advance(10)
    probe = asyncio.create_task(breaker.complete(ASK, Call()))
    await settle()
    probe.cancel()
    await asyncio.wait([probe])
    second = asyncio.create_task(ask(breaker))
    await clock.advance(1)
    await second


async def test_closing_the_stream_closes_the_model() -> None:
    model = FakeModel(reply="a b c")
    breaker = Breaker(model, clock=FakeClock())
    async with aclosing(breaker.stream(ASK, Call())) as events:
        await anext(events)
    assert model.cancelled == 1
