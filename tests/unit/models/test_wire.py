from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import wire
from models.errors import (
    AccountRefused,
    BadRequest,
    ContextTooLong,
    DeadlineExceeded,
    FusionError,
    RateLimited,
    Refused,
    Unavailable,
    UpstreamError,
)
from models.messages import (
    Completion,
    Done,
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
    ToolChoice,
    Usage,
    assistant,
    system,
    user,
)

HELLO = Request("ignored", (user("Hello"),))


def payload(*, stream: bool = False, **fields: Any) -> dict[str, Any]:
    return wire.payload(
        Request(**{"model": "ignored", "messages": (user("Hello"),)} | fields),
        model="small",
        stream=stream,
    )


def sent(message: Message) -> Any:
    """A message as it goes out."""
    return payload(messages=(message,))["messages"][0]


# What goes out


def test_a_plain_question() -> None:
    assert wire.payload(HELLO, model="small", stream=False) == {
        "model": "small",
        "messages": [{"role": "user", "content": "Hello"}],
        "stream": False,
    }


def test_a_stream_asks_for_its_usage() -> None:
    assert payload(stream=True)["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    ("name", "value", "out"),
    [
        ("temperature", 0.0, 0.0),
        ("top_p", 0.9, 0.9),
        ("max_tokens", 7, 7),
        ("stop", ("a", "b"), ["a", "b"]),
        ("seed", 0, 0),
        ("presence_penalty", -0.5, -0.5),
        ("frequency_penalty", 0.5, 0.5),
    ],
)
def test_each_sampling_setting_goes_out_only_when_given(name: str, value: Any, out: Any) -> None:
    assert payload(sampling=Sampling(**{name: value})) == payload() | {name: out}


def test_roles_and_names() -> None:
    assert sent(system("Be brief.")) == {"role": "system", "content": "Be brief."}
    # DeepSeek, Qwen and others answer 400 to the newer word.
    assert sent(Message("developer", (Text("x"),)))["role"] == "system"
    assert sent(Message("user", (Text("x"),), name="ada"))["name"] == "ada"


def test_text_in_parts_is_one_text() -> None:
    assert sent(Message("user", (Text("a"), Text("b"))))["content"] == "ab"


def test_an_image_keeps_its_place_between_the_texts() -> None:
    image, plain = Image("https://x/y.png", detail="low"), Image("data:image/png;base64,AA==")
    assert sent(Message("user", (Text("a"), image, Text("b"), plain)))["content"] == [
        {"type": "text", "text": "a"},
        {"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "low"}},
        {"type": "text", "text": "b"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
    ]


def test_a_tool_call_and_its_result() -> None:
    asked = Message("assistant", tool_calls=(ToolCall("call_1", "add", '{"a": 1}'),))
    assert sent(asked) == {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "add", "arguments": '{"a": 1}'},
            }
        ],
    }
    result = Message("tool", (Text("2"),), tool_call_id="call_1")
    assert sent(result) == {"role": "tool", "content": "2", "tool_call_id": "call_1"}


def test_what_a_model_thought_goes_back_to_it_beside_what_it_said() -> None:
    message = Message("assistant", (Text("4"),), reasoning=(Reasoning("2+"), Reasoning("2")))
    assert sent(message) == {"role": "assistant", "content": "4", "reasoning_content": "2+2"}


def test_a_message_without_content_is_empty_and_not_missing() -> None:
    assert sent(Message("user"))["content"] == ""


def test_tools() -> None:
    schema = {"type": "object", "properties": {}}
    body = payload(
        tools=(Tool("add", "Adds.", schema, strict=True), Tool("now")),
        tool_choice="required",
        parallel_tool_calls=False,
    )
    assert body["tools"] == [
        {
            "type": "function",
            "function": {
                "name": "add",
                "description": "Adds.",
                "parameters": schema,
                "strict": True,
            },
        },
        {"type": "function", "function": {"name": "now", "description": "", "parameters": {}}},
    ]
    assert body["tool_choice"] == "required"
    assert body["parallel_tool_calls"] is False


