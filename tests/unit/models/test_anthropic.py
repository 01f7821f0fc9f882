"""The messages dialect, written after Anthropic's public API reference."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import FusionError, UpstreamError
from models.flagship.anthropic import MAX_TOKENS, Anthropic
from models.messages import (
    Completion,
    Event,
    Image,
    Message,
    Named,
    Reasoning,
    ReasoningDelta,
    Request,
    ResponseFormat,
    Sampling,
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
from models.spec import AnthropicModel

FIND = Tool("find", "Finds.", {"properties": {"q": {"type": "string"}}})


def dialect(**spec: Any) -> Anthropic:
    return Anthropic(AnthropicModel(engine="anthropic", **spec))


def payload(*messages: Message, spec: Any = None, **fields: Any) -> dict[str, Any]:
    request = Request("ignored", messages or (user("Hello"),), **fields)
    return dialect(**(spec or {})).payload(request, model="claude", stream=False)


def said(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


# What goes out


def test_a_plain_question() -> None:
    assert payload(system("Be brief."), user("Hello")) == {
        "model": "claude",
        "system": "Be brief.",
        "messages": [{"role": "user", "content": [said("Hello")]}],
        "max_tokens": MAX_TOKENS,
        "stream": False,
    }


def test_a_later_instruction_stays_in_its_place() -> None:
    body = payload(system("a"), Message("developer", (Text("b"),)), user("c"), system("d"))
    assert body["system"] == "a\n\nb"
    assert body["messages"] == [{"role": "user", "content": [said("c"), said("d")]}]


def test_sampling() -> None:
    body = payload(
        sampling=Sampling(temperature=1.5, top_p=0.9, max_tokens=7, stop=("END",), seed=1)
    )
    assert (body["temperature"], body["top_p"], body["max_tokens"]) == (1.0, 0.9, 7)
    assert body["stop_sequences"] == ["END"]
    assert "seed" not in body


@pytest.mark.parametrize(
    ("url", "source"),
    [
        (
            "data:image/png;base64,AAAA",
            {"type": "base64", "media_type": "image/png", "data": "AAAA"},
        ),
        ("https://x/y.png", {"type": "url", "url": "https://x/y.png"}),
    ],
)
def test_images(url: str, source: dict[str, str]) -> None:
    body = payload(Message("user", (Text("what"), Image(url))))
    assert body["messages"][0]["content"] == [said("what"), {"type": "image", "source": source}]


def test_parallel_calls_and_their_results() -> None:
    calls = (ToolCall("c.1", "find", '{"q":1}'), ToolCall("c2", "find", "not json"))
    body = payload(
        user("Look."),
        Message("assistant", (Text("One moment."),), tool_calls=calls),
        Message("tool", (Text("one"),), tool_call_id="c.1"),
        Message("tool", (), tool_call_id="c2", is_error=True),
        user("Well?"),
        tools=(FIND,),
    )
    assert body["messages"][1:] == [
        {
            "role": "assistant",
            "content": [
                said("One moment."),
                {"type": "tool_use", "id": "c_1", "name": "find", "input": {"q": 1}},
                {
                    "type": "tool_use",
                    "id": "c2",
                    "name": "find",
                    "input": {"arguments": "not json"},
                },
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c_1", "content": [said("one")]},
                {"type": "tool_result", "tool_use_id": "c2", "content": [], "is_error": True},
                said("Well?"),
            ],
        },
    ]
    assert body["tools"] == [
        {
            "name": "find",
            "description": "Finds.",
            "input_schema": {"type": "object", "properties": {"q": {"type": "string"}}},
        }
    ]


def test_results_come_first_in_their_turn() -> None:
    body = payload(
        Message("assistant", tool_calls=(ToolCall("c1", "find", "{}"),)),
        user("Meanwhile"),
        Message("tool", (Text("one"),), tool_call_id="c1"),
    )
    assert [block["type"] for block in body["messages"][1]["content"]] == ["tool_result", "text"]


@pytest.mark.parametrize(
    ("choice", "parallel", "out"),
    [
        (None, None, None),
        ("auto", True, {"type": "auto"}),
        ("required", None, {"type": "any"}),
        ("none", False, {"type": "none"}),
        (Named("find"), False, {"type": "tool", "name": "find", "disable_parallel_tool_use": True}),
        (None, False, {"type": "auto", "disable_parallel_tool_use": True}),
    ],
)
def test_the_choice_of_tool(choice: Any, parallel: Any, out: Any) -> None:
    body = payload(tools=(FIND,), tool_choice=choice, parallel_tool_calls=parallel)
    assert body.get("tool_choice") == out


def test_the_shape_of_the_answer() -> None:
    schema = {"type": "object", "additionalProperties": False}
    body = payload(response_format=ResponseFormat("json_schema", "n", schema))
    assert body["output_config"] == {"format": {"type": "json_schema", "schema": schema}}
    body = payload(system("Be brief."), user("x"), response_format=ResponseFormat("json_object"))
    assert body["system"].startswith("Be brief.\n\nAnswer with one JSON object")


def test_effort() -> None:
    body = payload(effort="high", sampling=Sampling(temperature=0.2, max_tokens=9000))
    assert body["thinking"] == {"type": "adaptive"}
    assert body["output_config"] == {"effort": "high"}
    assert "temperature" not in body
    assert payload(effort="none")["thinking"] == {"type": "disabled"}
    assert payload(effort="none", sampling=Sampling(temperature=0.2))["temperature"] == 0.2


@pytest.mark.parametrize(
    ("limit", "thinking"),
    [
        (100_000, {"type": "enabled", "budget_tokens": 16384}),
        # A quarter is left for the answer.
        (2000, {"type": "enabled", "budget_tokens": 1500}),
        (1300, None),
    ],
)
def test_effort_as_a_budget(limit: int, thinking: Any) -> None:
    body = payload(effort="high", sampling=Sampling(max_tokens=limit), spec={"thinking": "budget"})
    assert body.get("thinking") == thinking
    assert "output_config" not in body


@pytest.mark.parametrize("thinking", ["adaptive", "budget"])
@pytest.mark.parametrize(
    ("choice", "thinks"),
    [("auto", True), (None, True), ("required", False), (Named("find"), False)],
)
def test_who_must_call_a_tool_does_not_think_first(
    choice: Any, thinks: bool, thinking: str
) -> None:
    sampling = Sampling(temperature=0.2, max_tokens=9000)
    spec = {"thinking": thinking}
    body = payload(effort="low", tools=(FIND,), tool_choice=choice, sampling=sampling, spec=spec)
    assert ("thinking" in body) is thinks
    assert ("temperature" in body) is not thinks


@pytest.mark.parametrize(
    ("answer", "thinks"),
    [
        (Message("assistant", tool_calls=(ToolCall("c1", "find", "{}"),)), False),
        (
            Message(
                "assistant",
                tool_calls=(ToolCall("c1", "find", "{}"),),
                reasoning=(Reasoning("Hm.", "sig"),),
            ),
            True,
        ),
        (assistant("No call."), True),
    ],
)
def test_with_a_budget_it_thinks_on_only_where_its_thoughts_are_known(
    answer: Message, thinks: bool
) -> None:
    messages = (user("a"), answer, Message("tool", (Text("b"),), tool_call_id="c1"))
    for spec, expected in (({"thinking": "budget"}, thinks), ({}, True)):
        body = payload(
            *messages, effort="low", tools=(FIND,), sampling=Sampling(max_tokens=9000), spec=spec
        )
        assert ("thinking" in body) is expected


def test_text_of_white_space_alone_is_left_out() -> None:
    body = payload(
        system(" \n"),
        Message("system", (Text(" ", cache="5m"), Text("Be brief.", cache="5m"))),
        user("a"),
        Message("assistant", (Text("\n\n"),), tool_calls=(ToolCall("c1", "find", "{}"),)),
        Message("tool", (Text(" "),), tool_call_id="c1"),
    )
    assert [part["text"] for part in body["system"]] == ["Be brief."]
    _, called, result = body["messages"]
    assert [block["type"] for block in called["content"]] == ["tool_use"]
    assert result["content"][0]["content"] == []
    assert "system" not in payload(system(" \n"), user("a"))


def test_the_shape_goes_out_in_the_part_of_the_language_that_it_takes() -> None:
    word = {"type": "string", "maxLength": 5}
    schema = {"type": "object", "properties": {"a": word}, "required": ["a"]}
    body = payload(response_format=ResponseFormat("json_schema", "n", schema))
    sent = body["output_config"]["format"]["schema"]
    assert sent["additionalProperties"] is False
    assert "maxLength" not in sent["properties"]["a"]
    assert "system" not in body


def test_a_shape_that_it_cannot_be_held_to_is_told_in_words() -> None:
    schema = {"type": "object", "additionalProperties": {"type": "integer"}}
    body = payload(response_format=ResponseFormat("json_schema", "n", schema))
    assert "output_config" not in body
    assert json.dumps(schema) in body["system"]


def test_a_strict_tool_is_reduced_and_another_is_not() -> None:
    word = {"type": "object", "properties": {"q": {"type": "string", "maxLength": 5}}}
    strict, loose, open_ = payload(
        tools=(
            Tool("a", parameters=word, strict=True),
            Tool("b", parameters=word),
            Tool("c", strict=True),
        )
    )["tools"]
    assert (strict["strict"], "maxLength" in strict["input_schema"]["properties"]["q"]) == (
        True,
        False,
    )
    assert loose["input_schema"] == word
    assert open_["strict"] is False


# What comes back

USAGE = {
    "input_tokens": 4,
    "cache_read_input_tokens": 5,
    "cache_creation_input_tokens": 6,
    "output_tokens": 8,
    "output_tokens_details": {"thinking_tokens": 3},
}
THOUGHT = {"type": "thinking", "thinking": "Hm.", "signature": "sig=="}
HIDDEN = {"type": "redacted_thinking", "data": "xyz"}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "find", "input": {"q": 1}}


def message(*content: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": "msg_1", "content": list(content), "usage": USAGE, **more}


def read(body: dict[str, Any]) -> Completion:
    return dialect().completion(body, model="big")


def test_an_answer() -> None:
    done = read(message(THOUGHT, HIDDEN, said("Hello."), stop_reason="end_turn"))
    assert (done.model, done.text, done.finish_reason) == ("big", "Hello.", "stop")
    assert done.message.reasoning == (Reasoning("Hm.", "sig=="), Reasoning(redacted="xyz"))
    assert done.usage == Usage(15, 8, cached=5, reasoning=3, cache_written=6)
    assert done.request_id == "msg_1"


def test_sealed_thoughts_go_back_as_they_came_and_first() -> None:
    answer = read(message(THOUGHT, HIDDEN, CALL, stop_reason="tool_use")).message
    assert payload(user("a"), answer)["messages"][1]["content"] == [THOUGHT, HIDDEN, CALL]


def test_another_providers_thought_stays_here() -> None:
    thoughts = (Reasoning("a", "openai:rs_1:gAAA"), Reasoning("b"))
    answer = Message("assistant", (Text("Hi."),), reasoning=thoughts)
    assert payload(user("a"), answer)["messages"][1]["content"] == [said("Hi.")]


def test_tool_calls() -> None:
    done = read(message(CALL, CALL | {"id": "toolu_2", "input": {}}, stop_reason="tool_use"))
    assert done.finish_reason == "tool_calls"
    assert done.message.tool_calls == (
        ToolCall("toolu_1", "find", '{"q": 1}'),
        ToolCall("toolu_2", "find", "{}"),
    )


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "content_filter"),
        ("pause_turn", "stop"),
        ("something new", "stop"),
    ],
)
def test_why_it_ended(reason: str, finish: str) -> None:
    assert read(message(said("x"), stop_reason=reason)).finish_reason == finish


def test_the_text_that_ended_it() -> None:
    done = read(message(said("x"), stop_reason="stop_sequence", stop_sequence="END"))
    assert (done.finish_reason, done.stop_sequence) == ("stop", "END")


# A stream


def listen(*chunks: dict[str, Any]) -> tuple[list[Event], Completion]:
    deltas = dialect().deltas("big")
    events = [event for chunk in chunks for event in deltas.feed(chunk)]
    return events, deltas.done().completion


def start(index: int, block: dict[str, Any]) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def piece(index: int, **delta: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": delta}


STREAM: tuple[dict[str, Any], ...] = (
    {"type": "message_start", "message": message(usage=USAGE | {"output_tokens": 1})},
    {"type": "ping"},
    start(0, {"type": "thinking", "thinking": "", "signature": ""}),
    piece(0, type="thinking_delta", thinking="Hm."),
    piece(0, type="signature_delta", signature="sig"),
    piece(0, type="signature_delta", signature="=="),
    {"type": "content_block_stop", "index": 0},
    start(1, HIDDEN),
    start(2, {"type": "text", "text": ""}),
    piece(2, type="text_delta", text="Hel"),
    piece(2, type="text_delta", text="lo."),
    start(3, CALL | {"input": {}}),
    piece(3, type="input_json_delta", partial_json='{"q"'),
    piece(3, type="input_json_delta", partial_json=": 1}"),
    start(4, {"type": "tool_use", "id": "toolu_2", "name": "find", "input": {}}),
    {
        "type": "message_delta",
        "delta": {"stop_reason": "tool_use"},
        "usage": {"output_tokens": 8, "input_tokens": None},
    },
    {"type": "message_stop"},
)


def test_a_stream_is_the_whole_answer_in_pieces() -> None:
    events, done = listen(*STREAM)
    assert events == [
        ReasoningDelta("Hm."),
        ReasoningDelta(signature="sig=="),
        ReasoningDelta(redacted="xyz"),
        TextDelta("Hel"),
        TextDelta("lo."),
        ToolCallDelta(0, "", "toolu_1", "find"),
        ToolCallDelta(0, '{"q"'),
        ToolCallDelta(0, ": 1}"),
        ToolCallDelta(1, "", "toolu_2", "find"),
    ]
    second = {"type": "tool_use", "id": "toolu_2", "name": "find", "input": {}}
    blocks = (THOUGHT, HIDDEN, said("Hello."), CALL, second)
    assert done == read(message(*blocks, stop_reason="tool_use"))


def test_it_knows_its_end() -> None:
    deltas = dialect().deltas("big")
    ended = []
    for chunk in STREAM:
        list(deltas.feed(chunk))
        ended.append(deltas.ended)
    assert ended == [False] * (len(STREAM) - 1) + [True]


def test_a_stream_that_breaks_off_is_no_answer() -> None:
    with pytest.raises(UpstreamError, match="broke off"):
        listen(*STREAM[:-2])


# Whatever comes

NAMES = st.sampled_from(
    ["type", "content", "content_block", "delta", "index", "message", "usage", "text", "input"]
)
WORDS = st.sampled_from(
    [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "message_delta",
        "message_stop",
        "tool_use",
        "thinking",
        "text",
    ]
)
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(NAMES, JUNK, max_size=6)


@given(OBJECTS)
def test_any_body_is_an_answer_or_one_of_our_errors(body: dict[str, Any]) -> None:
    with contextlib.suppress(FusionError):
        read(body)


@given(st.lists(OBJECTS, max_size=6))
def test_any_stream_is_an_answer_or_one_of_our_errors(chunks: list[dict[str, Any]]) -> None:
    with contextlib.suppress(FusionError):
        listen(*chunks)


def test_arguments_are_json_again_after_a_round_trip() -> None:
    answer = read(message(CALL)).message
    block = payload(user("a"), answer)["messages"][1]["content"][0]
    assert block["input"] == json.loads(answer.tool_calls[0].arguments)


def test_a_whole_conversation_keeps_its_order() -> None:
    body = payload(user("a"), assistant("b"), user("c"))
    assert [turn["role"] for turn in body["messages"]] == ["user", "assistant", "user"]
