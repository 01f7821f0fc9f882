from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import FusionError, Unavailable
from models.messages import Event
from models.wire import Deltas
from models.workforce.coalesce import Chunk, coalesce, merge


#: An interval that no test waits for.
def never() -> float:
    return 3600.0


def say(text: str, finish: str | None = None) -> Chunk:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]}


def text_of(chunks: list[Chunk]) -> str:
    return "".join(
        choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"]
    )


class Source:
    """An engine's stream that says when it was closed. It gives other tasks a turn between
    chunks, and after the last one raises `error` or hangs when it is told to."""

    def __init__(
        self, *chunks: Chunk, hang: bool = False, error: Exception | None = None, lazy: bool = True
    ) -> None:
        self.closed = False
        self._chunks = chunks
        self._hang = hang
        self._error = error
        self._lazy = lazy

    async def stream(self) -> AsyncIterator[Chunk]:
        try:
            for chunk in self._chunks:
                yield chunk
                if self._lazy:
                    await asyncio.sleep(0)
            if self._error:
                raise self._error
            if self._hang:
                await asyncio.Event().wait()
        finally:
            # A real engine needs a turn of the loop to abort its request.
            await asyncio.sleep(0)
            self.closed = True


@pytest.fixture(autouse=True)
async def no_task_is_left_behind() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    assert {task for task in asyncio.all_tasks() - before if not task.done()} <= {
        asyncio.current_task()
    }


async def test_the_first_chunk_goes_out_at_once() -> None:
    source = Source(say("a"), hang=True)
    async with asyncio.timeout(5), aclosing(coalesce(source.stream(), never)) as out:
        assert await anext(out) == say("a")


async def test_what_comes_within_an_interval_goes_out_together() -> None:
    source = Source(*(say(letter) for letter in "abcdef"))
    out = [chunk async for chunk in coalesce(source.stream(), lambda: 0.05)]
    assert [text_of([chunk]) for chunk in out] == ["a", "bcdef"]
    assert source.closed


async def test_a_slow_stream_passes_as_it_is() -> None:
    async def slow() -> AsyncIterator[Chunk]:
        for letter in "abc":
            yield say(letter)
            await asyncio.sleep(0.005)

    assert [chunk async for chunk in coalesce(slow(), lambda: 0.001)] == [
        say("a"),
        say("b"),
        say("c"),
    ]


async def test_chunks_are_an_interval_apart() -> None:
    loop = asyncio.get_running_loop()

    async def endless() -> AsyncIterator[Chunk]:
        while True:
            yield say("a")
            await asyncio.sleep(0)

    times = []
    async with aclosing(coalesce(endless(), lambda: 0.01)) as out:
        async for _ in out:
            times.append(loop.time())
            if len(times) == 4:
                break
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert min(gaps) >= 0.009


async def test_an_empty_stream_is_empty() -> None:
    assert [chunk async for chunk in coalesce(Source().stream(), never)] == []


async def test_closing_closes_the_source_before_it_returns() -> None:
    source = Source(say("a"), hang=True)
    out = coalesce(source.stream(), never)
    await anext(out)
    await out.aclose()
    assert source.closed


async def test_closing_does_not_wait_for_the_interval() -> None:
    source = Source(say("a"), say("b"), hang=True)
    async with asyncio.timeout(5):
        out = coalesce(source.stream(), never)
        await anext(out)
        await asyncio.sleep(0.001)
        await out.aclose()
    assert source.closed


@pytest.mark.parametrize("chunks", [(), (say("a"),), (say("a"), say("b"))])
async def test_a_reader_that_is_cancelled_closes_the_source(chunks: tuple[Chunk, ...]) -> None:
    source = Source(*chunks, hang=True)

    async def read() -> None:
        async with aclosing(coalesce(source.stream(), never)) as out:
            async for _ in out:
                pass

    reader = asyncio.create_task(read())
    await asyncio.sleep(0.001)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert source.closed


@pytest.mark.parametrize("lazy", [True, False])
async def test_an_error_comes_after_what_came_before_it(lazy: bool) -> None:
    source = Source(say("a"), say("b"), say("c"), error=Unavailable("engine died"), lazy=lazy)
    out: list[Chunk] = []
    with pytest.raises(Unavailable, match="engine died"):
        async for chunk in coalesce(source.stream(), lambda: 0.001):
            out.append(chunk)  # noqa: PERF401  # a comprehension would lose them to the error
    assert text_of(out) == "abc"
    assert source.closed