@pytest.mark.parametrize(
    ("choice", "out"),
    [
        ("auto", "auto"),
        ("none", "none"),
        ("required", "required"),
        (Named("add"), {"type": "function", "function": {"name": "add"}}),
        (Named("auto"), {"type": "function", "function": {"name": "auto"}}),
    ],
)
def test_a_choice_of_tool(choice: ToolChoice, out: Any) -> None:
    assert payload(tool_choice=choice, tools=(Tool("add"),))["tool_choice"] == out


def test_parallel_calls_are_not_mentioned_without_tools() -> None:
    assert "parallel_tool_calls" not in payload(parallel_tool_calls=True)


@pytest.mark.parametrize(
    ("wanted", "out"),
    [
        (ResponseFormat("json_object"), {"type": "json_object"}),
        (
            ResponseFormat("json_schema", "point", {"type": "object"}, strict=True),
            {
                "type": "json_schema",
                "json_schema": {"name": "point", "schema": {"type": "object"}, "strict": True},
            },
        ),
        (
            ResponseFormat("json_schema"),
            {"type": "json_schema", "json_schema": {"name": "answer", "schema": {}}},
        ),
    ],
)
def test_the_shape_of_the_answer(wanted: ResponseFormat, out: Any) -> None:
    assert payload(response_format=wanted)["response_format"] == out
    assert "response_format" not in payload(response_format=ResponseFormat("text"))


# What comes back


def answer(message: Any, finish: Any = "stop", usage: Any = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish}], "usage": usage}


def test_a_plain_answer() -> None:
    body = answer(
        {"role": "assistant", "content": "Hi"},
        usage={
            "prompt_tokens": 9,
            "completion_tokens": 4,
            "prompt_tokens_details": {"cached_tokens": 3},
            "completion_tokens_details": {"reasoning_tokens": 2},
        },
    )
    assert wire.completion(body, model="small") == Completion(
        "small", assistant("Hi"), "stop", Usage(input=9, output=4, cached=3, reasoning=2)
    )


def test_the_answers_model_is_the_one_that_we_asked() -> None:
    # The provider's own name, with a date in it, would not be found in the catalog.
    body = answer({"content": "Hi"}) | {"model": "small-2026-11-22"}
    assert wire.completion(body, model="small").model == "small"


def test_an_answer_with_tool_calls() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}
    done = wire.completion(answer({"content": None, "tool_calls": [call]}, "stop"), model="m")
    assert done.message == Message("assistant", tool_calls=(ToolCall("c1", "add", '{"a":1}'),))
    assert done.finish_reason == "tool_calls"


@pytest.mark.parametrize(
    ("raw", "finish"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("content_filter", "content_filter"),
        ("sensitive", "content_filter"),
        ("model_length", "length"),
        ("max_tokens", "length"),
        ("something new", "stop"),
        ({"odd": 1}, "stop"),
        (None, "stop"),
    ],
)
def test_why_the_answer_ended(raw: Any, finish: str) -> None:
    assert wire.completion(answer({"content": "a"}, raw), model="m").finish_reason == finish


@pytest.mark.parametrize("body", [{}, {"choices": []}, {"choices": None}, answer(None), answer("")])
def test_a_reply_without_an_answer_is_the_models_fault(body: Any) -> None:
    with pytest.raises(UpstreamError, match="'small' sent a reply without an answer"):
        wire.completion(body, model="small")


@pytest.mark.parametrize("reason", ["insufficient_system_resource", "network_error", "error"])
@pytest.mark.parametrize("text", ["", "Half of an"])
def test_an_answer_that_its_provider_broke_off_is_none(reason: str, text: str) -> None:
    with pytest.raises(UpstreamError, match=reason):
        wire.completion(answer({"content": text}, reason), model="m")
    with pytest.raises(UpstreamError, match=reason):
        read([delta({"content": text}), delta({}, reason)])


