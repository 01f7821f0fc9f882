from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from models.answerer import Events
from models.call import Call
from models.errors import (
    BadRequest,
    DeadlineExceeded,
    FusionError,
    Overloaded,
    Unavailable,
    UpstreamError,
)
from models.fake import FakeClock, FakeModel
from models.messages import Completion, Done, Request, TextDelta, user
from models.wrappers.fallback import Fallback

ASK = Request("first", (user("hi"),))
PASSING = [Unavailable("down"), UpstreamError("odd"), Overloaded("full"), DeadlineExceeded("late")]


def two(error: FusionError) -> tuple[FakeModel, FakeModel, Fallback]:
    first, second = FakeModel("first", error), FakeModel("second", "ok then")
    return first, second, Fallback({"first": first, "second": second}, FakeClock())


async def test_the_first_that_answers_is_the_answer() -> None:
    second = FakeModel("second")
    fallback = Fallback({"first": FakeModel("first"), "second": second})
    done = await fallback.complete(ASK, Call())
    assert (done.model, done.extension, second.calls) == ("first", {}, [])


@pytest.mark.parametrize("error", PASSING)
async def test_it_goes_on_to_the_next_and_says_why(error: FusionError) -> None:
    _, second, fallback = two(error)
    done = await fallback.complete(ASK, Call())
    assert (done.model, done.text) == ("second", "ok then")
    assert done.extension == {
        "fallback_from": [{"model": "first", "code": error.code, "message": error.message}]
    }
    assert second.calls[0][0].model == "second"


@pytest.mark.parametrize("error", PASSING)
async def test_a_stream_goes_on_before_its_first_event(error: FusionError) -> None:
    *_, fallback = two(error)
    *deltas, done = [event async for event in fallback.stream(ASK, Call())]
    assert deltas == [TextDelta("ok"), TextDelta(" then")]
    assert isinstance(done, Done)
    assert done.completion.model == "second"
    assert done.completion.extension["fallback_from"][0]["model"] == "first"


async def test_a_wrong_request_is_wrong_everywhere() -> None:
    _, second, fallback = two(BadRequest("no"))
    with pytest.raises(BadRequest):
        await fallback.complete(ASK, Call())
    assert second.calls == []


async def test_if_none_answers_the_last_error_names_them_all() -> None:
    full = Overloaded("Full.", retry_after_s=3)
    models = {"a": FakeModel(reply=Unavailable("down")), "b": FakeModel(reply=full)}
    with pytest.raises(Overloaded, match=r"Full. Asked before and failed: a \(unavailable\).") as e:
        await Fallback(models).complete(ASK, Call())
    assert e.value.retry_after_s == 3
    assert full.message == "Full."


async def test_a_single_answerers_error_comes_as_it_is() -> None:
    error = Unavailable("down")
    with pytest.raises(Unavailable) as caught:
        await Fallback({"a": FakeModel(reply=error)}).complete(ASK, Call())
    assert caught.value is error


async def test_without_time_left_it_does_not_go_on() -> None:
    clock = FakeClock()
    first = FakeModel("first", DeadlineExceeded("late"), first_token_s=5, clock=clock)
    second = FakeModel("second")
    fallback = Fallback({"first": first, "second": second}, clock)
    task = asyncio.create_task(fallback.complete(ASK, Call(deadline=5)))
    await clock.advance(5)
    with pytest.raises(DeadlineExceeded, match=r"^late$"):
        await task
    assert second.calls == []


class BreaksOff:
    async def complete(self, request: Request, call: Call) -> Completion:
        raise NotImplementedError

    async def stream(self, request: Request, call: Call) -> Events:
        yield TextDelta("half")
        raise UpstreamError("broke off")


async def test_a_stream_does_not_change_who_speaks() -> None:
    second = FakeModel("second")
    fallback = Fallback({"first": BreaksOff(), "second": second})
    with pytest.raises(UpstreamError, match="broke off"):
        async for event in fallback.stream(ASK, Call()):
            assert event == TextDelta("half")
    assert second.calls == []


async def test_nested_fallbacks_tell_the_whole_way() -> None:
    inner = Fallback({"b": FakeModel("b", Unavailable("down")), "c": FakeModel("c")})
    outer = Fallback({"a": FakeModel("a", Overloaded("full")), "bc": inner})
    done = await outer.complete(ASK, Call())
    assert [failed["model"] for failed in done.extension["fallback_from"]] == ["a", "b"]


async def test_closing_the_stream_closes_who_answers() -> None:
    _, second, fallback = two(Unavailable("down"))
    async with aclosing(fallback.stream(ASK, Call())) as events:
        await anext(events)
    assert second.cancelled == 1


def test_it_needs_somebody_to_ask() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Fallback({})


async def test_a_stand_in_that_is_too_small_does_not_hide_why_it_was_asked() -> None:
    small = FakeModel("second", BadRequest("too long for me"))
    fallback = Fallback({"first": FakeModel("first", Unavailable("down")), "second": small})
    with pytest.raises(Unavailable, match="down"):
        await fallback.complete(ASK, Call())
    with pytest.raises(Unavailable, match="down"):
        _ = [event async for event in fallback.stream(ASK, Call())]
    third = FakeModel("third", "made it")
    chain = {"first": FakeModel("first", Unavailable("down")), "second": small, "third": third}
    assert (await Fallback(chain).complete(ASK, Call())).model == "third"
