"""The messages dialect, with the official `anthropic` client as its judge."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import httpx
import pytest
from doorway import CATALOG, Doorway

from models import wire
from models.call import Call
from models.errors import (
    BadRequest,
    BudgetExceeded,
    DeadlineExceeded,
    FusionError,
    Overloaded,
    Unavailable,
    UpstreamError,
)
from models.fake import FakeModel
from models.flagship.anthropic import Anthropic
from models.messages import (
    Completion,
    Done,
    Image,
    Message,
    Named,
    Progress,
    Reasoning,
    Request,
    ResponseFormat,
    Text,
    TextDelta,
    Tool,
    ToolCall,
    ToolCallDelta,
    Usage,
    assistant,
    user,
)
from models.spec import AnthropicModel
from serve.access.caller import Caller
from serve.dialects import messages
from serve.editions.edition import Edition, Fixed
from serve.gateway.count import TokenCount
from serve.gateway.site import site

HI: list[Any] = [{"role": "user", "content": "hi you"}]
ASK: dict[str, Any] = {"model": "m", "max_tokens": 50, "messages": HI}
LOOK: dict[str, Any] = {
    "name": "look",
    "description": "Looks.",
    "input_schema": {"type": "object", "properties": {"at": {"type": "string"}}},
}
CALLS = Message(
    "assistant",
    (Text("let me look"),),
    tool_calls=(ToolCall("c1", "look", '{"at": "x"}'), ToolCall("c2", "look", '{"at": "y"}')),
    reasoning=(Reasoning("hm well", signature="seal"), Reasoning(redacted="hidden")),
)


def parse(**body: Any) -> Request:
    return messages.parse(json.dumps(ASK | body).encode()).request


# Requests


def test_blocks_of_every_kind_arrive() -> None:
    asked = parse(
        system=[{"type": "text", "text": "be brief", "cache_control": {"type": "ephemeral"}}],
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "what is this?"},
                    {
                        "type": "image",
                        "source": {"type": "base64", "media_type": "image/png", "data": "AA"},
                    },
                    {"type": "image", "source": {"type": "url", "url": "https://a.example/x.png"}},
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "seal"},
                    {"type": "redacted_thinking", "data": "hidden"},
                    {"type": "text", "text": "let me look"},
                    {"type": "tool_use", "id": "c1", "name": "look", "input": {"at": "ü"}},
                    {"type": "tool_use", "id": "c2", "name": "look", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "c1", "content": "a cat"},
                    {
                        "type": "tool_result",
                        "tool_use_id": "c2",
                        "is_error": True,
                        "content": [{"type": "text", "text": "too dark"}],
                    },
                    {"type": "text", "text": "and now?"},
                ],
            },
        ],
    )
    assert asked.messages == (
        Message("system", (Text("be brief", cache="5m"),)),
        Message(
            "user",
            (
                Text("what is this?"),
                Image("data:image/png;base64,AA"),
                Image("https://a.example/x.png"),
            ),
        ),
        Message(
            "assistant",
            (Text("let me look"),),
            tool_calls=(ToolCall("c1", "look", '{"at": "ü"}'), ToolCall("c2", "look", "{}")),
            reasoning=(Reasoning("hm", signature="seal"), Reasoning(redacted="hidden")),
        ),
        Message("tool", (Text("a cat"),), tool_call_id="c1"),
        Message("tool", (Text("too dark"),), tool_call_id="c2", is_error=True),
        user("and now?"),
    )


def test_settings() -> None:
    asked = parse(
        temperature=1,
        top_p=0.9,
        stop_sequences=["END"],
        tools=[LOOK],
        tool_choice={"type": "tool", "name": "look", "disable_parallel_tool_use": True},
        thinking={"type": "disabled"},
        output_config={"format": {"type": "json_schema", "schema": {"type": "object"}}},
    )
    sampling = asked.sampling
    assert (sampling.temperature, sampling.top_p) == (1, 0.9)
    assert (sampling.max_tokens, sampling.stop) == (50, ("END",))
    assert asked.tools == (Tool("look", "Looks.", LOOK["input_schema"]),)
    assert (asked.tool_choice, asked.parallel_tool_calls) == (Named("look"), False)
    assert asked.effort == "none"
    assert asked.response_format == ResponseFormat("json_schema", schema={"type": "object"})
    for kind, mode in (("any", "required"), ("auto", "auto"), ("none", "none")):
        assert parse(tools=[LOOK], tool_choice={"type": kind}).tool_choice == mode


@pytest.mark.parametrize(
    ("thinking", "config", "effort"),
    [
        ({"type": "enabled", "budget_tokens": 1024}, None, "low"),
        ({"type": "enabled", "budget_tokens": 8000}, None, "medium"),
        ({"type": "enabled", "budget_tokens": 20_000}, None, "high"),
        ({"type": "enabled", "budget_tokens": 60_000}, None, "xhigh"),
        ({"type": "adaptive"}, {"effort": "high"}, "high"),
        ({"type": "adaptive"}, None, None),
        (None, {"effort": "max"}, "xhigh"),
        ({"type": "disabled"}, {"effort": "max"}, "none"),
    ],
)
def test_how_much_to_think(thinking: Any, config: Any, effort: str | None) -> None:
    said = {"thinking": thinking, "output_config": config}
    body = {key: value for key, value in said.items() if value is not None}
    assert parse(max_tokens=100_000, **body).effort == effort


def test_the_content_of_an_answer_goes_back_in_as_it_came_out() -> None:
    answer = Completion("m", CALLS, "tool_calls")
    content = messages.whole(answer, messages.parse(json.dumps(ASK).encode()), "1")["content"]
    turns = [*HI, {"role": "assistant", "content": content}, *HI]
    assert parse(messages=turns).messages == (user("hi you"), CALLS, user("hi you"))


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": []}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "x"}]}]}, "messages.0.content.0.type"),
        (
            {"messages": [{"role": "user", "content": [{"type": "document", "source": {}}]}]},
            "messages.0.content.0.type",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]},
            "messages.0.content.0.tool_use_id",
        ),
        (
            {
                "messages": [
                    {
                        "role": "assistant",
                        "content": [{"type": "tool_use", "id": "1", "name": "f", "input": "x"}],
                    }
                ]
            },
            "messages.0.content.0.input",
        ),
        ({"messages": [*HI, {"role": "assistant", "content": "I beg"}]}, "messages"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages"),
        ({"system": 5}, "system"),
        ({"temperature": 1.5}, "temperature"),
        ({"top_k": 5}, "top_k"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0.type"),
        ({"tools": [{"name": "f"}]}, "tools.0.input_schema"),
        ({"tools": [LOOK], "tool_choice": {"type": "tool", "name": "gone"}}, "tool_choice"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tool_choice": "any"}, "tool_choice"),
        ({"thinking": {"type": "enabled", "budget_tokens": 5}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "adaptive", "display": "omitted"}}, "thinking.display"),
        ({"mcp_servers": [{}]}, "mcp_servers"),
        ({"container": "c"}, "container"),
        ({"context_management": {}}, "context_management"),
        ({"n": 2}, "n"),
        ({"fusion": {"evnts": True}}, "fusion.evnts"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(body: dict[str, Any], field: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse(**body)
    assert caught.value.param == field


def test_texts_that_say_nothing_are_left_out() -> None:
    nothing, result = (
        {"type": "text", "text": ""},
        {"type": "tool_result", "tool_use_id": "c1", "content": ""},
    )
    assert parse(messages=[{"role": "user", "content": [nothing, result]}]).messages == (
        Message("tool", tool_call_id="c1"),
    )


# Answers


def test_a_whole_answer(doorway: Doorway) -> None:
    model = doorway.says("hello there")
    answer = doorway.anthropic.messages.create(**ASK, metadata={"user_id": "u1"}, system="be brief")
    [block] = answer.content
    assert block.type == "text"
    assert block.text == "hello there"
    assert (answer.model, answer.role, answer.stop_reason) == ("m", "assistant", "end_turn")
    assert answer.id.startswith("msg_req_")
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (4, 2)
    assert answer.model_extra is not None
    assert answer.model_extra["fusion"]["cost_usd"] == "0"
    [(_, call)] = model.calls
    assert call.metadata == (("user_id", "u1"),)


def test_thoughts_and_calls(doorway: Doorway) -> None:
    doorway.says(CALLS)
    answer = doorway.anthropic.messages.create(**ASK, tools=[LOOK])  # type: ignore[list-item]
    assert [block.type for block in answer.content] == [
        "thinking",
        "redacted_thinking",
        "text",
        "tool_use",
        "tool_use",
    ]
    thinking, hidden, _, first, _ = answer.content
    assert thinking.type == "thinking"
    assert (thinking.thinking, thinking.signature) == ("hm well", "seal")
    assert hidden.type == "redacted_thinking"
    assert hidden.data == "hidden"
    assert first.type == "tool_use"
    assert (first.id, first.name, first.input) == ("c1", "look", {"at": "x"})
    assert answer.stop_reason == "tool_use"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("reason", "sequence", "stop"),
    [
        ("stop", None, "end_turn"),
        ("stop", "END", "stop_sequence"),
        ("length", None, "max_tokens"),
        ("content_filter", None, "refusal"),
    ],
)
def test_why_it_ended(
    doorway: Doorway, reason: Any, sequence: str | None, stop: str, stream: bool
) -> None:
    done = Completion("m", assistant("half"), reason, stop_sequence=sequence)
    doorway.plays(TextDelta("half"), Done(done))
    if stream:
        with doorway.anthropic.messages.stream(**ASK) as events:
            answer = events.get_final_message()
    else:
        answer = doorway.anthropic.messages.create(**ASK)  # type: ignore[assignment]
    assert (answer.stop_reason, answer.stop_sequence) == (stop, sequence)


def test_what_came_from_a_cache_is_counted_apart(doorway: Doorway) -> None:
    used = Usage(input=100, output=5, cached=60, cache_written=10, reasoning=2)
    doorway.plays(TextDelta("x"), Done(Completion("m", assistant("x"), usage=used)))
    whole = doorway.anthropic.messages.create(**ASK).usage
    with doorway.anthropic.messages.stream(**ASK) as events:
        streamed = events.get_final_message().usage
    for usage in (whole, streamed):
        assert usage.input_tokens == 30
        assert (usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (60, 10)
        assert usage.output_tokens == 5


# Streams


def stream(doorway: Doorway, **body: Any) -> list[dict[str, Any]]:
    """The events as they stand on the wire."""
    body = ASK | {"stream": True} | body
    text = httpx.post(f"{doorway.url}/v1/messages", json=body, timeout=20).text
    events = []
    for block in text.strip().split("\n\n"):
        head, data = block.split("\n", 1)
        events.append(json.loads(data.removeprefix("data: ")))
        assert head == f"event: {events[-1]['type']}"
    return events


def test_the_events_of_a_text_come_in_order(doorway: Doorway) -> None:
    doorway.says("hello there")
    events = stream(doorway)
    assert [event["type"] for event in events] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert events[0]["message"]["content"] == []
    assert events[-2]["usage"]["output_tokens"] == 2
    assert events[-2]["fusion"]["cost_usd"] == "0"


def test_one_block_follows_another(doorway: Doorway) -> None:
    doorway.says(CALLS)
    open_block: int | None = None
    seen = 0
    for event in stream(doorway, tools=[LOOK]):
        match event["type"]:
            case "content_block_start":
                assert open_block is None
                assert event["index"] == seen
                open_block = seen
            case "content_block_delta":
                assert event["index"] == open_block
            case "content_block_stop":
                assert event["index"] == open_block
                open_block, seen = None, seen + 1
    assert seen == 5


def test_the_clients_stream_helper_reads_the_same_as_a_whole_answer(doorway: Doorway) -> None:
    doorway.says(CALLS)
    whole = doorway.anthropic.messages.create(**ASK, tools=[LOOK])  # type: ignore[list-item]
    with doorway.anthropic.messages.stream(**ASK, tools=[LOOK]) as events:  # type: ignore[list-item]
        said = "".join(events.text_stream)
        final = events.get_final_message()
    assert said == "let me look"
    assert [block.to_dict() for block in final.content] == [
        block.to_dict() for block in whole.content
    ]


async def test_the_asynchronous_client_reads_ours_too(doorway: Doorway) -> None:
    doorway.says("hello there")
    async with (
        anthropic.AsyncAnthropic(base_url=doorway.url, api_key="none") as client,
        client.messages.stream(**ASK) as events,
    ):
        assert await events.get_final_text() == "hello there"


def test_progress_is_a_ping_for_those_who_ask(doorway: Doorway) -> None:
    step = Progress("panel.completed", {"model": "a"})
    doorway.plays(step, TextDelta("x"), Done(Completion("m", assistant("x"))))
    assert "ping" not in [event["type"] for event in stream(doorway)]
    told = stream(doorway, fusion={"events": True})
    assert told[1] == {"type": "ping", "fusion": {"event": "panel.completed", "model": "a"}}
    with doorway.anthropic.messages.stream(
        **ASK, extra_body={"fusion": {"events": True}}
    ) as events:
        assert events.get_final_text() == "x"


def test_calls_that_mix_are_an_error_and_not_a_wrong_answer(doorway: Doorway) -> None:
    doorway.plays(
        ToolCallDelta(0, "", id="c1", name="look"),
        ToolCallDelta(1, "", id="c2", name="look"),
        ToolCallDelta(0, "{}"),
        Done(Completion("m", CALLS, "tool_calls")),
    )
    assert stream(doorway)[-1]["type"] == "error"


# Failures


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (BadRequest("x"), 400, "invalid_request_error"),
        (BudgetExceeded("x"), 402, "billing_error"),
        (Overloaded("x", retry_after_s=1.2), 429, "rate_limit_error"),
        (UpstreamError("x"), 502, "api_error"),
        (Unavailable("x"), 503, "overloaded_error"),
        (DeadlineExceeded("x"), 504, "timeout_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_have_anthropics_shape(
    doorway: Doorway, error: FusionError, status: int, kind: str, stream: bool
) -> None:
    doorway.says(error)
    with pytest.raises(anthropic.APIStatusError) as caught:
        doorway.anthropic.messages.create(**ASK, stream=stream)
    assert caught.value.status_code == status
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["type"] == "error"
    assert caught.value.body["error"]["type"] == kind
    if status == 429:
        assert caught.value.response.headers["retry-after"] == "2"


def test_what_never_reached_a_dialect_has_its_shape_too(doorway: Doorway) -> None:
    for path in ("/v1/messages", "/v1/messages/nothing"):
        body = httpx.get(doorway.url + path).json()
        assert (body["type"], set(body)) == ("error", {"type", "error"})
    with pytest.raises(anthropic.NotFoundError):
        doorway.anthropic.messages.create(**ASK | {"model": "nobody"})


def test_a_stream_that_breaks_off_ends_with_an_error(doorway: Doorway) -> None:
    class Breaking:
        async def stream(self, request: Request, call: Call) -> Any:
            yield TextDelta("half")
            raise Unavailable("gone")

    doorway.models["m"] = Breaking()
    last = stream(doorway)[-1]
    assert (last["type"], last["error"]["message"]) == ("error", "gone")
    with pytest.raises(anthropic.APIStatusError, match="gone"):
        for _ in doorway.anthropic.messages.create(**ASK, stream=True):
            pass


def test_a_bug_of_ours_ends_a_stream_with_an_error_too(doorway: Doorway) -> None:
    odd: Any = "no such reason"
    doorway.plays(TextDelta("half"), Done(Completion("m", assistant("half"), odd)))
    last = stream(doorway)[-1]
    assert last["error"] == {
        "type": "api_error",
        "message": "Internal error: KeyError.",
        "param": None,
        "code": "internal_error",
    }


def test_arguments_that_are_no_object_are_an_error(doorway: Doorway) -> None:
    call = ToolCall("c1", "look", "[1")
    doorway.says(Message("assistant", tool_calls=(call,)))
    with pytest.raises(anthropic.APIStatusError, match="no object"):
        doorway.anthropic.messages.create(**ASK)


def test_arguments_that_were_cut_off_are_none() -> None:
    said = Message("assistant", tool_calls=(ToolCall("c1", "look", '{"at'),))
    asked = messages.parse(json.dumps(ASK).encode())
    whole = messages.whole(Completion("m", said, "length"), asked, "1")
    assert (whole["stop_reason"], whole["content"][0]["input"]) == ("max_tokens", {})


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("reply", ["ok", UpstreamError("x")], ids=["answer", "error"])
def test_the_requests_id_is_where_the_client_looks_for_it(
    doorway: Doorway, stream: bool, reply: Any
) -> None:
    doorway.says(reply)
    named = {"x-request-id": "one-two-three"}
    answer = httpx.post(f"{doorway.url}/v1/messages", json=ASK | {"stream": stream}, headers=named)
    assert answer.headers["request-id"] == "one-two-three"
    plain = httpx.get(f"{doorway.url}/v1/models", headers=named)
    assert "request-id" not in plain.headers


# Counting


def count(doorway: Doorway, model: str, **body: Any) -> int:
    asked: Any = {"model": model, "messages": HI} | body
    return doorway.anthropic.messages.count_tokens(**asked).input_tokens


def test_a_hosted_model_counts_with_its_own_tokenizer(doorway: Doorway) -> None:
    assert count(doorway, "m") == 2
    assert count(doorway, "m", system="be brief", tools=[LOOK]) == 4
    assert count(doorway, "fusion/p") == 2  # its writer is 'm'


def test_for_others_the_count_is_a_bound(doorway: Doorway) -> None:
    bare = count(doorway, "far")
    assert 2 <= bare < 200
    assert count(doorway, "fusion/auto") == bare
    longer = [{"role": "user", "content": "hi you" + "x" * 1000}]
    assert count(doorway, "far", messages=longer) == bare + 1000
    image = {"type": "image", "source": {"type": "url", "url": "https://a.example/x.png"}}
    pictured = [{"role": "user", "content": [{"type": "text", "text": "hi you"}, image]}]
    assert count(doorway, "far", messages=pictured) == bare + 1000
    assert count(doorway, "far", tools=[LOOK]) > bare


@pytest.mark.parametrize("error", [Unavailable("x"), Overloaded("x"), DeadlineExceeded("x")])
async def test_where_no_replica_counts_the_count_is_a_bound(error: FusionError) -> None:
    async def refuse(*_: Any) -> int:
        raise error

    model = FakeModel("m")
    room = TokenCount(Fixed(Edition(CATALOG, model, model)), refuse)

    async def everybody(_: object) -> Caller:
        return Caller()

    transport = httpx.ASGITransport(app=site([room], everybody))
    async with httpx.AsyncClient(transport=transport, base_url="http://door") as client:
        answer = await client.post("/v1/messages/count_tokens", json={"model": "m", "messages": HI})
    assert 2 <= answer.json()["input_tokens"] < 200


def test_what_cannot_be_counted(doorway: Doorway) -> None:
    with pytest.raises(anthropic.NotFoundError):
        count(doorway, "nobody")
    with pytest.raises(anthropic.BadRequestError):
        count(doorway, "m", messages=[])


def test_marks_of_the_cache_travel_to_a_provider_that_knows_them() -> None:
    five = {"cache_control": {"type": "ephemeral"}}
    hour = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    asked = parse(
        **hour,
        system=[{"type": "text", "text": "a book", **hour}, {"type": "text", "text": "be brief"}],
        tools=[{"name": "look", "input_schema": {"type": "object"}, **five}],
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "what is this?", **five}]},
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "id": "t1", "name": "look", "input": {}, **five}],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "content": "a cat", **hour}
                ],
            },
        ],
    )
    spec = AnthropicModel(engine="anthropic", base_url="https://api.anthropic.com/v1")
    sent = Anthropic(spec).payload(asked, model="claude", stream=False)

    def marks(blocks: list[dict[str, Any]]) -> list[str | None]:
        return [block.get("cache_control", {}).get("ttl") for block in blocks]

    assert sent["cache_control"] == hour["cache_control"]
    assert marks(sent["system"]) == ["1h", None]
    assert marks(sent["tools"]) == ["5m"]
    assert [marks(turn["content"]) for turn in sent["messages"]] == [["5m"], ["5m"], ["1h"]]
    assert "cache_control" not in json.dumps(wire.payload(asked, model="gpt", stream=False))
