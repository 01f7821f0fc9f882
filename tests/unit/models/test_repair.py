from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.answerer import as_events
from models.call import Call
from models.errors import FusionError, Overloaded
from models.messages import (
    Completion,
    Done,
    Event,
    FinishReason,
    Message,
    Reasoning,
    ReasoningDelta,
    Request,
    ResponseFormat,
    Stage,
    Text,
    TextDelta,
    Tool,
    ToolCall,
    ToolCallDelta,
    Usage,
    user,
)
from models.wrappers.profiles import profile_of
from models.wrappers.repair import Habits, Repair

FIND = Tool("find", "Finds.", {"type": "object"})
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
NUMBER = ResponseFormat("json_schema", "n", SCHEMA)
CALL = '<tool_call>{"name": "find", "arguments": {"q": 1}}</tool_call>'


@dataclass
class Says:
    """Answers with these completions or errors in turn; streams their text in small pieces."""

    answers: list[Completion | FusionError]
    step: int = 3
    asked: list[Request] = field(default_factory=list)

    async def complete(self, request: Request, call: Call) -> Completion:
        self.asked.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, FusionError):
            raise answer
        return answer

    async def stream(self, request: Request, call: Call) -> AsyncGenerator[Event, None]:
        done = await self.complete(request, call)
        for event in as_events(done):
            if isinstance(event, TextDelta):
                for start in range(0, len(event.text), self.step):
                    yield TextDelta(event.text[start : start + self.step])
            else:
                yield event


def answer(text: str = "", finish: FinishReason = "stop", **message: Any) -> Completion:
    said = Message("assistant", (Text(text),) if text else (), **message)
    stage = Stage("answer", "m", Usage(1, 1))
    return Completion("m", said, finish, usage=Usage(1, 1), stages=(stage,))


def repair(
    *answers: Completion | FusionError, name: str = "m", **habits: bool
) -> tuple[Repair, Says]:
    model = Says(list(answers))
    return Repair(model, "m", Habits(profile_of(name), **habits)), model


def ask(**fields: Any) -> Request:
    return Request("m", (user("hi"),), **fields)


async def listen(model: Repair, request: Request) -> tuple[list[Event], Completion]:
    *events, done = [event async for event in model.stream(request, Call())]
    assert isinstance(done, Done)
    return joined(events), done.completion


def joined(events: list[Event]) -> list[Event]:
    """Neighbouring pieces of a text as one."""
    out: list[Event] = []
    for event in events:
        last = out[-1] if out else None
        if isinstance(event, TextDelta) and isinstance(last, TextDelta):
            out[-1] = TextDelta(last.text + event.text)
        elif isinstance(event, ReasoningDelta) and isinstance(last, ReasoningDelta):
            out[-1] = ReasoningDelta(last.text + event.text)
        else:
            out.append(event)
    return out


async def test_what_is_well_is_left_alone() -> None:
    good = answer("Hello <b>there</b>.")
    model, _ = repair(good, good)
    assert await model.complete(ask(), Call()) is good
    events, done = await listen(model, ask())
    assert events == [TextDelta("Hello <b>there</b>.")]
    assert done is good


# Thoughts

THOUGHT = "<think>\nHm.</think>\n\nSo."


async def test_a_thought_in_tags_is_a_thought() -> None:
    model, _ = repair(answer(THOUGHT))
    done = await model.complete(ask(), Call())
    assert (done.text, done.message.reasoning) == ("So.", (Reasoning("Hm."),))
    assert done.extension == {"repairs": ["reasoning_tags"]}


async def test_also_while_it_streams() -> None:
    model, _ = repair(answer(THOUGHT))
    events, done = await listen(model, ask())
    assert events == [ReasoningDelta("\nHm."), TextDelta("So.")]
    assert (done.text, done.message.thought) == ("So.", "Hm.")


async def test_a_thought_may_begin_without_its_mark() -> None:
    text = "Hm.</think>So."
    model, _ = repair(answer(text), answer(text), name="deepseek-r1")
    done = await model.complete(ask(), Call())
    events, streamed = await listen(model, ask())
    assert events == [ReasoningDelta("Hm."), TextDelta("So.")]
    assert (streamed.text, streamed.message) == (done.text, done.message) == ("So.", done.message)