@pytest.mark.parametrize(
    ("raw", "counted"),
    [
        # Gemini: thoughts stand in the total alone.
        ({"prompt_tokens": 20, "completion_tokens": 424, "total_tokens": 1016}, Usage(20, 996)),
        # xAI.
        (
            {
                "prompt_tokens": 32,
                "completion_tokens": 9,
                "total_tokens": 135,
                "completion_tokens_details": {"reasoning_tokens": 94},
            },
            Usage(32, 103, reasoning=94),
        ),
        # OpenAI: within what was written.
        (
            {
                "prompt_tokens": 5,
                "completion_tokens": 9,
                "total_tokens": 14,
                "completion_tokens_details": {"reasoning_tokens": 7},
            },
            Usage(5, 9, reasoning=7),
        ),
        ({"prompt_tokens": 5, "completion_tokens": 9, "total_tokens": None}, Usage(5, 9)),
        ({"prompt_tokens": 20.0, "completion_tokens": 4.0}, Usage(20, 4)),
        ({"completion_tokens": 4, "total_tokens": 100}, Usage(0, 4)),
        ({"prompt_tokens": 20.5, "completion_tokens": float("inf")}, Usage()),
    ],
)
def test_every_token_that_is_billed_is_counted(raw: dict[str, Any], counted: Usage) -> None:
    assert wire.usage(raw) == counted


PARTS = [
    {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]},
    {"type": "text", "text": "So"},
    {"type": "text", "text": "."},
    "!",
    {"type": "unknown", "text": None},
]


def test_content_in_parts_is_what_was_said_and_thought() -> None:
    whole = wire.completion(answer({"content": PARTS}), model="m")
    events, streamed = read([delta({"content": PARTS}), delta({}, "stop")])
    assert events == [ReasoningDelta("Hm."), TextDelta("So.!")]
    for done in (whole, streamed):
        assert (done.text, done.message.thought) == ("So.!", "Hm.")


def test_arguments_that_are_no_text_become_json() -> None:
    call = {"id": "c1", "function": {"name": "find", "arguments": {"q": "\u00e9"}}}
    whole = wire.completion(answer({"tool_calls": [call]}), model="m")
    _, streamed = read([delta({"tool_calls": [{"index": 0, **call}]}, "stop")])
    for done in (whole, streamed):
        assert done.message.tool_calls == (ToolCall("c1", "find", '{"q": "\u00e9"}'),)


def test_a_call_without_an_id_gets_one_that_no_other_turn_has() -> None:
    call = {"function": {"name": "find", "arguments": "{}"}}
    ids = []
    for _ in range(2):
        [whole] = wire.completion(answer({"tool_calls": [call]}), model="m").message.tool_calls
        events, done = read([delta({"tool_calls": [{"index": 0, **call}]}, "stop")])
        [streamed] = done.message.tool_calls
        assert isinstance(events[0], ToolCallDelta)
        assert events[0].id == streamed.id
        ids += [whole.id, streamed.id]
    assert len(set(ids)) == 4


def test_no_more_is_cached_than_was_sent() -> None:
    # Some providers count cached tokens beside the prompt; a price must not turn negative.
    usage = wire.usage({"prompt_tokens": 1, "prompt_tokens_details": {"cached_tokens": 5}})
    assert usage.cached <= usage.input


@pytest.mark.parametrize("tool_calls", [3, "x", ["x"], [None], {"a": 1}])
def test_tool_calls_that_are_none(tool_calls: Any) -> None:
    done = wire.completion(answer({"content": "a", "tool_calls": tool_calls}), model="m")
    assert done.text == "a"
    streamed, _ = read([delta({"content": "a", "tool_calls": tool_calls}, "stop")])
    assert streamed[0] == TextDelta("a")


# Streams


def delta(part: Any, finish: Any = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": part, "finish_reason": finish}]}


def read(chunks: list[dict[str, Any]]) -> tuple[list[Event], Completion]:
    deltas = wire.Deltas("m")
    events = [event for chunk in chunks for event in deltas.feed(chunk)]
    return events, deltas.done().completion


def test_a_streamed_answer() -> None:
    events, whole = read(
        [
            delta({"role": "assistant", "content": ""}),
            delta({"content": "Hel"}),
            delta({"content": "lo"}),
            delta({}, "stop"),
            {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}},
        ]
    )
    assert events == [TextDelta("Hel"), TextDelta("lo")]
    assert whole == Completion("m", assistant("Hello"), "stop", Usage(input=3, output=2))