async def test_an_error_at_once() -> None:
    with pytest.raises(Unavailable, match="no engine"):
        await anext(coalesce(Source(error=Unavailable("no engine")).stream(), never))


async def test_an_error_chunk_does_not_swallow_the_text_that_came_with_it() -> None:
    chunks = [say("a"), say("b"), {"error": {"message": "engine died", "code": 503}}]
    raw = await _read(_iterate(chunks))
    joined = await _read(coalesce(Source(*chunks, lazy=False).stream(), never))
    assert _text(joined[0]) == _text(raw[0]) == "ab"
    assert isinstance(joined[1], Unavailable)


# Order and content

_CALLS = st.builds(
    lambda index, arguments: {
        "tool_calls": [{"index": index, "id": f"c{index}", "function": {"arguments": arguments}}]
    },
    st.integers(0, 2),
    st.text("xyz", max_size=3),
)
_PARTS = st.text("abc ", max_size=3).map(lambda text: {"content": text}) | _CALLS | st.just({})
_CHUNKS = st.lists(_PARTS.map(lambda part: {"choices": [{"delta": part}]}), max_size=12)
_END: list[Chunk] = [
    {"choices": [{"delta": {}, "finish_reason": "stop"}]},
    {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}},
]


async def _iterate(chunks: list[Chunk]) -> AsyncIterator[Chunk]:
    for chunk in chunks:
        yield chunk


async def _read(chunks: AsyncIterator[Chunk]) -> tuple[list[Event], FusionError | None]:
    deltas, events = Deltas("m"), []
    try:
        async with aclosing(chunks) as closing:
            async for chunk in closing:
                events += deltas.feed(chunk)
        events.append(deltas.done())
    except FusionError as error:
        return events, error
    return events, None


def _text(events: list[Event]) -> str:
    return "".join(getattr(event, "text", "") for event in events)


@given(chunks=_CHUNKS, pauses=st.lists(st.integers(0, 3), min_size=14, max_size=14))
@settings(max_examples=50)
def test_whatever_is_joined_the_answer_is_the_same(chunks: list[Chunk], pauses: list[int]) -> None:
    async def uneven() -> AsyncIterator[Chunk]:
        for chunk, turns in zip([*chunks, *_END], pauses, strict=False):
            for _ in range(turns):
                await asyncio.sleep(0)
            yield chunk

    async def both() -> tuple[Any, Any]:
        return await _read(_iterate([*chunks, *_END])), await _read(
            coalesce(uneven(), lambda: 0.0001)
        )

    raw, joined = asyncio.run(both())
    assert joined[0][-1] == raw[0][-1]
    assert _text(joined[0]) == _text(raw[0])


@given(_CHUNKS.filter(bool), st.integers(0, 12))
def test_joining_in_two_steps_is_joining_in_one(chunks: list[Chunk], cut: int) -> None:
    parts = [part for part in (chunks[:cut], chunks[cut:]) if part]
    assert _delta(merge([merge(part) for part in parts])) == _delta(merge(chunks))


def _delta(chunk: Chunk) -> Any:
    """What the chunk says: an empty text says nothing."""
    return {key: value for key, value in chunk["choices"][0]["delta"].items() if value}


def test_the_end_and_the_usage_survive_joining() -> None:
    usage = {"prompt_tokens": 3}
    merged = merge([say("a"), say("b", "length"), {"choices": [], "usage": usage}])
    assert merged["choices"][0]["finish_reason"] == "length"
    assert merged["usage"] == usage


def test_which_text_ended_it_survives_joining() -> None:
    end = say("b", "stop")
    end["choices"][0]["stop_reason"] = "END"
    assert merge([say("a"), end])["choices"][0]["stop_reason"] == "END"


def test_thoughts_are_joined_like_words() -> None:
    said = [{"reasoning": "a"}, {"reasoning": "b"}, {"content": "c"}, {"content": "d"}]
    (choice,) = merge([{"choices": [{"delta": delta}]} for delta in said])["choices"]
    assert choice["delta"] == {"reasoning": "ab", "content": "cd"}
