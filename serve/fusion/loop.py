"""One model that works with server tools until it has an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field

from models.answerer import Answerer, Clock
from models.call import Call
from models.errors import BudgetExceeded, UpstreamError
from models.messages import (
    Completion,
    Done,
    Event,
    Message,
    Request,
    Source,
    Stage,
    Text,
    TextDelta,
    Tool,
    ToolCall,
    total,
)
from models.tools.toolbox import ToolBox
from models.values import changed
from serve.fusion.calls import noted, spared

#: An answer above this is a model that does not stop (characters).
MAX_ANSWER = 4_000_000

#: Told what a model writes while it writes it.
Hear = Callable[[Event], None]


def _nothing() -> int:
    return 0


@dataclass(slots=True)
class Loop:
    """At most `max_calls` calls of tools, those of one step in parallel.

    `stages` and `sources` stand also after a failure: what was done was paid for.
    """

    models: Answerer
    clock: Clock
    box: ToolBox | None = None
    tools: tuple[Tool, ...] = ()
    max_calls: int = 4
    #: Nano-dollars of the request's cost cap that tools, and turns to read what they found, leave
    #: for answers without.
    spare: Callable[[], int] = _nothing
    stages: list[Stage] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)

    async def complete(self, request: Request, call: Call, hear: Hear | None = None) -> Completion:
        """The model's answer. `hear` is told of it live, if somebody listens."""
        if self.box is None or not self.tools:
            return await self._turn(request, call, hear)
        left = self.max_calls
        plain, request = request, changed(request, tools=self.tools)
        completion = await self._turn(request, call, hear)
        while left and (calls := completion.message.tool_calls):
            results = await asyncio.gather(
                *(self._use(one, self._spared(call)) for one in calls[:left]),
                *(_refused(one) for one in calls[left:]),
            )
            left = max(0, left - len(calls))
            request = changed(
                request,
                messages=(*request.messages, completion.message, *results),
                tool_choice=None if left else "none",
            )
            try:
                completion = await self._turn(request, self._spared(call), hear)
            except BudgetExceeded:
                if call.cost_cap_nano_usd is None:
                    raise
                # What it found costs too much to be read; what is spared pays for an answer.
                self.sources.clear()
                completion = await self._turn(plain, call, hear)
                break
        return changed(
            completion,
            stages=tuple(self.stages),
            usage=total(stage.usage for stage in self.stages),
            sources=tuple(dict.fromkeys((*completion.sources, *self.sources))),
        )

    def _spared(self, call: Call) -> Call:
        return spared(call, self.spare())

    async def _turn(self, request: Request, call: Call, hear: Hear | None) -> Completion:
        if hear is None:
            completion = await self.models.complete(request, call)
        else:
            completion = await self._heard(request, call, hear)
        self.stages += completion.stages
        return completion

    async def _heard(self, request: Request, call: Call, hear: Hear) -> Completion:
        written = 0
        async with aclosing(self.models.stream(request, call)) as events:
            async for event in events:
                if isinstance(event, Done):
                    return event.completion
                if isinstance(event, TextDelta):
                    written += len(event.text)
                    if written > MAX_ANSWER:
                        raise UpstreamError(f"It wrote more than {MAX_ANSWER} characters.")
                hear(event)
        raise AssertionError("a stream ends with Done")

    async def _use(self, asked: ToolCall, call: Call) -> Message:
        assert self.box is not None
        began = self.clock.now()
        with noted(self.stages, "tool", asked.name, self.clock):
            result = await self.box.call(asked.name, asked.arguments, call)
        self.sources += result.sources
        self.stages.append(
            Stage(
                "tool",
                asked.name,
                seconds=self.clock.now() - began,
                nano_usd=result.nano_usd,
                error=result.text[:200] if result.is_error else None,
            )
        )
        return _result(asked, result.text, result.is_error)


async def _refused(asked: ToolCall) -> Message:
    return _result(asked, "Not called: no tool calls are left. Answer with what you have.", True)


def _result(asked: ToolCall, text: str, failed: bool) -> Message:
    return Message("tool", (Text(text),), tool_call_id=asked.id, name=asked.name, is_error=failed)
