"""The one interface of everything that answers, and the clock that it lives by."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Protocol

from models.call import Call
from models.messages import (
    FUSED,
    Completion,
    Done,
    Event,
    Progress,
    ReasoningDelta,
    Request,
    TextDelta,
    ToolCallDelta,
)

#: A stream of events. A generator, so that whoever stops reading can close it.
Events = AsyncGenerator[Event, None]


class Answerer(Protocol):
    """A workforce model, a flagship, a fusion, a cascade, a plan, or a user's own class.

    Both methods raise a `FusionError` and nothing else. Both may be cancelled at any await
    (`asyncio.CancelledError`, or `aclose()` of the stream) and then free what they hold,
    down to the engine.
    """

    async def complete(self, request: Request, call: Call) -> Completion:
        """The whole answer."""
        ...

    def stream(self, request: Request, call: Call) -> Events:
        """The answer as it is written. Ends with exactly one `Done`, or raises."""
        ...


def as_events(completion: Completion) -> Iterator[Event]:
    """A whole answer as the events of a stream."""
    for turn in completion.course:
        if turn == FUSED:
            yield from _fused(completion)
        for thought in turn.reasoning:
            yield ReasoningDelta(thought.text, thought.signature, thought.redacted)
        if turn.text:
            yield TextDelta(turn.text)
    for index, call in enumerate(completion.message.tool_calls):
        yield ToolCallDelta(index, call.arguments, call.id, call.name)
    yield Done(completion)


def _fused(completion: Completion) -> Iterator[Event]:
    """What a stream tells of a fusion that is over: that it was, and what it found."""
    result = completion.extension
    yield Progress("in_progress", {"id": result.get("id"), "panel": result.get("panel")})
    yield Progress("completed", {"result": result})


class Timer(Protocol):
    def cancel(self) -> object: ...


class Clock(Protocol):
    """Time as the code sees it, so that a test can own it."""

    def now(self) -> float:
        """Seconds since the epoch."""
        ...

    async def sleep(self, seconds: float) -> None: ...

    def call_at(self, when: float, callback: Callable[[], object]) -> Timer:
        """Call back once at that time, or at once where it has passed."""
        ...


class SystemClock:
    now = staticmethod(time.time)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def call_at(self, when: float, callback: Callable[[], object]) -> Timer:
        return asyncio.get_running_loop().call_later(max(0.0, when - self.now()), callback)
