from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.answerer import SystemClock
from models.call import Call
from models.errors import Overloaded, Unavailable
from models.fake import FakeClock, FakeModel, settle
from models.messages import (
    Done,
    Event,
    Message,
    Reasoning,
    ReasoningDelta,
    Request,
    Text,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    Usage,
    user,
)

ASK = Request("small", (user("what is this"),))


async def stream(model: FakeModel) -> list[Event]:
    return [event async for event in model.stream(ASK, Call())]


# The model


async def test_it_says_what_it_is_told_to() -> None:
    done = await FakeModel("small", "hello there").complete(ASK, Call())
    assert (done.model, done.text, done.finish_reason) == ("small", "hello there", "stop")
    assert done.usage == Usage(input=3, output=2)


async def test_a_stream_is_words_and_then_the_whole() -> None:
    *words, last = await stream(FakeModel(reply="one two three"))
    assert words == [TextDelta("one"), TextDelta(" two"), TextDelta(" three")]
    assert isinstance(last, Done)
    assert last.completion.text == "one two three"


@given(st.text(max_size=30))
@settings(max_examples=50)
def test_the_words_together_are_the_reply(reply: str) -> None:
    *words, last = asyncio.run(stream(FakeModel(reply=reply)))
    assert "".join(word.text for word in words if isinstance(word, TextDelta)) == reply
    assert isinstance(last, Done)
    assert last.completion.text == reply


async def test_a_script_is_played_in_order_and_its_last_line_stays() -> None:
    model = FakeModel(reply=["one", Overloaded("busy"), "three"])
    assert (await model.complete(ASK, Call())).text == "one"
    with pytest.raises(Overloaded, match="busy"):
        await model.complete(ASK, Call())
    assert [(await model.complete(ASK, Call())).text for _ in range(2)] == ["three", "three"]


async def test_a_reply_may_depend_on_the_question() -> None:
    def echo(request: Request) -> str | Unavailable:
        return request.messages[-1].text or Unavailable("nothing was asked")

    assert (await FakeModel(reply=echo).complete(ASK, Call())).text == "what is this"
    with pytest.raises(Unavailable, match="nothing was asked"):
        await FakeModel(reply=echo).complete(Request("small", (user(""),)), Call())


async def test_it_thinks_and_calls_tools_when_its_reply_is_a_message() -> None:
    said = Message(
        "assistant",
        (Text("let me look"),),
        tool_calls=(ToolCall("c1", "look", '{"at": 1}'),),
        reasoning=(Reasoning("hm well", signature="seal"), Reasoning(redacted="xyz")),
    )
    *pieces, last = await stream(FakeModel(reply=said))
    thoughts = [piece for piece in pieces if isinstance(piece, ReasoningDelta)]
    assert [thought.text for thought in thoughts] == ["hm", " well", "", ""]
    assert (thoughts[2].signature, thoughts[3].redacted) == ("seal", "xyz")
    calls = [piece for piece in pieces if isinstance(piece, ToolCallDelta)]
    assert "".join(call.arguments for call in calls) == '{"at": 1}'
    assert isinstance(last, Done)
    assert (last.completion.message, last.completion.finish_reason) == (said, "tool_calls")
    assert last.completion.usage.reasoning == 2


async def test_it_remembers_who_asked_what() -> None:
    model, call = FakeModel(reply=Unavailable("down")), Call(project="p")
    with pytest.raises(Unavailable):
        await model.complete(ASK, call)
    assert model.calls == [(ASK, call)]


async def test_it_takes_the_time_that_it_is_told_to() -> None:
    clock = FakeClock()
    model = FakeModel(reply="one two three", first_token_s=1.0, token_s=0.5, clock=clock)
    task = asyncio.create_task(model.complete(ASK, Call()))
    await clock.advance(1.9)
    assert not task.done()
    await clock.advance(0.1)
    assert task.done()
    assert (await task).text == "one two three"


async def test_a_cancelled_call_is_counted() -> None:
    clock = FakeClock()
    model = FakeModel(first_token_s=10, clock=clock)
    task = asyncio.create_task(model.complete(ASK, Call()))
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await settle()
    assert model.cancelled == 1


