"""Our door and our own clients of other servers are each other's test: what one writes, the other
reads, and nothing is lost that the dialect between them can say."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest

from models.flagship.anthropic import Anthropic
from models.flagship.dialect import Dialect
from models.flagship.openai_chat import OpenAIChat
from models.flagship.openai_responses import OpenAIResponses
from models.messages import (
    Completion,
    Done,
    Event,
    FinishReason,
    Image,
    Message,
    Named,
    Reasoning,
    ReasoningDelta,
    Request,
    ResponseFormat,
    Sampling,
    Source,
    Text,
    TextDelta,
    Tool,
    ToolCall,
    ToolCallDelta,
    Usage,
    assistant,
    system,
    user,
)
from models.spec import AnthropicModel, OpenAIModel, OpenAIResponsesModel
from serve.dialects import chat, messages, responses

#: What the door speaks, and who asks another server in the same words.
PAIRS: dict[str, tuple[ModuleType, Dialect]] = {
    "chat": (chat, OpenAIChat(OpenAIModel(engine="openai"))),
    "responses": (responses, OpenAIResponses(OpenAIResponsesModel(engine="openai-responses"))),
    "messages": (messages, Anthropic(AnthropicModel(engine="anthropic"))),
}
both = pytest.mark.parametrize(("door", "client"), PAIRS.values(), ids=PAIRS)

SCHEMA = {"type": "object", "properties": {"at": {"type": "string"}}}
TURNS = (
    system("be brief"),
    Message("user", (Text("what is this?"), Image("data:image/png;base64,AA"))),
    Message(
        "assistant",
        (Text("let me look"),),
        tool_calls=(ToolCall("c1", "look", '{"at": "ü"}'), ToolCall("c2", "look", "{}")),
    ),
    Message("tool", (Text("a cat"),), tool_call_id="c1"),
    Message("tool", (Text("a dog"),), tool_call_id="c2"),
    user("sure?"),
    assistant("yes"),
    user("why?"),
)


def asked(door: ModuleType, client: Dialect, request: Request) -> Request:
    """The request as the door reads what the client wrote."""
    body = client.payload(request, model="m", stream=False)
    read: Request = door.parse(json.dumps(body).encode()).request
    return read


@both
def test_a_conversation_arrives(door: ModuleType, client: Dialect) -> None:
    request = Request("m", TURNS, tools=(Tool("look", "Looks.", SCHEMA),))
    read = asked(door, client, request)
    pictured = tuple(
        replace(part, detail=None) if isinstance(part, Image) else part
        for part in read.messages[1].content
    )
    seen = (read.messages[0], replace(read.messages[1], content=pictured), *read.messages[2:])
    assert seen == TURNS
    assert [(tool.name, tool.parameters) for tool in read.tools] == [("look", SCHEMA)]


@both
@pytest.mark.parametrize("choice", ["auto", "required", "none", Named("look")])
def test_a_choice_arrives(door: ModuleType, client: Dialect, choice: Any) -> None:
    request = Request("m", (user("x"),), tools=(Tool("look"),), tool_choice=choice)
    assert asked(door, client, request).tool_choice == choice


@both
def test_settings_arrive(door: ModuleType, client: Dialect) -> None:
    closed = SCHEMA | {"additionalProperties": False}  # as every object must be at Anthropic's
    request = Request(
        "m",
        (user("x"),),
        sampling=Sampling(temperature=0.5, top_p=0.9, max_tokens=7),
        tools=(Tool("look"),),
        tool_choice="auto",
        parallel_tool_calls=False,
        response_format=ResponseFormat("json_schema", schema=closed),
    )
    read = asked(door, client, request)
    assert read.sampling == request.sampling
    assert read.parallel_tool_calls is False
    assert read.response_format == request.response_format


@both
@pytest.mark.parametrize("effort", ["none", "low", "medium", "high", "xhigh"])
def test_effort_arrives(door: ModuleType, client: Dialect, effort: Any) -> None:
    request = Request("m", (user("x"),), sampling=Sampling(max_tokens=50_000), effort=effort)
    assert asked(door, client, request).effort == effort


@pytest.mark.parametrize("effort", ["low", "medium", "high", "xhigh"])
def test_effort_as_a_budget_of_tokens_arrives(effort: Any) -> None:
    client = Anthropic(AnthropicModel(engine="anthropic", thinking="budget"))
    request = Request("m", (user("x"),), sampling=Sampling(max_tokens=50_000), effort=effort)
    assert asked(messages, client, request).effort == effort


def test_sealed_thoughts_and_failures_of_tools_arrive_at_anthropics() -> None:
    thoughts = (Reasoning("hm", signature="seal"), Reasoning(redacted="hidden"))
    turns = (
        user("x"),
        Message("assistant", tool_calls=(ToolCall("c1", "look", "{}"),), reasoning=thoughts),
        Message("tool", (Text("too dark"),), tool_call_id="c1", is_error=True),
    )
    door, client = PAIRS["messages"]
    assert asked(door, client, Request("m", turns)).messages == turns


# Answers

THOUGHT = Reasoning("hm well")
ANSWERS: dict[str, Completion] = {
    "text": Completion("m", assistant("hello there"), usage=Usage(10, 3, cached=4, reasoning=1)),
    "calls": Completion(
        "m",
        Message(
            "assistant",
            (Text("let me look"),),
            tool_calls=(ToolCall("c1", "look", '{"at": "ü"}'), ToolCall("c2", "look", "{}")),
            reasoning=(THOUGHT,),
        ),
        "tool_calls",
        Usage(10, 3),
    ),
    "short": Completion("m", assistant("half"), "length", Usage(10, 3)),
    "refused": Completion("m", assistant("no"), "content_filter", Usage(10, 3)),
}


def events(answer: Completion) -> Iterator[Event]:
    """The answer as a model streams it."""
    for thought in answer.message.reasoning:
        yield ReasoningDelta(thought.text[:2])
        yield ReasoningDelta(thought.text[2:])
        if thought.signature is not None or thought.redacted is not None:
            yield ReasoningDelta(signature=thought.signature, redacted=thought.redacted)
    yield TextDelta(answer.text[:2])
    yield TextDelta(answer.text[2:])
    for index, call in enumerate(answer.message.tool_calls):
        yield ToolCallDelta(index, id=call.id, name=call.name)
        yield ToolCallDelta(index, call.arguments)
    yield Done(answer)


def whole(door: ModuleType, client: Dialect, answer: Completion) -> Completion:
    body = door.whole(answer, door.parse(question(door)), "1")
    return client.completion(json.loads(json.dumps(body)), model="m")


def streamed(door: ModuleType, client: Dialect, answer: Completion) -> Completion:
    encoder = door.encoder(door.parse(question(door)), "m", "1")
    raw = encoder.start() + b"".join(map(encoder.of, events(answer)))
    deltas = client.deltas("m")
    said: list[Event] = []
    for line in raw.decode().splitlines():
        if line.startswith("data: {"):
            said += deltas.feed(json.loads(line[6:]))
    text = "".join(event.text for event in said if isinstance(event, TextDelta))
    assert text == answer.text
    return deltas.done().completion


def question(door: ModuleType) -> bytes:
    asking = {"input": "hi"} if door is responses else {"messages": [user_turn()]}
    limit = {"max_tokens": 99} if door is messages else {}
    options = {"stream_options": {"include_usage": True}} if door is chat else {}
    return json.dumps({"model": "m"} | asking | limit | options).encode()


def user_turn() -> dict[str, str]:
    return {"role": "user", "content": "hi"}


@both
@pytest.mark.parametrize("way", [whole, streamed])
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_an_answer_arrives(
    door: ModuleType,
    client: Dialect,
    way: Callable[[ModuleType, Dialect, Completion], Completion],
    answer: Completion,
) -> None:
    read = way(door, client, answer)
    assert read.text == answer.text
    assert read.message.tool_calls == answer.message.tool_calls
    assert read.message.thought == answer.message.thought
    finish: FinishReason = answer.finish_reason
    assert read.finish_reason == finish
    assert read.usage == answer.usage


@pytest.mark.parametrize("way", [whole, streamed])
def test_seals_arrive_where_the_dialect_has_them(
    way: Callable[[ModuleType, Dialect, Completion], Completion],
) -> None:
    thoughts = (Reasoning("hm", signature="seal"), Reasoning(redacted="hidden"))
    said = Message("assistant", (Text("4"),), reasoning=thoughts)
    answer = Completion("m", said, usage=Usage(10, 3))
    assert way(*PAIRS["messages"], answer).message == said


@pytest.mark.parametrize("way", [whole, streamed])
@pytest.mark.parametrize("name", ["chat", "responses"])
def test_cited_sources_arrive(
    name: str, way: Callable[[ModuleType, Dialect, Completion], Completion]
) -> None:
    source = Source("https://a.example/x", "X")
    answer = Completion("m", assistant("see https://a.example/x"), sources=(source,))
    assert way(*PAIRS[name], answer).sources == (source,)


@pytest.mark.parametrize(
    "thought",
    [
        Reasoning("hm"),
        Reasoning("hm", signature="seal"),
        Reasoning(signature="seal"),
        Reasoning(redacted="hidden"),
    ],
)
@pytest.mark.parametrize("door", [responses, messages], ids=["responses", "messages"])
def test_a_thought_that_went_out_comes_back_in(door: ModuleType, thought: Reasoning) -> None:
    """Through a client that keeps the answer, whole or streamed, and sends it as history."""
    said = Message("assistant", (Text("4"),), reasoning=(thought,))
    answer = Completion("m", said)
    raw = door.parse(question(door))
    if door is messages:
        content = door.whole(answer, raw, "1")["content"]
        turns = [user_turn(), {"role": "assistant", "content": content}, user_turn()]
        body: dict[str, Any] = {"model": "m", "max_tokens": 9, "messages": turns}
        assert door.parse(json.dumps(body).encode()).request.messages[1] == said
        return
    encoder = door.encoder(raw, "m", "1")
    lines = b"".join(map(encoder.of, events(answer))).decode().splitlines()
    final = json.loads(lines[-2].removeprefix("data: "))["response"]["output"]
    for output in (final, door.whole(answer, raw, "1")["output"]):
        body = {"model": "m", "input": output}
        assert door.parse(json.dumps(body).encode()).request.messages == (said,)
