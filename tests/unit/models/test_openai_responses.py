"""The responses dialect, written after OpenAI's public API reference."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import FusionError, Overloaded, Unsupported, UpstreamError
from models.flagship.openai_responses import OpenAIResponses
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
from models.spec import OpenAIResponsesModel

CLOSED = {"type": "object", "additionalProperties": False}
FIND = Tool("find", "Finds.", {"type": "object", "properties": {}})


def dialect(**spec: Any) -> OpenAIResponses:
    return OpenAIResponses(OpenAIResponsesModel(engine="openai-responses", **spec))


def payload(*messages: Message, stream: bool = False, **fields: Any) -> dict[str, Any]:
    spec = fields.pop("spec", {})
    request = Request("ignored", messages or (user("Hello"),), **fields)
    return dialect(**spec).payload(request, model="gpt", stream=stream)


# What goes out


def test_a_plain_question() -> None:
    assert payload(system("Be brief."), user("Hello")) == {
        "model": "gpt",
        "input": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hello"},
        ],
        "stream": False,
        "store": False,
        "include": ["reasoning.encrypted_content"],
    }


def test_sampling_and_effort() -> None:
    body = payload(
        sampling=Sampling(temperature=0.5, top_p=0.9, max_tokens=7, seed=1, presence_penalty=1),
        effort="high",
        spec={"summaries": True},
    )
    assert (body["temperature"], body["top_p"], body["max_output_tokens"]) == (0.5, 0.9, 7)
    assert body["reasoning"] == {"effort": "high", "summary": "auto"}
    assert "seed" not in body


@pytest.mark.parametrize(
    ("model", "reasons"),
    [
        ("gpt-5", True),
        ("o4-mini", True),
        ("gpt-5-mini", True),
        ("gpt-4o", False),
        ("gpt-4.1-mini", False),
        ("gpt-3.5-turbo", False),
        ("gpt-5-chat-latest", False),
        ("gpt-5.1-chat-latest", False),
    ],
)
def test_only_models_that_reason_are_asked_for_sealed_thoughts(model: str, reasons: bool) -> None:
    body = dialect().payload(Request("x", (user("a"),)), model=model, stream=False)
    assert ("include" in body) is reasons


def test_a_tool_is_strict_only_where_its_schema_can_be() -> None:
    tools = (Tool("a", parameters=CLOSED, strict=True), Tool("b", parameters={}, strict=True))
    open_ = Tool("c", parameters={"type": "object"}, strict=True)
    sent = payload(tools=(*tools, open_))["tools"]
    assert [tool["strict"] for tool in sent] == [True, True, False]


def test_what_it_cannot_say_is_refused() -> None:
    with pytest.raises(Unsupported) as caught:
        payload(sampling=Sampling(stop=("END",)))
    assert caught.value.param == "stop"


def test_an_image_stands_between_the_texts() -> None:
    body = payload(Message("user", (Text("a"), Image("https://x/y.png", "low"), Text("b"))))
    assert body["input"][0]["content"] == [
        {"type": "input_text", "text": "a"},
        {"type": "input_image", "image_url": "https://x/y.png", "detail": "low"},
        {"type": "input_text", "text": "b"},
    ]


def test_parallel_calls_and_their_results_are_items() -> None:
    calls = (ToolCall("c1", "find", '{"q":1}'), ToolCall("c2", "find", "{}"))
    body = payload(
        user("Look."),
        Message("assistant", (Text("One moment."),), tool_calls=calls),
        Message("tool", (Text("one"),), tool_call_id="c1"),
        Message("tool", (Text("two"),), tool_call_id="c2"),
        tools=(FIND,),
        tool_choice=Named("find"),
        parallel_tool_calls=True,
    )
    assert body["input"][1:] == [
        {"role": "assistant", "content": "One moment."},
        {"type": "function_call", "call_id": "c1", "name": "find", "arguments": '{"q":1}'},
        {"type": "function_call", "call_id": "c2", "name": "find", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "one"},
        {"type": "function_call_output", "call_id": "c2", "output": "two"},
    ]
    assert body["tools"] == [
        {
            "type": "function",
            "name": "find",
            "description": "Finds.",
            "parameters": FIND.parameters,
            "strict": False,
        }
    ]
    assert body["tool_choice"] == {"type": "function", "name": "find"}
    assert body["parallel_tool_calls"] is True


@pytest.mark.parametrize(
    ("wanted", "out"),
    [
        (ResponseFormat("text"), None),
        (ResponseFormat("json_object"), {"format": {"type": "json_object"}}),
        (
            ResponseFormat("json_schema", "n", CLOSED, strict=True),
            {"format": {"type": "json_schema", "name": "n", "schema": CLOSED, "strict": True}},
        ),
        (
            ResponseFormat("json_schema", "n", {"type": "object"}, strict=True),
            {
                "format": {
                    "type": "json_schema",
                    "name": "n",
                    "schema": {"type": "object"},
                    # With it the answer would be a certain 400.
                    "strict": False,
                }
            },
        ),
    ],
)
def test_the_shape_of_the_answer(wanted: ResponseFormat, out: Any) -> None:
    assert payload(response_format=wanted).get("text") == out


# What comes back

REASONING = {
    "type": "reasoning",
    "id": "rs_1",
    "summary": [{"type": "summary_text", "text": "Let me see."}],
    "encrypted_content": "gAAA:x",
}
CALL = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "find", "arguments": "{}"}
SAID = {"type": "message", "content": [{"type": "output_text", "text": "Hello."}]}
USAGE = {
    "input_tokens": 10,
    "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2},
    "output_tokens": 8,
    "output_tokens_details": {"reasoning_tokens": 5},
}


def response(*output: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": "resp_1", "status": "completed", "output": list(output), "usage": USAGE, **more}


def read(body: dict[str, Any]) -> Completion:
    return dialect().completion(body, model="big")


def test_an_answer() -> None:
    done = read(response(REASONING, SAID))
    assert (done.model, done.text, done.finish_reason) == ("big", "Hello.", "stop")
    assert done.message.reasoning == (Reasoning("Let me see.", "openai:rs_1:gAAA:x"),)
    assert done.usage == Usage(10, 8, cached=4, reasoning=5, cache_written=2)
    assert done.request_id == "resp_1"


def test_a_sealed_thought_goes_back_as_it_came_and_before_the_calls() -> None:
    answer = read(response(REASONING, CALL)).message
    assert payload(user("Look."), answer)["input"][1:] == [
        REASONING,
        {"type": "function_call", "call_id": "c1", "name": "find", "arguments": "{}"},
    ]


def test_another_providers_thought_stays_here() -> None:
    thoughts = (Reasoning("a", "sig=="), Reasoning("b"), Reasoning(redacted="x"))
    message = Message("assistant", (Text("Hi."),), reasoning=thoughts)
    assert payload(message)["input"] == [{"role": "assistant", "content": "Hi."}]


def test_tool_calls() -> None:
    done = read(response(CALL, CALL | {"call_id": "c2", "arguments": '{"q":1}'}))
    assert done.finish_reason == "tool_calls"
    assert done.message.tool_calls == (
        ToolCall("c1", "find", "{}"),
        ToolCall("c2", "find", '{"q":1}'),
    )


@pytest.mark.parametrize(
    ("more", "finish"),
    [
        ({"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}, "length"),
        (
            {"status": "incomplete", "incomplete_details": {"reason": "content_filter"}},
            "content_filter",
        ),
    ],
)
def test_why_it_ended(more: dict[str, Any], finish: str) -> None:
    assert read(response(SAID, **more)).finish_reason == finish


def test_a_refusal_is_said_and_known_as_one() -> None:
    part = {"type": "refusal", "refusal": "I would rather not."}
    done = read(response({"type": "message", "content": [part]}))
    assert (done.text, done.finish_reason) == ("I would rather not.", "content_filter")


def test_its_sources() -> None:
    note = {"type": "url_citation", "url": "https://x", "title": "X"}
    part = {"type": "output_text", "text": "So.", "annotations": [note, {"type": "other"}]}
    assert read(response({"type": "message", "content": [part]})).sources == (
        Source("https://x", "X"),
    )


def test_a_failed_response_is_its_error() -> None:
    error = {"code": "rate_limit_exceeded", "message": "Slow."}
    with pytest.raises(Overloaded, match="Slow"):
        read(response(status="failed", error=error))


# A stream


def listen(*chunks: dict[str, Any]) -> tuple[list[Event], Completion]:
    deltas = dialect().deltas("big")
    events = [event for chunk in chunks for event in deltas.feed(chunk)]
    return events, deltas.done().completion


def item(place: int, what: str, body: dict[str, Any]) -> dict[str, Any]:
    return {"type": f"response.output_item.{what}", "output_index": place, "item": body}


STREAM: tuple[dict[str, Any], ...] = (
    {"type": "response.created", "response": {"id": "resp_1"}},
    item(0, "added", {"type": "reasoning"}),
    {"type": "response.reasoning_summary_text.delta", "output_index": 0, "delta": "Let me see."},
    item(0, "done", REASONING),
    item(1, "added", {"type": "message"}),
    {"type": "response.output_text.delta", "output_index": 1, "delta": "Hel"},
    {"type": "response.output_text.delta", "output_index": 1, "delta": "lo."},
    item(1, "done", SAID),
    item(2, "added", CALL | {"arguments": ""}),
    {"type": "response.function_call_arguments.delta", "output_index": 2, "delta": "{"},
    {"type": "response.function_call_arguments.delta", "output_index": 2, "delta": "}"},
    item(2, "done", CALL),
)


@pytest.mark.parametrize("repeats", [True, False])
def test_a_stream_is_the_whole_answer_in_pieces(repeats: bool) -> None:
    whole = response(REASONING, SAID, CALL)
    final = whole if repeats else whole | {"output": []}
    events, done = listen(*STREAM, {"type": "response.completed", "response": final})
    assert events == [
        ReasoningDelta("Let me see."),
        ReasoningDelta(signature="openai:rs_1:gAAA:x"),
        TextDelta("Hel"),
        TextDelta("lo."),
        ToolCallDelta(0, id="c1", name="find"),
        ToolCallDelta(0, "{"),
        ToolCallDelta(0, "}"),
    ]
    assert done == read(whole)


def test_a_call_may_come_in_one_piece() -> None:
    end = {"type": "response.completed", "response": response(CALL)}
    events, _ = listen(item(3, "done", CALL), end)
    assert events == [ToolCallDelta(0, id="c1", name="find"), ToolCallDelta(0, "{}")]


def test_it_knows_its_end() -> None:
    deltas = dialect().deltas("big")
    list(deltas.feed(STREAM[5]))
    assert not deltas.ended
    list(deltas.feed({"type": "response.incomplete", "response": response(SAID)}))
    assert deltas.ended


def test_a_stream_that_breaks_off_or_fails_is_no_answer() -> None:
    with pytest.raises(UpstreamError, match="broke off"):
        listen(*STREAM)
    failed = {"status": "failed", "error": {"code": "server_error", "message": "Ouch."}}
    with pytest.raises(UpstreamError, match="Ouch"):
        listen(*STREAM, {"type": "response.failed", "response": failed})


# Whatever comes

NAMES = st.sampled_from(
    ["type", "output", "content", "item", "response", "delta", "status", "usage", "error", "text"]
)
WORDS = st.sampled_from(
    [
        "message",
        "function_call",
        "reasoning",
        "response.completed",
        "response.failed",
        "response.output_item.done",
        "response.output_text.delta",
        "response.function_call_arguments.delta",
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


def test_a_whole_conversation_keeps_its_order() -> None:
    body = payload(user("a"), assistant("b"), user("c"))
    assert [turn["content"] for turn in body["input"]] == ["a", "b", "c"]