async def test_where_the_mark_never_comes_it_was_the_answer() -> None:
    model, _ = repair(answer("Just so."), name="deepseek-r1")
    events, done = await listen(model, ask())
    assert (events, done.text) == ([TextDelta("Just so.")], "Just so.")


async def test_a_server_that_takes_thoughts_apart_is_believed() -> None:
    good = answer("Just so.", reasoning=(Reasoning("Hm."),))
    model, _ = repair(good, name="deepseek-r1")
    events, _ = await listen(model, ask())
    assert events == [ReasoningDelta("Hm."), TextDelta("Just so.")]


async def test_tags_that_others_may_mean_are_text() -> None:
    model, _ = repair(answer(THOUGHT), name="claude-opus")
    assert (await model.complete(ask(), Call())).text == THOUGHT


# Tool calls


async def test_a_tool_call_written_as_text_is_a_tool_call() -> None:
    model, _ = repair(answer("Let me see. " + CALL), answer("Let me see. " + CALL))
    done = await model.complete(ask(tools=(FIND,)), Call())
    [call] = done.message.tool_calls
    assert (done.text, call.name, call.arguments) == ("Let me see.", "find", '{"q": 1}')
    assert done.finish_reason == "tool_calls"
    assert done.extension == {"repairs": ["tool_call_as_text"]}
    events, streamed = await listen(model, ask(tools=(FIND,)))
    [shown] = streamed.message.tool_calls
    assert events == [
        TextDelta("Let me see. "),
        ToolCallDelta(0, '{"q": 1}', shown.id, "find"),
    ]
    assert (shown.name, shown.arguments) == ("find", '{"q": 1}')


async def test_without_tools_it_is_text() -> None:
    model, _ = repair(answer(CALL))
    assert (await model.complete(ask(), Call())).text == CALL


async def test_marks_around_nothing_stay_as_they_were() -> None:
    text = "a<tool_call>b</tool_call>c"
    model, _ = repair(answer(text), answer(text))
    assert (await model.complete(ask(tools=(FIND,)), Call())).text == text
    events, _ = await listen(model, ask(tools=(FIND,)))
    assert events == [TextDelta(text)]


async def test_arguments_are_mended() -> None:
    calls = (ToolCall("c1", "find", "{'q': 1,}"), ToolCall("c2", "find", "{}"))
    model, _ = repair(answer(tool_calls=calls, finish="tool_calls"))
    done = await model.complete(ask(tools=(FIND,)), Call())
    assert [call.arguments for call in done.message.tool_calls] == ['{"q": 1}', "{}"]
    assert done.extension == {"repairs": ["tool_arguments"]}


async def test_a_model_without_tools_is_asked_in_words() -> None:
    model, inner = repair(answer(CALL), text_tools=True)
    done = await model.complete(ask(tools=(FIND,)), Call())
    assert [call.name for call in done.message.tool_calls] == ["find"]
    assert inner.asked[0].tools == ()
    assert "find" in inner.asked[0].messages[0].text
    # It did as it was told: nothing was mended.
    assert done.extension == {}


# JSON


async def test_a_family_with_marks_of_its_own_may_be_taught_others() -> None:
    said = 'So: <tool_call>{"name": "find", "arguments": {"q": "x"}}</tool_call>'
    model, _ = repair(answer(said), name="mistral", text_tools=True)
    events, done = await listen(model, ask(tools=(FIND,)))
    assert events[0] == TextDelta("So: ")
    assert not any(isinstance(one, TextDelta) for one in events[1:])
    assert [call.name for call in done.message.tool_calls] == ["find"]


async def test_json_in_a_fence_is_plain_json() -> None:
    model, inner = repair(answer('```json\n{"n": 1}\n```'))
    done = await model.complete(ask(response_format=NUMBER), Call())
    assert done.text == '{"n": 1}'
    assert done.extension == {"repairs": ["json_fence"]}
    assert len(inner.asked) == 1


async def test_json_that_cannot_be_mended_is_asked_for_once_more() -> None:
    model, inner = repair(answer('{"n": "one"}'), answer('{"n": 1}'))
    done = await model.complete(ask(response_format=NUMBER), Call())
    assert done.text == '{"n": 1}'
    assert done.extension == {"repairs": ["json_asked_again"]}
    assert (done.usage, len(done.stages)) == (Usage(2, 2), 2)
    *_, shown, complaint = inner.asked[1].messages
    assert shown.text == '{"n": "one"}'
    assert "'one' is not of type 'integer'" in complaint.text


