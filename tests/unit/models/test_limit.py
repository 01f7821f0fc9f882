from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from models.call import Call
from models.errors import FusionError, Overloaded, RateLimited, Unavailable, UpstreamError
from models.fake import FakeClock, FakeModel, settle
from models.messages import Request, Sampling, user
from models.wrappers.limit import Limit

ASK = Request("small", (user("hi"),))


class Places:
    """Counts its permits; full when none is left."""

    def __init__(self, free: int = 1) -> None:
        self.free = free
        #: What each call took, and then used.
        self.settled: list[tuple[int, int | None]] = []
        self.paused = 0.0

    async def acquire(self, call: Call, tokens: int = 0) -> int:
        if not self.free:
            raise Overloaded("full", retry_after_s=1)
        self.free -= 1
        return tokens

    def release(self, taken: int = 0, used: int | None = None) -> None:
        self.free += 1
        self.settled.append((taken, used))

    def pause(self, seconds: float) -> None:
        self.paused = seconds


async def test_a_call_holds_a_permit_while_it_runs() -> None:
    clock, places = FakeClock(), Places()
    limit = Limit(FakeModel(first_token_s=1, clock=clock), places)
    task = asyncio.create_task(limit.complete(ASK, Call()))
    await settle()
    assert places.free == 0
    with pytest.raises(Overloaded):
        await limit.complete(ASK, Call())
    await clock.advance(1)
    await task
    assert places.free == 1


async def test_who_gets_no_permit_asks_no_model() -> None:
    model = FakeModel()
    with pytest.raises(Overloaded):
        async for _ in Limit(model, Places(0)).stream(ASK, Call()):
            pass
    assert model.calls == []


@pytest.mark.parametrize("error", [Unavailable("down"), Overloaded("full")])
async def test_a_failure_gives_it_back(error: FusionError) -> None:
    places = Places()
    limit = Limit(FakeModel(reply=error), places)
    with pytest.raises(type(error)):
        await limit.complete(ASK, Call())
    with pytest.raises(type(error)):
        async for _ in limit.stream(ASK, Call()):
            pass
    assert places.free == 1


async def test_cancelling_gives_it_back() -> None:
    places = Places()
    model = FakeModel(first_token_s=1, clock=FakeClock())
    task = asyncio.create_task(Limit(model, places).complete(ASK, Call()))
    await settle()
    task.cancel()
    await asyncio.wait([task])
    assert (places.free, model.cancelled) == (1, 1)


async def test_a_stream_holds_it_until_its_end() -> None:
    places = Places()
    held = [places.free async for _ in Limit(FakeModel(reply="a b"), places).stream(ASK, Call())]
    assert held == [0, 0, 0]
    assert places.free == 1


async def test_closing_a_stream_gives_it_back_and_closes_the_model() -> None:
    places, model = Places(), FakeModel(reply="a b c")
    async with aclosing(Limit(model, places).stream(ASK, Call())) as events:
        await anext(events)
        assert places.free == 0
    assert (places.free, model.cancelled) == (1, 1)


async def test_a_stream_that_nobody_reads_holds_nothing() -> None:
    places = Places()
    Limit(FakeModel(), places).stream(ASK, Call())
    assert places.free == 1


# Tokens


async def test_tokens_are_expected_and_then_settled() -> None:
    places = Places()
    request = Request("small", (user("x" * 400),), Sampling(max_tokens=50))
    await Limit(FakeModel(reply="a b"), places).complete(request, Call())
    async for _ in Limit(FakeModel(reply="a b"), places).stream(request, Call()):
        pass
    assert places.settled == [(150, 3), (150, 3)]


@pytest.mark.parametrize(
    ("error", "used"),
    [(Unavailable("down"), 0), (RateLimited("slow"), 0), (UpstreamError("broke off"), None)],
)
async def test_what_a_failed_call_used(error: FusionError, used: int | None) -> None:
    places = Places()
    limit = Limit(FakeModel(reply=error), places)
    with pytest.raises(type(error)):
        await limit.complete(ASK, Call())
    with pytest.raises(type(error)):
        async for _ in limit.stream(ASK, Call()):
            pass
    assert [each for _, each in places.settled] == [used, used]


async def test_a_provider_that_is_asked_too_much_makes_the_account_pause() -> None:
    places = Places()
    limit = Limit(FakeModel(reply=RateLimited("slow", retry_after_s=7)), places)
    with pytest.raises(RateLimited):
        await limit.complete(ASK, Call())
    assert places.paused == 7
