"""A model to which the fusion is offered as a tool: it decides whether to call it.

It may call it once in a turn; a second call is told `fusion_invocation_capped`. The caller's
own tools work as ever, except that a call of theirs in the same step as a fusion waits for
what the fusion says: the model asks again if it still wants it.

What it writes before it calls the fusion is part of its answer, whole and streamed. Only where a
form was asked for is it left out, as the answer would not be of that form then; so a step is read
to its end before it is told.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from models.answerer import Events
from models.call import Call
from models.errors import FusionError, UpstreamError
from models.messages import (
    FUSED,
    FUSION_FUNCTION,
    FUSION_TOOL,
    Completion,
    Done,
    Message,
    Named,
    Progress,
    Reasoning,
    ReasoningDelta,
    Request,
    Stage,
    Text,
    TextDelta,
    Tool,
    ToolCall,
    ToolCallDelta,
    total,
    user,
)
from models.values import changed
from serve.fusion import result
from serve.fusion.calls import noted
from serve.fusion.deliberation import Deliberation, Resources
from serve.fusion.fusion import broke, capped, deeper, finished
from serve.fusion.plan import Plan

#: Steps of the outer model after which it must answer.
_STEPS = 4
#: Between what two steps wrote.
_PART = "\n\n"
_DEFERRED = "Not called yet: first read what the fusion says, then call it again if you need it."
_CAPPED = {
    "status": "error",
    "error": "the fusion was called already",
    "failure_reason": "fusion_invocation_capped",
}


@dataclass(slots=True)
class _Invocation:
    """The one call of the fusion, and what came of it."""

    #: What the outer model is told.
    answer: Message
    work: Deliberation | None = None
    error: FusionError | None = None


@dataclass(slots=True)
class _SoFar:
    """What an answer has come to. `turns` are as a stream tells them."""

    stages: list[Stage] = field(default_factory=list)
    turns: list[Message] = field(default_factory=list)
    invoked: _Invocation | None = None

    @property
    def spoken(self) -> bool:
        return any(turn.text for turn in self.turns)

    def say(self, step: Message) -> None:
        """One more step: its words begin a part of their own."""
        text = _PART + step.text if step.text and self.spoken else step.text
        before = self.turns[-1] if self.turns else FUSED
        if before == FUSED or (before.text and step.reasoning):
            self.turns.append(changed(step, content=_content(text), tool_calls=()))
        else:
            thoughts = _thoughts(before.reasoning, step.reasoning)
            said = _content(before.text + text)
            self.turns[-1] = changed(before, content=said, reasoning=thoughts)

    def joined(self, last: Message) -> Message:
        """The last step's message, with all that was thought and said."""
        return changed(
            last,
            content=_content("".join(turn.text for turn in self.turns)),
            reasoning=tuple(thought for turn in self.turns for thought in turn.reasoning),
        )