async def test_a_closed_stream_is_counted() -> None:
    model = FakeModel(reply="one two")
    async with aclosing(model.stream(ASK, Call())) as events:
        assert await anext(events) == TextDelta("one")
    assert model.cancelled == 1


async def test_an_answer_that_was_read_to_its_end_is_not_counted_as_cancelled() -> None:
    model = FakeModel(reply="one two")
    await stream(model)
    await model.complete(ASK, Call())
    # What complete() leaves open is closed by the loop a moment later.
    await settle()
    assert model.cancelled == 0


async def test_an_error_is_not_counted_as_cancelled() -> None:
    model = FakeModel(reply=Unavailable("down"))
    with pytest.raises(Unavailable):
        await model.complete(ASK, Call())
    await settle()
    assert model.cancelled == 0


# The clock


async def test_time_stands_still_until_it_is_moved() -> None:
    clock = FakeClock(now=100.0)
    task = asyncio.create_task(clock.sleep(10))
    await clock.advance(9.5)
    assert clock.now() == 109.5
    assert not task.done()
    await clock.advance(0.5)
    assert task.done()


async def test_sleepers_wake_in_the_order_of_their_time_and_see_it() -> None:
    clock, woken = FakeClock(), []

    async def sleeper(seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append((seconds, clock.now()))

    tasks = [asyncio.create_task(sleeper(seconds)) for seconds in (3, 1, 2, 1)]
    await clock.advance(10)
    assert woken == [(1, 1), (1, 1), (2, 2), (3, 3)]
    assert clock.now() == 10
    await asyncio.gather(*tasks)


async def test_one_advance_carries_a_loop_of_sleeps() -> None:
    clock, ticks = FakeClock(), []

    async def ticker() -> None:
        while True:
            await clock.sleep(1)
            ticks.append(clock.now())

    task = asyncio.create_task(ticker())
    await clock.advance(3.5)
    assert ticks == [1, 2, 3]
    task.cancel()


async def test_a_sleep_of_nothing_only_gives_way() -> None:
    clock = FakeClock()
    async with asyncio.timeout(5):
        await clock.sleep(0)
        await clock.sleep(-1)
    assert clock.now() == 0


async def test_a_cancelled_sleeper_does_not_stop_the_clock() -> None:
    clock = FakeClock()
    gone, stays = (asyncio.create_task(clock.sleep(seconds)) for seconds in (1, 2))
    await settle()
    gone.cancel()
    await clock.advance(2)
    assert gone.cancelled()
    assert stays.done()


@given(st.lists(st.integers(0, 20), max_size=8), st.lists(st.integers(1, 7), max_size=6))
@settings(max_examples=50)
def test_nobody_wakes_early_or_late(sleeps: list[int], steps: list[int]) -> None:
    async def play() -> None:
        clock, woken = FakeClock(), []

        async def sleeper(seconds: int) -> None:
            await clock.sleep(seconds)
            woken.append(seconds)
            assert clock.now() == seconds

        async with asyncio.TaskGroup() as group:
            for seconds in sleeps:
                group.create_task(sleeper(seconds))
            for step in steps:
                await clock.advance(step)
                assert woken == sorted(s for s in sleeps if s <= clock.now())
            await clock.advance(21)
        assert woken == sorted(sleeps)

    asyncio.run(play())


async def test_a_clock_calls_back_at_its_time_and_not_when_cancelled() -> None:
    clock, rung = FakeClock(100.0), []
    clock.call_at(103.0, lambda: rung.append(clock.now()))
    clock.call_at(102.0, lambda: rung.append("cancelled")).cancel()
    clock.call_at(99.0, lambda: rung.append("at once"))
    await settle()
    assert rung == ["at once"]
    await clock.advance(2.9)
    assert rung == ["at once"]
    await clock.advance(1.0)
    assert rung == ["at once", 103.0]


async def test_the_systems_clock_calls_back_too() -> None:
    clock, rung = SystemClock(), asyncio.Event()
    clock.call_at(clock.now() + 60, rung.set).cancel()
    clock.call_at(clock.now() + 0.001, rung.set)
    await asyncio.wait_for(rung.wait(), 5)