async def test_no_third_time() -> None:
    model, inner = repair(answer("no"), answer("never"))
    done = await model.complete(ask(response_format=NUMBER), Call())
    assert done.text == "never"
    assert done.extension == {"repairs": ["json_asked_again", "json_invalid"]}
    assert len(inner.asked) == 2


async def test_a_second_try_that_fails_leaves_the_first_answer() -> None:
    model, _ = repair(answer("no"), Overloaded("full"))
    done = await model.complete(ask(response_format=NUMBER), Call())
    assert done.text == "no"
    assert "json_invalid" in done.extension["repairs"]


async def test_a_refusal_is_not_asked_again() -> None:
    model, inner = repair(answer("I would rather not.", finish="content_filter"))
    done = await model.complete(ask(response_format=NUMBER), Call())
    assert (done.text, len(inner.asked)) == ("I would rather not.", 1)


@pytest.mark.parametrize(
    "second",
    [answer("I cannot."), answer('{"n": "t', finish="length"), answer(finish="content_filter")],
)
async def test_a_second_answer_that_is_worse_does_not_replace_the_first(
    second: Completion,
) -> None:
    model, _ = repair(answer('{"n": "one"}'), second)
    done = await model.complete(ask(response_format=NUMBER), Call())
    assert (done.text, done.usage, len(done.stages)) == ('{"n": "one"}', Usage(2, 2), 2)
    assert done.extension == {"repairs": ["json_asked_again", "json_invalid"]}


async def test_an_answer_that_was_cut_off_is_not_mended() -> None:
    model, inner = repair(answer('{"n": 1', finish="length"))
    done = await model.complete(ask(response_format=NUMBER), Call())
    assert (done.text, done.extension) == ('{"n": 1', {})
    assert len(inner.asked) == 1


async def test_a_model_without_structured_output_is_asked_in_words() -> None:
    model, inner = repair(answer('{"n": 1}'), json_in_words=True)
    await model.complete(ask(response_format=NUMBER), Call())
    assert inner.asked[0].response_format is None
    assert json.dumps(SCHEMA) in inner.asked[0].messages[0].text


async def test_its_stream_shows_only_what_is_known_to_be_right() -> None:
    model, _ = repair(answer("no"), answer('```\n{"n": 1}\n```'), json_in_words=True)
    events, done = await listen(model, ask(response_format=NUMBER))
    assert events == [TextDelta('{"n": 1}')]
    assert done.extension == {"repairs": ["json_asked_again", "json_fence"]}


async def test_every_repair_is_counted() -> None:
    counted: list[tuple[str, str]] = []
    inner = Says([answer('```{"n": 1}```')])
    model = Repair(inner, "m", Habits(profile_of("m")), lambda *each: counted.append(each))
    await model.complete(ask(response_format=NUMBER), Call())
    assert counted == [("m", "json_fence")]


def unnamed(done: Completion) -> Completion:
    """Without the ids of its calls, which are made up anew each time."""
    calls = tuple(replace(call, id="") for call in done.message.tool_calls)
    return replace(done, message=replace(done.message, tool_calls=calls))


@settings(max_examples=30)
@given(st.text(alphabet='<think>/tool_call{}[]":a1 \n', max_size=80), st.integers(1, 9))
async def test_a_stream_says_no_less_than_the_whole(text: str, step: int) -> None:
    for name, taught in product(("m", "deepseek-r1", "mistral"), (False, True)):
        request = ask(tools=(FIND,))
        habits = Habits(profile_of(name), text_tools=taught)
        whole = await Repair(Says([answer(text)]), "m", habits).complete(request, Call())
        inner = Says([answer(text)], step)
        events, done = await listen(Repair(inner, "m", habits), request)
        assert unnamed(done) == unnamed(whole)
        said = "".join(e.text for e in events if isinstance(e, TextDelta))
        if not whole.extension:
            assert said == text
        else:
            assert "".join(said.split()) == "".join(whole.text.split())
