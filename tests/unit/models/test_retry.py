from __future__ import annotations

import asyncio
import random
from contextlib import aclosing

import pytest

from models.answerer import Events
from models.call import Call
from models.errors import BadRequest, FusionError, Overloaded, Unavailable, UpstreamError
from models.fake import FakeClock, FakeModel, settle
from models.messages import Completion, Done, Event, Request, TextDelta, user
from models.wrappers.retry import FIRST_PAUSE_S, LONGEST_PAUSE_S, Retry

ASK = Request("small", (user("hi"),))
DOWN = Unavailable("down")


class FullPauses(random.Random):
    """Always draws the longest pause."""

    def uniform(self, a: float, b: float) -> float:
        return b


def retrying(model: FakeModel, clock: FakeClock, attempts: int = 3) -> Retry:
    return Retry(model, attempts=attempts, clock=clock, rng=FullPauses())


async def test_it_asks_again_after_a_growing_pause() -> None:
    clock, model = FakeClock(), FakeModel(reply=[DOWN, DOWN, "at last"])
    task = asyncio.create_task(retrying(model, clock).complete(ASK, Call()))
    await settle()
    assert len(model.calls) == 1
    await clock.advance(FIRST_PAUSE_S)
    assert len(model.calls) == 2
    await clock.advance(FIRST_PAUSE_S)
    assert len(model.calls) == 2
    await clock.advance(FIRST_PAUSE_S)
    assert (await task).text == "at last"


async def test_it_gives_up_after_its_attempts() -> None:
    clock, model = FakeClock(), FakeModel(reply=DOWN)
    task = asyncio.create_task(retrying(model, clock).complete(ASK, Call()))
    await clock.advance(60)
    with pytest.raises(Unavailable, match="down"):
        await task
    assert len(model.calls) == 3


@pytest.mark.parametrize("error", [BadRequest("no"), Overloaded("full"), UpstreamError("odd")])
async def test_what_is_not_safe_to_repeat_is_not(error: FusionError) -> None:
    model = FakeModel(reply=error)
    with pytest.raises(type(error)):
        await retrying(model, FakeClock()).complete(ASK, Call())
    with pytest.raises(type(error)):
        async for _ in retrying(model, FakeClock()).stream(ASK, Call()):
            pass
    assert len(model.calls) == 2


async def test_no_pause_goes_beyond_the_deadline() -> None:
    clock, model = FakeClock(now=100), FakeModel(reply=DOWN)
    with pytest.raises(Unavailable):
        await retrying(model, clock).complete(ASK, Call(deadline=100 + FIRST_PAUSE_S))
    assert len(model.calls) == 1


async def test_the_pause_is_at_least_what_the_error_asks_for() -> None:
    clock, model = FakeClock(), FakeModel(reply=[Unavailable("later", retry_after_s=5), "ok"])
    task = asyncio.create_task(retrying(model, clock).complete(ASK, Call()))
    await clock.advance(4.9)
    assert not task.done()
    await clock.advance(0.2)
    assert (await task).text == "ok"


async def test_who_asks_for_more_than_the_longest_pause_is_not_waited_for() -> None:
    error = Unavailable("open", retry_after_s=LONGEST_PAUSE_S + 1)
    model = FakeModel(reply=error)
    with pytest.raises(Unavailable, match="open"):
        await retrying(model, FakeClock()).complete(ASK, Call())
    assert len(model.calls) == 1


async def test_pauses_are_spread_from_zero_up() -> None:
    clock = FakeClock()
    retry = Retry(FakeModel(), clock=clock, rng=random.Random(7))
    pauses = [retry._pause(DOWN, 1, Call()) or 0.0 for _ in range(200)]
    assert min(pauses) < FIRST_PAUSE_S / 10
    assert FIRST_PAUSE_S * 0.9 < max(pauses) <= FIRST_PAUSE_S


async def test_a_stream_is_asked_again_before_its_first_event() -> None:
    clock, model = FakeClock(), FakeModel(reply=[DOWN, "one two"])

    async def read() -> list[Event]:
        return [event async for event in retrying(model, clock).stream(ASK, Call())]

    task = asyncio.create_task(read())
    await clock.advance(1)
    events = await task
    assert events[:2] == [TextDelta("one"), TextDelta(" two")]
    assert isinstance(events[-1], Done)


class BreaksOff:
    """Says one word, then is gone."""

    def __init__(self) -> None:
        self.calls = 0

    async def complete(self, request: Request, call: Call) -> Completion:
        raise NotImplementedError

    async def stream(self, request: Request, call: Call) -> Events:
        self.calls += 1
        yield TextDelta("half")
        raise DOWN


async def test_a_stream_is_not_asked_again_after_its_first_event() -> None:
    inner, seen = BreaksOff(), []
    with pytest.raises(Unavailable):
        async for event in Retry(inner, clock=FakeClock()).stream(ASK, Call()):
            seen.append(event)  # noqa: PERF401  # the list must survive the error
    assert (inner.calls, seen) == (1, [TextDelta("half")])


async def test_closing_the_stream_closes_the_model() -> None:
    model = FakeModel(reply="one two three")
    async with aclosing(retrying(model, FakeClock()).stream(ASK, Call())) as events:
        await anext(events)
    assert model.cancelled == 1


async def test_cancelling_ends_the_pause() -> None:
    model = FakeModel(reply=DOWN)
    task = asyncio.create_task(retrying(model, FakeClock()).complete(ASK, Call()))
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(model.calls) == 1
