"""Takes apart and mends what a model writes, so that every model seems equally well served.

A thought between tags becomes a thought, a tool call written as text a tool call, JSON in a
fence or with a comma too many plain JSON; JSON that cannot be mended is asked for once more, with
the error shown. A model that has no tools or no structured output of its own is asked in words.
Everything that was mended is counted, and stands on the completion as `repairs`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from models.answerer import Answerer, Events, as_events
from models.call import Call
from models.errors import FusionError
from models.messages import (
    Completion,
    Done,
    Event,
    Reasoning,
    ReasoningDelta,
    Request,
    ResponseFormat,
    Text,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    assistant,
    user,
)
from models.spec import ApiModel, ModelSpec, VllmModel
from models.wrappers import loose_json, text_tools
from models.wrappers.marks import Splitter
from models.wrappers.profiles import Profile, profile_of

#: Answers that another try would not make whole.
_BROKEN_OFF = ("length", "content_filter")
#: Told the model and what was mended in its answer.
Count = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class Habits:
    """What is known of one model. `text_tools`, `json_in_words`: it has no way of its own."""

    profile: Profile
    text_tools: bool = False
    json_in_words: bool = False


def habits_of(name: str, spec: ModelSpec) -> Habits:
    """Those that this entry of the catalog says or lets guess."""
    elsewhere = spec.upstream if isinstance(spec, ApiModel) else None
    weights = spec.source if isinstance(spec, VllmModel) else None
    return Habits(
        profile_of(name, elsewhere, weights, family=spec.family),
        text_tools=spec.tool_calls == "text",
        json_in_words=spec.structured == "words",
    )


class Repair:
    """`inner`, mended by these habits. `count` hears of every repair."""

    def __init__(
        self, inner: Answerer, name: str, habits: Habits, count: Count | None = None
    ) -> None:
        self._inner = inner
        self._name = name
        self._habits = habits
        self._count = count

    async def complete(self, request: Request, call: Call) -> Completion:
        asked = self._asked(request)
        first = await self._inner.complete(asked, call)
        mended = _Mended.of(first, request, self._habits)
        if mended.problem is not None and first.finish_reason not in _BROKEN_OFF:
            mended = await self._asked_again(mended, asked, first, request, call)
        return self._told(mended)

    async def _asked_again(
        self, mended: _Mended, asked: Request, first: Completion, request: Request, call: Call
    ) -> _Mended:
        again = _again(asked, first, mended.problem or "")
        try:
            second = await self._inner.complete(again, call)
        except FusionError:
            # An answer that is not quite right is better than none.
            return mended.after_a_retry()
        other = _Mended.of(second, request, self._habits)
        best = mended if other.is_worse_than(mended) else other
        best.completion = _paid(best.completion, first, second)
        return best.after_a_retry()

    async def stream(self, request: Request, call: Call) -> Events:
        if self._habits.json_in_words and _wants_json(request):
            # What may have to be asked for once more cannot be shown before it is known.
            for event in as_events(await self.complete(request, call)):
                yield event
            return
        live = _Live(request, self._habits)
        async with aclosing(self._inner.stream(self._asked(request), call)) as events:
            async for event in events:
                if not isinstance(event, Done):
                    for piece in live.hear(event):
                        yield piece
                    continue
                for piece in live.rest():
                    yield piece
                done = self._told(_Mended.of(event.completion, request, self._habits, live.calls))
                for piece in live.missing(done):
                    yield piece
                yield Done(done)

    def _asked(self, request: Request) -> Request:
        """What this model is asked instead, where it lacks something."""
        asked = request
        if self._habits.text_tools and _has_tools(asked):
            asked = text_tools.ask(asked)
        if self._habits.json_in_words and _wants_json(asked):
            asked = replace(
                asked,
                response_format=None,
                messages=text_tools.instructed(asked.messages, _in_words(asked.response_format)),
            )
        return asked

    def _told(self, mended: _Mended) -> Completion:
        if not mended.repairs:
            return mended.completion
        if self._count is not None:
            for repair in mended.repairs:
                self._count(self._name, repair)
        extension = mended.completion.extension
        repairs = [*extension.get("repairs", []), *mended.repairs]
        return replace(mended.completion, extension={**extension, "repairs": repairs})


def _wants_json(request: Request) -> bool:
    wanted = request.response_format
    return wanted is not None and wanted.kind != "text"


def _has_tools(request: Request) -> bool:
    return bool(request.tools) or any(
        message.tool_calls or message.role == "tool" for message in request.messages
    )


def _in_words(wanted: ResponseFormat | None) -> str:
    words = "Answer with one JSON object and nothing else: no fence, no word before or behind it."
    if wanted is None or wanted.schema is None:
        return words
    schema = json.dumps(dict(wanted.schema), ensure_ascii=False)
    return f"{words} It must be valid by this JSON schema:\n{schema}"


def _again(asked: Request, first: Completion, problem: str) -> Request:
    """The same request once more, with the answer and what is wrong with it."""
    complaint = (
        f"This is not what was asked for: {problem}. Write the whole answer once more, as valid"
        " JSON and nothing else."
    )
    turns = (assistant(first.text), user(complaint))
    return replace(asked, messages=(*asked.messages, *turns))


def _paid(kept: Completion, first: Completion, second: Completion) -> Completion:
    """The answer that is kept, and what both cost."""
    return replace(kept, usage=first.usage + second.usage, stages=(*first.stages, *second.stages))


@dataclass(slots=True)
class _Mended:
    """An answer after all that can be done without asking again."""

    completion: Completion
    repairs: list[str] = field(default_factory=list)
    #: Why its JSON is not what was asked for, and whether it is JSON at least.
    problem: str | None = None
    is_json: bool = False

    @classmethod
    def of(
        cls,
        completion: Completion,
        request: Request,
        habits: Habits,
        calls: tuple[ToolCall, ...] = (),
    ) -> _Mended:
        """`calls` are those that a stream has shown already, under their ids."""
        mended = cls(completion)
        mended._thoughts(habits.profile)
        if request.tools:
            mended._calls(request, habits, calls)
            mended._arguments()
        if _wants_json(request) and not mended.completion.message.tool_calls:
            mended._json(request.response_format)
        return mended

    def is_worse_than(self, other: _Mended) -> bool:
        """Of two that are asked for JSON, the other of which is not right either."""
        if self.problem is None:
            return False
        broken_off = self.completion.finish_reason in _BROKEN_OFF
        return broken_off or (other.is_json and not self.is_json)

    def after_a_retry(self) -> _Mended:
        self.repairs.insert(0, "json_asked_again")
        if self.problem is not None:
            self.repairs.append("json_invalid")
        return self

    def _message(self, **changes: Any) -> None:
        message = replace(self.completion.message, **changes)
        self.completion = replace(self.completion, message=message)

    def _say(self, text: str) -> None:
        self._message(content=(Text(text),) if text else ())

    def _thoughts(self, profile: Profile) -> None:
        text = self.completion.text
        if not profile.think or not any(close in text for _, close in profile.think):
            return
        inside = profile.begins and not any(
            text.lstrip().startswith(mark) for mark, _ in profile.think
        )
        splitter = Splitter(profile.think, at_start=True, inside=inside)
        pieces = [*splitter.feed(text), *splitter.finish()]
        thought = "".join(piece.text for piece in pieces if piece.kind == "inside").strip()
        if splitter.open or not any(piece.kind == "end" for piece in pieces):
            return
        self._say("".join(piece.text for piece in pieces if piece.kind == "text").lstrip())
        if thought:
            reasoning = (*self.completion.message.reasoning, Reasoning(thought))
            self._message(reasoning=reasoning)
        self.repairs.append("reasoning_tags")

    def _calls(self, request: Request, habits: Habits, shown: tuple[ToolCall, ...]) -> None:
        message = self.completion.message
        if message.tool_calls:
            return
        text, calls = text_tools.read(message.text, request.tools, habits.profile)
        if calls := shown or calls:
            self._say(text)
            self._message(tool_calls=calls)
            self.completion = replace(self.completion, finish_reason="tool_calls")
            if not habits.text_tools:
                self.repairs.append("tool_call_as_text")

    def _arguments(self) -> None:
        calls = []
        for call in self.completion.message.tool_calls:
            found = loose_json.read(call.arguments)
            if found.repair is not None and isinstance(found.value, dict):
                written = json.dumps(found.value, ensure_ascii=False)
                call = replace(call, arguments=written)
                self.repairs.append("tool_arguments")
            calls.append(call)
        self._message(tool_calls=tuple(calls))

    def _json(self, wanted: ResponseFormat | None) -> None:
        schema = dict(wanted.schema) if wanted is not None and wanted.schema is not None else None
        found = loose_json.read(self.completion.text)
        if found.value is None:
            self.problem = "it is not JSON"
            return
        self.is_json = True
        self.problem = loose_json.problem(found.value, schema)
        if found.repair is not None and self.completion.finish_reason != "length":
            self._say(json.dumps(found.value, ensure_ascii=False))
            self.repairs.append(found.repair)


class _Live:
    """Mends a stream while it is shown: thoughts in tags, and tool calls in text."""

    def __init__(self, request: Request, habits: Habits) -> None:
        profile = habits.profile
        self._request = request
        self._profile = profile
        self._think = Splitter(profile.think, at_start=True, inside=profile.begins)
        marks = text_tools.marks(profile) if habits.text_tools else profile.calls
        self._tools = Splitter(marks if request.tools else ())
        #: A thought that began without its mark is one only if the mark after it comes.
        self._unsure = "" if profile.begins else None
        self._call = ""
        #: White space between a thought and the answer belongs to neither.
        self._strip = False
        self.calls: tuple[ToolCall, ...] = ()
        self._native = False

    def hear(self, event: Event) -> Iterator[Event]:
        if isinstance(event, ReasoningDelta):
            # The server takes thoughts apart by itself.
            yield from self._sure()
        if isinstance(event, ToolCallDelta):
            self._native = True
        if not isinstance(event, TextDelta) or (self._think.idle and self._tools.idle):
            yield event
        else:
            for piece in self._think.feed(event.text):
                yield from self._piece(piece.kind, piece.text)

    def rest(self) -> Iterator[Event]:
        """What was held back."""
        for piece in self._think.finish():
            yield from self._piece(piece.kind, piece.text)
        yield from self._sure()
        for piece in self._tools.finish():
            yield from self._spoken(piece.kind, piece.text)
        if self._call:
            yield from self._called()

    def missing(self, done: Completion) -> Iterator[Event]:
        """Calls of the whole answer that no event has shown."""
        if not (self._native or self.calls):
            for index, call in enumerate(done.message.tool_calls):
                yield ToolCallDelta(index, call.arguments, call.id, call.name)

    def _sure(self) -> Iterator[Event]:
        """What was taken for a thought was none."""
        if self._unsure is not None:
            text, self._unsure = self._unsure, None
            text += "".join(piece.text for piece in self._think.finish())
            self._think = Splitter(())
            if text:
                yield from self._text(text)

    def _piece(self, kind: str, text: str) -> Iterator[Event]:
        if kind == "text":
            if text := text.lstrip() if self._strip else text:
                self._strip = False
                yield from self._text(text)
        elif kind == "inside":
            if self._unsure is not None:
                self._unsure += text
            else:
                yield ReasoningDelta(text)
        else:
            self._strip = True
            thought, self._unsure = self._unsure, None
            if thought:
                yield ReasoningDelta(thought)

    def _text(self, text: str) -> Iterator[Event]:
        for piece in self._tools.feed(text):
            yield from self._spoken(piece.kind, piece.text)

    def _spoken(self, kind: str, text: str) -> Iterator[Event]:
        if kind == "text":
            yield TextDelta(text)
        elif kind == "inside":
            self._call += text
        else:
            yield from self._called()

    def _called(self) -> Iterator[Event]:
        text, self._call = self._call, ""
        found = text_tools.called(text, self._request.tools, self._profile)
        for index, call in enumerate(found, start=len(self.calls)):
            yield ToolCallDelta(index, call.arguments, call.id, call.name)
        self.calls += found
        if not found:
            opening, closing = self._tools.around
            yield TextDelta(opening + text + closing)