def test_a_streamed_tool_call_is_named_once() -> None:
    def piece(**call: Any) -> dict[str, Any]:
        return delta({"tool_calls": [{"index": 0, **call}]})

    events, whole = read(
        [
            piece(id="c1", function={"name": "add", "arguments": ""}),
            piece(function={"arguments": '{"a"'}),
            piece(function={"arguments": ":1}"}),
            delta({}, "tool_calls"),
        ]
    )
    assert events == [
        ToolCallDelta(0, "", id="c1", name="add"),
        ToolCallDelta(0, '{"a"'),
        ToolCallDelta(0, ":1}"),
    ]
    assert whole.message.tool_calls == (ToolCall("c1", "add", '{"a":1}'),)


def test_a_call_without_arguments_is_the_same_streamed_or_whole() -> None:
    call = {"id": "c1", "function": {"name": "now", "arguments": ""}}
    _, streamed = read([delta({"tool_calls": [{"index": 0, **call}]}, "tool_calls")])
    whole = wire.completion(answer({"tool_calls": [call]}, "tool_calls"), model="m")
    assert streamed == whole


def test_a_stream_that_breaks_off_is_no_answer() -> None:
    with pytest.raises(UpstreamError, match="broke off"):
        read([delta({"content": "Hel"})])


def test_an_error_in_a_stream_is_raised_after_what_came_before_it() -> None:
    deltas = wire.Deltas("m")
    assert list(deltas.feed(delta({"content": "Hel"}))) == [TextDelta("Hel")]
    with pytest.raises(RateLimited, match="too many"):
        list(deltas.feed({"error": {"message": "too many", "code": 429}}))


def test_a_chunk_that_says_that_there_is_no_error() -> None:
    events, _ = read([delta({"content": "Hi"}, "stop") | {"error": None}])
    assert events == [TextDelta("Hi")]


@st.composite
def _split(draw: st.DrawFn, text: str) -> list[str]:
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=4)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@st.composite
def _streamed_answers(draw: st.DrawFn) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """An answer's whole body, and the same answer as chunks cut at random places."""
    text = draw(st.text(max_size=20))
    calls = draw(
        st.lists(
            st.builds(
                lambda name, arguments: {"function": {"name": name, "arguments": arguments}},
                st.sampled_from(["add", "find"]),
                st.text(min_size=1, max_size=10),
            ),
            max_size=3,
        )
    )
    calls = [{"id": f"c{index}", **call} for index, call in enumerate(calls)]
    finish = draw(st.sampled_from(["stop", "length", "tool_calls"]))
    usage = {"prompt_tokens": draw(st.integers(0, 99)), "completion_tokens": 5}
    message = {"role": "assistant", "content": text, "tool_calls": calls}

    streams = [[{"content": piece} for piece in draw(_split(text))]]
    for index, call in enumerate(calls):
        first, *rest = draw(_split(call["function"]["arguments"]))
        head = {"index": index, "id": call["id"]}
        head["function"] = {"name": call["function"]["name"], "arguments": first}
        tail = [{"index": index, "function": {"arguments": piece}} for piece in rest]
        streams.append([{"tool_calls": [piece]} for piece in (head, *tail)])
    chunks = []
    while live := [stream for stream in streams if stream]:
        chunks.append(delta(draw(st.sampled_from(live)).pop(0)))
    chunks += [delta({}, finish), {"choices": [], "usage": usage}]
    return answer(message, finish, usage), chunks