class Outer:
    """`plan` makes the fusion's plan when it is called; `model` is who decides and answers."""

    def __init__(self, model: str, plan: Callable[[], Plan], resources: Resources) -> None:
        self._model = model
        self._plan = plan
        self._resources = resources

    async def complete(self, request: Request, call: Call) -> Completion:
        async with aclosing(self._events(request, call, live=False)) as events:
            async for event in events:
                if isinstance(event, Done):
                    return event.completion
        raise AssertionError("a stream ends with Done")

    def stream(self, request: Request, call: Call) -> Events:
        return self._events(request, call, live=True)

    async def _events(self, request: Request, call: Call, *, live: bool) -> Events:
        so_far = _SoFar()
        try:
            async with aclosing(self._steps(request, call, live, so_far)) as events:
                async for event in events:
                    yield event
        except BaseException as error:
            if so_far.invoked is not None and so_far.invoked.work is not None:
                # The panel was paid for, whatever became of the answer.
                so_far.invoked.work.stages += so_far.stages
                broke(error, so_far.invoked.work, self._resources, request, call)
            raise

    async def _steps(self, request: Request, call: Call, live: bool, so_far: _SoFar) -> Events:
        asked = self._offered(request)
        name = asked.tools[-1].name
        used = _was_called(request.messages, name)
        shaped = request.response_format is not None and request.response_format.kind != "text"
        for step in range(_STEPS):
            if step == _STEPS - 1:
                asked = changed(asked, tool_choice="none")
            held: list[TextDelta | ToolCallDelta] = []
            parted = not so_far.spoken
            async with aclosing(self._turn(asked, call, live, so_far.stages)) as events:
                async for event in events:
                    match event:
                        case TextDelta(text) if text and not parted and not shaped:
                            parted = True
                            yield TextDelta(_PART + text)
                        case TextDelta() if not shaped:
                            yield event
                        case ReasoningDelta():
                            yield event
                        case TextDelta() | ToolCallDelta():
                            held.append(event)  # whose call it is, is known at the end
                        case Done(completion):
                            written = completion
            so_far.stages += written.stages
            if not any(one.name == name for one in written.message.tool_calls):
                for piece in held:
                    yield piece
                if so_far.turns:
                    so_far.say(written.message)
                    message = so_far.joined(written.message)
                    written = changed(written, message=message, turns=tuple(so_far.turns))
                yield Done(self._whole(written, so_far, request, call))
                return
            so_far.say(changed(written.message, content=()) if shaped else written.message)
            answers = []
            for one in written.message.tool_calls:
                if one.name != name:
                    answers.append(_answer(one, _DEFERRED, failed=True))
                elif so_far.invoked is None and not used:
                    invoked = so_far.invoked = _Invocation(_answer(one, "", failed=True))
                    so_far.turns.append(FUSED)
                    spent = sum(stage.nano_usd or 0 for stage in so_far.stages)
                    behind = changed(asked, messages=(*asked.messages, written.message))
                    running = self._invoke(one, request, behind, call, live, invoked, spent)
                    async with aclosing(running) as progress:
                        async for event in progress:
                            yield event
                    answers.append(invoked.answer)
                else:
                    answers.append(_answer(one, json.dumps(_CAPPED), failed=True))
            messages = (*asked.messages, written.message, *answers)
            asked = changed(asked, messages=messages, tool_choice=None)
        raise UpstreamError("The model went on calling tools when it should have answered.")

    def _offered(self, request: Request) -> Request:
        """The request with the fusion as its last tool."""
        name = FUSION_FUNCTION
        while any(tool.name == name for tool in request.tools):
            name += "_"
        choice = request.tool_choice
        return changed(
            request,
            model=self._model,
            tools=(*request.tools, _tool(name)),
            tool_choice=Named(name) if choice == Named(FUSION_TOOL) else choice,
            fusion=None,
        )

    async def _turn(self, request: Request, call: Call, live: bool, stages: list[Stage]) -> Events:
        at, inner = self._resources, call.child("synthesis")
        with noted(stages, "synthesis", self._model, at.clock):
            if not live:
                yield Done(await at.models.complete(request, inner))
                return
            async with aclosing(at.models.stream(request, inner)) as events:
                async for event in events:
                    yield event

    async def _invoke(
        self,
        asked: ToolCall,
        request: Request,
        behind: Request,
        call: Call,
        live: bool,
        invoked: _Invocation,
        spent: int,
    ) -> Events:
        """Run the fusion. A failure of it is for the outer model, which answers all the same;
        `behind` is what it answers then."""
        try:
            plan = self._plan()
            question = _question(request, asked)
            at = self._resources
            inner = capped(deeper(call), plan.cost_cap)
            async with Deliberation(
                plan, question, inner, at, live=live, spent=spent, behind=behind
            ) as work:
                invoked.work = work
                async with aclosing(work.events()) as progress:
                    async for event in progress:
                        yield event
                answers = await work.material(at.catalog.models[self._model].context // 2)
            text = json.dumps(work.result(answers), ensure_ascii=False)
            invoked.answer = _answer(asked, text, failed=False)
        except FusionError as error:
            invoked.error = error
            failed = result.error(error, invoked.work.run if invoked.work else None)
            invoked.answer = _answer(asked, json.dumps(failed, ensure_ascii=False), failed=True)
            if live and invoked.work is None:
                # It never began, and a listener hears of it all the same.
                yield Progress("in_progress", {})
                yield Progress("completed", {"result": failed})

    def _whole(
        self, written: Completion, so_far: _SoFar, request: Request, call: Call
    ) -> Completion:
        """The outer model's answer with all that it took."""
        stages, invoked = tuple(so_far.stages), so_far.invoked
        written = changed(written, stages=stages, usage=total(stage.usage for stage in stages))
        if invoked is None:
            return written
        if invoked.work is None:
            assert invoked.error is not None
            failed = result.error(invoked.error)
            return changed(written, extension={**written.extension, **failed})
        return finished(invoked.work, written, self._resources, request, call, invoked.error)


def _content(text: str) -> tuple[Text, ...]:
    return (Text(text),) if text else ()


def _thoughts(
    before: tuple[Reasoning, ...], behind: tuple[Reasoning, ...]
) -> tuple[Reasoning, ...]:
    """Both, as a stream tells them: a thought without a seal goes on in the next one."""
    if before and behind and before[-1].is_open and behind[0].is_open:
        joined = Reasoning(before[-1].text + behind[0].text)
        return (*before[:-1], joined, *behind[1:])
    return (*before, *behind)


def _was_called(messages: Sequence[Message], name: str) -> bool:
    """Whether it has been called already for what the user asked last."""
    for message in reversed(messages):
        if message.role == "user":
            return False
        if any(call.name == name for call in message.tool_calls):
            return True
    return False


def _tool(name: str) -> Tool:
    return Tool(
        name,
        "Asks a panel of several models the same question and has a judge compare their answers: "
        "consensus, contradictions, partial coverage, unique insights, blind spots. Call it for "
        "questions that are hard, open or disputed, at most once.",
        {
            "type": "object",
            "properties": {
                "question": {
                    "type": "string",
                    "description": "What the panel is asked, understandable by itself. Leave it "
                    "out to give the panel this conversation as it is.",
                }
            },
        },
    )


def _question(request: Request, asked: ToolCall) -> Request:
    """What the panel is asked: the conversation, or what the outer model wants to know."""
    try:
        arguments = json.loads(asked.arguments)
    except (ValueError, RecursionError):
        arguments = None
    question = arguments.get("question") if isinstance(arguments, dict) else None
    kept = request.fusion.cache_ttl if request.fusion else None
    cache = kept or request.cache
    plain = changed(request, tools=(), tool_choice=None, fusion=None, cache=cache)
    if not isinstance(question, str) or not question.strip():
        return plain
    rules = tuple(one for one in request.messages if one.role in ("system", "developer"))
    return changed(plain, messages=(*rules, user(question)))


def _answer(asked: ToolCall, text: str, *, failed: bool) -> Message:
    return Message("tool", (Text(text),), tool_call_id=asked.id, name=asked.name, is_error=failed)
