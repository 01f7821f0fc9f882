"""A model and a clock that a test owns. They ship with the package: users test with them too."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from models.answerer import Clock, Events, SystemClock, Timer
from models.call import Call
from models.errors import FusionError
from models.messages import (
    Completion,
    Done,
    Event,
    FinishReason,
    Message,
    ReasoningDelta,
    Request,
    Text,
    TextDelta,
    ToolCallDelta,
    Usage,
)

#: What a fake says: a text, a message with thoughts or tool calls, or an error to raise...
Said = str | Message | FusionError
#: ...or a function of the request that gives one.
Reply = Said | Callable[[Request], Said]


@dataclass
class FakeModel:
    """Answers with what it is told to, word by word. Records every call it got.

    `reply` may be a list: each call takes the next one, and the last one stays. Tokens are
    words. Timings are seconds on `clock`.
    """

    name: str = "fake"
    reply: Reply | list[Reply] = "ok"
    first_token_s: float = 0.0
    token_s: float = 0.0
    clock: Clock = field(default_factory=SystemClock)
    #: What it tells of its tokens' likelihood, where it is asked.
    logprob: float | None = None
    calls: list[tuple[Request, Call]] = field(default_factory=list)
    cancelled: int = 0

    def _next_reply(self, request: Request) -> Message:
        reply = self.reply
        if isinstance(reply, list):
            reply = reply.pop(0) if len(reply) > 1 else reply[0]
        said = reply(request) if callable(reply) else reply
        if isinstance(said, FusionError):
            raise said
        if isinstance(said, str):
            return Message("assistant", (Text(said),) if said else ())
        return said

    def _completion(self, request: Request, message: Message) -> Completion:
        read = sum(_tokens(message.text) for message in request.messages)
        thought = _tokens(message.thought)
        usage = Usage(read, _tokens(message.text) + thought, reasoning=thought)
        reason: FinishReason = "tool_calls" if message.tool_calls else "stop"
        logprob = self.logprob if request.sampling.logprobs else None
        return Completion(self.name, message, reason, usage, logprob=logprob)

    async def complete(self, request: Request, call: Call) -> Completion:
        if not (self.first_token_s or self.token_s):
            self.calls.append((request, call))
            return self._completion(request, self._next_reply(request))
        events = [event async for event in self.stream(request, call)]
        assert isinstance(events[-1], Done)
        return events[-1].completion

    async def stream(self, request: Request, call: Call) -> Events:
        self.calls.append((request, call))
        try:
            if self.first_token_s:
                await self.clock.sleep(self.first_token_s)
            message = self._next_reply(request)
            for index, piece in enumerate(_pieces(message)):
                if self.token_s and index:
                    await self.clock.sleep(self.token_s)
                yield piece
            yield Done(self._completion(request, message))
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled += 1
            raise


def _pieces(message: Message) -> Iterator[Event]:
    """The message as a model streams it: thoughts, words, then calls in two pieces each."""
    for thought in message.reasoning:
        for word in _words(thought.text):
            yield ReasoningDelta(word)
        if thought.signature is not None or thought.redacted is not None:
            yield ReasoningDelta(signature=thought.signature, redacted=thought.redacted)
    for word in _words(message.text):
        yield TextDelta(word)
    for index, call in enumerate(message.tool_calls):
        half = len(call.arguments) // 2
        yield ToolCallDelta(index, call.arguments[:half], id=call.id, name=call.name)
        yield ToolCallDelta(index, call.arguments[half:])


def _tokens(text: str) -> int:
    """How many words it is streamed in. Counted without making them: a fake costs nothing."""
    return text.count(" ") + 1 if text else 0


def _words(text: str) -> Iterator[str]:
    for index, word in enumerate(text.split(" ") if text else ()):
        yield word if index == 0 else " " + word


class FakeClock:
    """Time that moves only when a test says so.

    >>> clock = FakeClock()
    >>> task = asyncio.create_task(clock.sleep(10))
    >>> await clock.advance(10)   # the sleeper has run on
    """

    def __init__(self, now: float = 0.0) -> None:
        self._now = now
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def now(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._order), future))
        await future

    def call_at(self, when: float, callback: Callable[[], object]) -> Timer:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda done: None if done.cancelled() else callback())
        if when <= self._now:
            future.set_result(None)
        else:
            heapq.heappush(self._sleepers, (when, next(self._order), future))
        return future

    async def advance(self, seconds: float) -> None:
        """Move time on, waking every sleeper in the order of its due time."""
        end = self._now + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            due, _, future = heapq.heappop(self._sleepers)
            self._now = due
            if not future.done():
                future.set_result(None)
            await settle()
        self._now = end


async def settle(rounds: int = 50) -> None:
    """Let every task that can run do so."""
    for _ in range(rounds):
        await asyncio.sleep(0)