@given(_streamed_answers())
def test_a_stream_cut_anywhere_is_the_whole_answer(
    both: tuple[dict[str, Any], list[dict[str, Any]]],
) -> None:
    body, chunks = both
    events, whole = read(chunks)
    assert whole == wire.completion(body, model="m")
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == whole.text
    for index, call in enumerate(whole.message.tool_calls):
        pieces = [e for e in events if isinstance(e, ToolCallDelta) and e.index == index]
        assert "".join(piece.arguments for piece in pieces) == call.arguments
        assert (pieces[0].id, pieces[0].name) == (call.id, call.name)


# Errors


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, BadRequest),
        (401, AccountRefused),
        (402, AccountRefused),
        (403, wire.ProviderForbids),
        (404, Refused),
        (413, BadRequest),
        (418, UpstreamError),
        (422, BadRequest),
        (429, RateLimited),
        (500, UpstreamError),
        (502, UpstreamError),
        (503, Unavailable),
        (504, DeadlineExceeded),
        (529, Unavailable),
    ],
)
def test_what_a_status_means(status: int, error: type[FusionError]) -> None:
    assert type(wire.error(status, {"error": {"message": "why"}}, model="m")) is error


@pytest.mark.parametrize(
    "detail",
    [
        {"message": "no", "code": "context_length_exceeded"},
        {"message": "This model's maximum context length is 2048 tokens."},
        {"message": "the decoder prompt is longer than the maximum model length of 2048"},
    ],
)
def test_a_prompt_that_is_too_long_has_its_own_error(detail: dict[str, Any]) -> None:
    assert type(wire.error(400, {"error": detail}, model="m")) is ContextTooLong


def test_the_field_at_fault_is_kept() -> None:
    error = wire.error(400, {"error": {"message": "too hot", "param": "temperature"}}, model="m")
    assert (error.message, error.param) == ("too hot", "temperature")


def test_without_a_status_the_bodys_own_code_counts() -> None:
    assert type(wire.error(None, {"error": {"code": 400}}, model="m")) is BadRequest
    assert type(wire.error(None, {"message": "old form", "code": 429}, model="m")) is RateLimited
    assert wire.error(None, {}, model="m").status in (502, 503)


def test_a_refused_key_is_told_without_the_providers_words() -> None:
    body = {"error": {"message": "Incorrect API key provided: sk-12345"}}
    assert wire.error(401, body, model="large").message == (
        "The provider of model 'large' does not accept its key (401)."
    )


@pytest.mark.parametrize("detail", [{"code": "insufficient_quota"}, {"type": "billing_error"}])
def test_an_account_without_money_is_not_merely_busy(detail: dict[str, str]) -> None:
    body = {"error": {"message": "You exceeded your current quota.", **detail}}
    assert isinstance(wire.error(429, body, model="m"), AccountRefused)
    assert isinstance(wire.error(None, body, model="m"), AccountRefused)


@pytest.mark.parametrize(
    ("status", "body", "meant"),
    [
        (400, {"type": "invalid_request_error", "message": "Your credit balance is too low."}, 402),
        (400, {"code": 400, "message": "API key not valid. Please pass a valid API key."}, 401),
        (400, {"message": "Incorrect API key provided: x."}, 401),
        (400, {"code": "Arrearage", "message": "Access denied."}, 402),
        (429, {"type": "exceeded_current_quota_error", "message": "Check your plan."}, 402),
        (429, {"code": "1113", "message": "Insufficient balance. Please recharge."}, 402),
        (None, {"code": 1113, "message": "no words that we know"}, 402),
    ],
)
def test_an_account_at_fault_is_known_by_whatever_says_so(
    status: int | None, body: dict[str, Any], meant: int
) -> None:
    error = wire.error(status, {"error": body}, model="m")
    assert isinstance(error, AccountRefused)
    assert f"({meant})" in error.message


def test_what_a_caller_wrote_refuses_no_account() -> None:
    body = {"error": {"message": "Unknown tool 'your credit balance is too low'."}}
    assert type(wire.error(400, body, model="m")) is BadRequest


