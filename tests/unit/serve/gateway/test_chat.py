"""OpenAI's chat dialect, both ways."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from doorway import Doorway
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from models.errors import BadRequest, FusionError, Unsupported
from models.messages import (
    Completion,
    Done,
    Image,
    Message,
    Named,
    Progress,
    Reasoning,
    ReasoningDelta,
    Stage,
    Text,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    Usage,
    assistant,
)
from serve.dialects import chat
from serve.dialects.chat.request import Body
from serve.dialects.dialect import Asked
from serve.dialects.extension import cost

HELLO: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


def parse(**changes: Any) -> Asked:
    return chat.parse(json.dumps(HELLO | changes).encode())


def test_every_role_and_part_arrives() -> None:
    asked = parse(
        messages=[
            {"role": "system", "content": "be brief"},
            {"role": "developer", "content": [{"type": "text", "text": "be kind"}]},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "what is this?"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}},
                ],
            },
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "42"},
        ]
    )
    first, second, third, fourth, fifth = asked.request.messages
    assert (first.role, first.text) == ("system", "be brief")
    assert second == Message("developer", (Text("be kind"),))
    assert third.content == (Text("what is this?"), Image("data:image/png;base64,AA"))
    assert fourth.tool_calls == (ToolCall("c1", "f", "{}"),)
    assert (fifth.tool_call_id, fifth.text) == ("c1", "42")


def test_an_answer_sent_back_as_history_is_understood() -> None:
    answer = Completion("m", assistant("hi"), usage=Usage(1, 1))
    sent = chat.whole(answer, parse(), "id")["choices"][0]["message"]
    again = parse(messages=[HELLO["messages"][0], sent, {"role": "user", "content": "more"}])
    assert again.request.messages[1] == assistant("hi")


class Place(BaseModel):
    at: str


@pytest.mark.parametrize("stream", [False, True])
def test_calls_that_the_client_has_parsed_go_back_in(doorway: Doorway, stream: bool) -> None:
    """The official client's loop: its helpers leave words of their own on each call."""
    look = openai.pydantic_function_tool(Place, name="look")
    model = doorway.says(Message("assistant", tool_calls=(ToolCall("c1", "look", '{"at":"x"}'),)))
    turns: list[Any] = [{"role": "user", "content": "hi"}]
    completions = doorway.openai.chat.completions
    if stream:
        with completions.stream(model="m", messages=turns, tools=[look]) as events:
            said = events.get_final_completion().choices[0].message
    else:
        said = completions.parse(model="m", messages=turns, tools=[look]).choices[0].message
    assert said.tool_calls
    assert said.tool_calls[0].function.parsed_arguments == Place(at="x")
    turns += [said, {"role": "tool", "tool_call_id": "c1", "content": "a cat"}]
    completions.create(model="m", messages=turns, tools=[look])
    _, called, found = model.calls[-1][0].messages
    assert called.tool_calls == (ToolCall("c1", "look", '{"at":"x"}'),)
    assert found.text == "a cat"


def test_an_empty_result_of_a_tool_is_something() -> None:
    [result] = parse(
        messages=[{"role": "tool", "tool_call_id": "c", "content": ""}]
    ).request.messages
    assert (result.tool_call_id, result.content) == ("c", ())


def test_texts_that_say_nothing_are_left_out() -> None:
    parts = [{"type": "text", "text": ""}, {"type": "text", "text": "x"}]
    [said] = parse(messages=[{"role": "user", "content": parts}]).request.messages
    assert said.content == (Text("x"),)
    with pytest.raises(BadRequest, match="empty"):
        parse(messages=[{"role": "user", "content": parts[:1]}])


@pytest.mark.parametrize(
    "refusal",
    [
        {"content": None, "refusal": "no"},
        {"content": [{"type": "refusal", "refusal": "no"}]},
    ],
)
def test_a_refusal_is_read_as_text(refusal: dict[str, Any]) -> None:
    asked = parse(messages=[{"role": "assistant", **refusal}, *HELLO["messages"]])
    assert asked.request.messages[0] == assistant("no")


def test_the_most_effort_is_our_highest() -> None:
    assert parse(reasoning_effort="max").request.effort == "xhigh"
    assert parse(reasoning={"effort": "max"}).request.effort == "xhigh"