@pytest.mark.parametrize(
    ("named", "error"),
    [
        ("overloaded_error", Unavailable),
        ("rate_limit_error", RateLimited),
        ("authentication_error", AccountRefused),
        ("invalid_request_error", BadRequest),
        ("api_error", UpstreamError),
    ],
)
def test_an_error_in_anthropics_shape(named: str, error: type[FusionError]) -> None:
    body = {"type": "error", "error": {"type": named, "message": "why"}}
    assert type(wire.error(None, body, model="m")) is error


def test_a_refusal_of_the_model_is_said_and_known_as_one() -> None:
    whole = wire.completion(answer({"refusal": "I would rather not."}), model="m")
    _, streamed = read([delta({"refusal": "I would "}), delta({"refusal": "rather not."}, "stop")])
    for done in (whole, streamed):
        assert (done.text, done.finish_reason) == ("I would rather not.", "content_filter")


def test_where_an_answer_comes_from() -> None:
    note = {"type": "url_citation", "url_citation": {"url": "https://x", "title": "X"}}
    message = {"content": "So.", "annotations": [note, {"type": "other"}]}
    assert wire.completion(answer(message), model="m").sources == (Source("https://x", "X"),)
    _, streamed = read([delta(message), delta({}, "stop")])
    assert streamed.sources == (Source("https://x", "X"),)


def test_tokens_written_to_a_cache() -> None:
    raw = {
        "prompt_tokens": 9,
        "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 8},
    }
    assert wire.usage(raw) == Usage(9, 0, cached=4, cache_written=5)


def test_an_endless_error_is_cut() -> None:
    assert len(wire.error(400, {"error": {"message": "x" * 10_000}}, model="m").message) == 2000


# Nothing crashes

_WORDS = """
    choices message delta content tool_calls function id name arguments index finish_reason usage
    prompt_tokens completion_tokens prompt_tokens_details cached_tokens error code param
"""
_KEYS = st.sampled_from(_WORDS.split())
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=12,
)
_PART = st.fixed_dictionaries({}, optional={"content": _JSON, "tool_calls": _JSON})
_USAGE = st.dictionaries(_KEYS, _JSON, max_size=4)


def _around(part: str) -> st.SearchStrategy[Any]:
    """Bodies that have the right bones, so that the odd parts are reached at all."""
    choice = st.fixed_dictionaries({part: _PART}, optional={"finish_reason": _JSON})
    bones = st.fixed_dictionaries(
        {"choices": st.lists(choice, min_size=1, max_size=1)}, optional={"usage": _USAGE | _JSON}
    )
    return bones | st.dictionaries(_KEYS, _JSON, max_size=4)


@given(_around("message"))
def test_any_body_is_an_answer_or_one_of_our_errors(body: Mapping[str, Any]) -> None:
    try:
        done = wire.completion(body, model="m")
    except FusionError:
        return
    assert hash(done.message) is not None
    assert all(isinstance(part, Text) for part in done.message.content)
    assert min(done.usage.input, done.usage.output) >= 0


@given(st.lists(_around("delta"), max_size=4))
def test_any_stream_is_an_answer_or_one_of_our_errors(chunks: list[Mapping[str, Any]]) -> None:
    deltas = wire.Deltas("m")
    try:
        for chunk in chunks:
            assert all(isinstance(e, TextDelta | ToolCallDelta) for e in deltas.feed(chunk))
        assert isinstance(deltas.done(), Done)
    except FusionError:
        return


@given(st.none() | st.integers(400, 599), _JSON)
def test_any_error_body_is_one_of_our_errors(status: int | None, body: Any) -> None:
    error = wire.error(status, body, model="m")
    assert isinstance(error, FusionError)
    assert error.message


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_what_a_model_thinks_is_kept_apart_from_what_it_says(field: str) -> None:
    whole = wire.completion({"choices": [{"message": {"content": "4", field: "2+2"}}]}, model="m")
    assert (whole.text, whole.message.thought) == ("4", "2+2")
    deltas = wire.Deltas("m")
    chunks: list[dict[str, Any]] = [{field: "2"}, {field: "+2"}, {"content": "4"}]
    events = [e for c in chunks for e in deltas.feed({"choices": [{"delta": c}]})]
    assert events == [ReasoningDelta("2"), ReasoningDelta("+2"), TextDelta("4")]
    list(deltas.feed({"choices": [{"delta": {}, "finish_reason": "stop"}]}))
    assert deltas.done().completion.message == whole.message


@pytest.mark.parametrize(("reason", "stopped_by"), [("END", "END"), (2, None), (None, None)])
def test_which_text_ended_the_answer_is_kept(reason: Any, stopped_by: str | None) -> None:
    choice = {"message": {"content": "x"}, "finish_reason": "stop", "stop_reason": reason}
    assert wire.completion({"choices": [choice]}, model="m").stop_sequence == stopped_by
    deltas = wire.Deltas("m")
    list(deltas.feed({"choices": [{"delta": {}, "finish_reason": "stop", "stop_reason": reason}]}))
    assert deltas.done().completion.stop_sequence == stopped_by


def test_effort_is_sent_where_it_is_asked_for() -> None:
    asked = Request("m", (user("q"),), effort="low")
    assert wire.payload(asked, model="m", stream=False)["reasoning_effort"] == "low"
    plain = wire.payload(Request("m", (user("q"),)), model="m", stream=False)
    assert "reasoning_effort" not in plain


def told(*logprobs: Any) -> float | None:
    """What an answer is said to be worth whose tokens came with these."""
    choice = {
        "message": {"content": "Hi"},
        "logprobs": {"content": [{"token": "x", "logprob": one} for one in logprobs]},
    }
    return wire.completion({"choices": [choice]}, model="small").logprob


def test_how_likely_an_answer_was_is_asked_only_on_wish() -> None:
    assert "logprobs" not in payload()
    assert payload(sampling=Sampling(logprobs=True))["logprobs"] is True


def test_how_likely_an_answer_was_is_the_mean_over_its_tokens() -> None:
    assert told(-0.5, -1.5) == -1.0
    assert told(0.25, -1.0) == -0.5  # a rounding error above certainty
    assert told(-9999.0, -1.0) == -10.5  # vLLM's word for impossible
    assert told(-(10**400), -1.0) == -10.5


@pytest.mark.parametrize("nothing", [(), (None,), ("likely",), (True,), (float("nan"),)])
def test_an_answer_that_does_not_tell_how_likely_it_was(nothing: tuple[Any, ...]) -> None:
    assert told(*nothing) is None
    broken = {"choices": [{"message": {"content": "Hi"}, "logprobs": 3}]}
    assert wire.completion(broken, model="small").logprob is None


def tool_piece(index: int | None, **more: Any) -> dict[str, Any]:
    said = {key: more.pop(key) for key in ("id",) if key in more}
    place = {} if index is None else {"index": index}
    return {"choices": [{"delta": {"tool_calls": [{**place, **said, "function": more}]}}]}


@pytest.mark.parametrize("indices", [(0, 1), (0, 0), (None, None)])
def test_several_tool_calls_of_a_stream_stay_apart(indices: tuple[int | None, int | None]) -> None:
    deltas = wire.Deltas("m")
    chunks = [
        tool_piece(indices[0], id="a", name="find", arguments='{"q":'),
        tool_piece(indices[0], arguments=' "x"}'),
        tool_piece(indices[1], id="b", name="find", arguments='{"q": '),
        # Some repeat the id and the name, and some make up an id for every piece.
        tool_piece(indices[1], id="b", name="find", arguments='"y"'),
        tool_piece(indices[1], id="c", arguments="}"),
        {"choices": [{"delta": {}, "finish_reason": "tool_calls"}]},
    ]
    said = [event for chunk in chunks for event in deltas.feed(chunk)]
    assert [(one.index, one.id) for one in said if isinstance(one, ToolCallDelta)] == [
        (0, "a"),
        (0, None),
        (1, "b"),
        (1, None),
        (1, None),
    ]
    assert deltas.done().completion.message.tool_calls == (
        ToolCall("a", "find", '{"q": "x"}'),
        ToolCall("b", "find", '{"q": "y"}'),
    )