def test_both_names_of_the_limit_and_both_forms_of_stop() -> None:
    sampling = parse(max_tokens=5, max_completion_tokens=7, stop="x").request.sampling
    assert (sampling.max_tokens, sampling.stop) == (7, ("x",))
    assert parse(max_tokens=5, stop=["a", "b"]).request.sampling.stop == ("a", "b")


def test_a_named_tool_choice() -> None:
    tool = {"type": "function", "function": {"name": "look"}}
    asked = parse(tools=[tool], tool_choice=tool)
    assert asked.request.tool_choice == Named("look")
    assert asked.request.tools[0].parameters == {"type": "object", "properties": {}}


def test_a_function_may_be_called_like_a_mode() -> None:
    tool = {"type": "function", "function": {"name": "auto"}}
    assert parse(tools=[tool], tool_choice=tool).request.tool_choice == Named("auto")
    assert parse(tools=[tool], tool_choice="auto").request.tool_choice == "auto"


def test_a_choice_of_a_tool_that_is_not_there_is_refused() -> None:
    here, gone = ({"type": "function", "function": {"name": name}} for name in ("here", "gone"))
    for tools, choice in (([here], gone), ([], gone), ([], "required")):
        with pytest.raises(BadRequest) as caught:
            parse(tools=tools, tool_choice=choice)
        assert caught.value.param == "tool_choice"


@pytest.mark.parametrize("depth", [100, 250, 100_000])
def test_json_of_any_depth_is_a_request_or_a_clear_400(depth: int) -> None:
    deep = b'{"a":' * depth + b"1" + b"}" * depth
    tool = b'{"type":"function","function":{"name":"f","parameters":' + deep + b"}}"
    raw = b'{"model":"m","messages":[{"role":"user","content":"x"}],"tools":[' + tool + b"]}"
    try:
        assert chat.parse(raw).request.tools
    except BadRequest as error:
        assert "JSON" in error.message


@pytest.mark.parametrize(
    "harmless",
    [
        {"n": 1},
        {"logprobs": False},
        {"logit_bias": {}},
        {"store": True},
        {"user": "u"},
        {"prompt_cache_key": "k"},
        {"prompt_cache_retention": "24h"},
        {"safety_identifier": "s"},
        {"verbosity": "medium"},
        {"modalities": ["text"]},
    ],
)
def test_what_changes_nothing_is_accepted(harmless: dict[str, Any]) -> None:
    assert parse(**harmless).request == parse().request


@pytest.mark.parametrize(
    "asked",
    [
        {"n": 3},
        {"logprobs": True},
        {"logit_bias": {"1": 2}},
        {"verbosity": "low"},
        {"modalities": ["text", "audio"]},
        {"audio": {"voice": "alloy", "format": "wav"}},
        {"prediction": {"type": "content", "content": "x"}},
        {"web_search_options": {}},
        {"functions": [{"name": "f"}]},
        {"function_call": "auto"},
    ],
)
def test_what_would_change_the_answer_is_refused_by_name(asked: dict[str, Any]) -> None:
    with pytest.raises(Unsupported) as caught:
        parse(**asked)
    assert caught.value.param == next(iter(asked))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_a_clear_400(raw: bytes) -> None:
    try:
        chat.parse(raw)
    except BadRequest as error:
        assert error.message


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(
        st.sampled_from(sorted(Body.model_fields)),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.text(max_size=5), inner, max_size=3)
            ),
            max_leaves=5,
        ),
    )
)
def test_any_json_is_a_request_or_a_clear_400(body: dict[str, Any]) -> None:
    try:
        chat.parse(json.dumps(HELLO | body).encode())
    except FusionError as error:
        assert error.status == 400


ANSWER = Completion(
    "small",
    assistant("hello there"),
    usage=Usage(10, 2, cached=4),
    stages=(
        Stage("panelist", "a", Usage(5, 1), 0.5, 1_500_000, member="a#2"),
        Stage("panelist", "b", error="gone"),
    ),
    extension={"panel": "default", "responses": [{"model": "a", "content": "x"}]},
)


def test_a_completion_sums_cost_and_hides_the_panel_unless_asked() -> None:
    body = chat.whole(ANSWER, parse(), "chatcmpl-1")
    assert body["usage"] == {
        "prompt_tokens": 10,
        "completion_tokens": 2,
        "total_tokens": 12,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
    assert body["fusion"]["cost_usd"] == "0.0015"
    assert body["fusion"]["panel"] == "default"
    assert "responses" not in body["fusion"]
    shown = chat.whole(ANSWER, parse(fusion={"expose_panel": True}), "chatcmpl-1")
    assert shown["fusion"]["responses"] == ANSWER.extension["responses"]


def test_the_cost_is_unknown_when_a_stage_that_ran_has_no_price() -> None:
    assert cost((Stage("answer", "a", nano_usd=5), Stage("answer", "b"))) is None
    assert cost((Stage("answer", "a", nano_usd=5), Stage("answer", "b", error="x"))) is not None


def test_chunks_of_tool_calls_and_the_end() -> None:
    chunks = chat.encoder(parse(stream_options={"include_usage": True}), "m", "id")
    [first] = chunks.chunks(ToolCallDelta(0, '{"a', id="c1", name="f"))
    [second] = chunks.chunks(ToolCallDelta(0, '": 1}'))
    assert first["choices"][0]["delta"]["tool_calls"][0] == {
        "index": 0,
        "id": "c1",
        "type": "function",
        "function": {"name": "f", "arguments": '{"a'},
    }
    assert "id" not in second["choices"][0]["delta"]["tool_calls"][0]
    last, usage = chunks.chunks(Done(ANSWER))
    assert (last["choices"][0]["finish_reason"], last["model"]) == ("stop", "small")
    assert (usage["choices"], usage["usage"]["total_tokens"]) == ([], 12)


def test_a_streamed_call_without_arguments_ends_as_an_empty_object() -> None:
    chunks = chat.encoder(parse(), "m", "id")
    pieces = [
        ToolCallDelta(0, id="c1", name="now"),
        ToolCallDelta(0, ""),
        ToolCallDelta(1, id="c2", name="look"),
        ToolCallDelta(1, '{"at": 1}'),
        Done(ANSWER),
    ]
    told = ["", ""]
    for chunk in (chunk for piece in pieces for chunk in chunks.chunks(piece)):
        for call in chunk["choices"][0]["delta"].get("tool_calls", ()):
            told[call["index"]] += call["function"]["arguments"]
    assert told == ["{}", '{"at": 1}']


def test_progress_is_shown_only_to_those_who_ask() -> None:
    step = Progress("panel.completed", {"model": "a"})
    assert list(chat.encoder(parse(), "m", "id").chunks(step)) == []
    [chunk] = chat.encoder(parse(fusion={"events": True}), "m", "id").chunks(step)
    assert chunk["fusion"] == {"event": "panel.completed", "model": "a"}
    [text] = chat.encoder(parse(), "m", "id").chunks(TextDelta("x"))
    assert text["choices"][0]["delta"] == {"content": "x"}


def test_what_a_model_thinks_is_kept_apart_both_ways() -> None:
    asked = parse(
        reasoning_effort="low",
        messages=[
            {"role": "assistant", "content": "4", "reasoning_content": "2+2"},
            {"role": "user", "content": "sure?"},
        ],
    )
    assert asked.request.effort == "low"
    assert asked.request.messages[0].thought == "2+2"
    answer = Completion("m", Message("assistant", (Text("4"),), reasoning=(Reasoning("2+2"),)))
    told = chat.whole(answer, asked, "id")["choices"][0]["message"]
    assert (told["content"], told["reasoning_content"]) == ("4", "2+2")
    (chunk,) = chat.encoder(asked, "m", "id").chunks(ReasoningDelta("2+"))
    assert chunk["choices"][0]["delta"] == {"reasoning_content": "2+"}


def test_effort_in_openrouters_form() -> None:
    assert parse(reasoning={"effort": "high"}).request.effort == "high"
    assert parse(reasoning={"max_tokens": 8000}).request.effort == "medium"
    assert parse(reasoning={"enabled": False}).request.effort == "none"
    with pytest.raises(BadRequest, match="not both"):
        parse(reasoning={"effort": "high"}, reasoning_effort="low")


def test_an_effort_that_nobody_knows_is_refused() -> None:
    with pytest.raises(BadRequest, match="reasoning_effort"):
        parse(reasoning_effort="enormous")
