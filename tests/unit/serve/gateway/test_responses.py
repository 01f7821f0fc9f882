"""The responses dialect, with the official `openai` client as its judge."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import httpx
import openai
import pytest
from doorway import CATALOG, Doorway
from pydantic import BaseModel

from models.answerer import as_events
from models.call import Call
from models.errors import BadRequest, NotFound, Overloaded, StoreUnavailable, Unavailable
from models.messages import (
    FUSED,
    Completion,
    Done,
    Event,
    Image,
    Message,
    Named,
    Progress,
    Reasoning,
    ReasoningDelta,
    Request,
    ResponseFormat,
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
from serve.access.caller import Caller
from serve.dialects import responses
from serve.editions.edition import Fixed

LOOK = {
    "type": "function",
    "name": "look",
    "description": "Looks.",
    "parameters": {"type": "object", "properties": {"at": {"type": "string"}}},
    "strict": True,
}
CALLS = Message(
    "assistant",
    (Text("let me look"),),
    tool_calls=(ToolCall("c1", "look", '{"at":"x"}'), ToolCall("c2", "look", '{"at":"y"}')),
    reasoning=(Reasoning("hm well", signature="seal"), Reasoning(redacted="hidden")),
)


def parse(**body: Any) -> Request:
    return responses.parse(json.dumps({"model": "m", "input": "hi"} | body).encode()).request


def param(**body: Any) -> str | None:
    with pytest.raises(BadRequest) as caught:
        parse(**body)
    return caught.value.param


# Requests


def test_a_text_is_a_users_message_and_instructions_come_first() -> None:
    assert parse().messages == (user("hi"),)
    assert parse(instructions="be brief").messages == (system("be brief"), user("hi"))


def test_items_of_every_kind_arrive() -> None:
    asked = parse(
        input=[
            {"role": "developer", "content": "be kind"},
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "what is this?"},
                    {"type": "input_image", "image_url": "data:image/png;base64,AA"},
                ],
            },
            {
                "type": "reasoning",
                "id": "rs_1",
                "summary": [],
                "content": [{"type": "reasoning_text", "text": "hm"}],
                "encrypted_content": "seal",
            },
            {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"},
            {"type": "function_call", "call_id": "c2", "name": "look", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "a cat"},
            {
                "type": "function_call_output",
                "call_id": "c2",
                "output": [{"type": "input_text", "text": "a dog"}],
            },
            {"role": "assistant", "content": "It is a cat."},
            {"role": "user", "content": "sure?"},
        ]
    )
    assert asked.messages == (
        Message("developer", (Text("be kind"),)),
        Message("user", (Text("what is this?"), Image("data:image/png;base64,AA"))),
        Message(
            "assistant",
            tool_calls=(ToolCall("c1", "look", "{}"), ToolCall("c2", "look", "{}")),
            reasoning=(Reasoning("hm", signature="seal"),),
        ),
        Message("tool", (Text("a cat"),), tool_call_id="c1"),
        Message("tool", (Text("a dog"),), tool_call_id="c2"),
        assistant("It is a cat."),
        user("sure?"),
    )


def test_two_answers_in_a_row_stay_two() -> None:
    two = [{"role": "assistant", "content": word} for word in ("one", "two")]
    assert parse(input=two).messages == (assistant("one"), assistant("two"))


def test_the_output_of_an_answer_goes_back_in_as_it_came_out() -> None:
    answer = Completion("m", CALLS, "tool_calls", turns=(FUSED, CALLS))
    output = responses.whole(answer, responses.parse(b'{"model":"m","input":"hi"}'), "1")["output"]
    assert [item["type"] for item in output] == [
        "openrouter:fusion",
        "reasoning",
        "reasoning",
        "message",
        "function_call",
        "function_call",
    ]
    *fused, goes_on = parse(input=output).messages
    assert goes_on == CALLS
    assert [message.role for message in fused] == ["assistant", "tool"]


def told_by(*turns: Message, message: Message, identity: str = "1") -> list[dict[str, Any]]:
    """The output of an answer that came about so."""
    asked = responses.parse(b'{"model":"m","input":"hi"}')
    found = {"id": "fus_1", "analysis": {"consensus": ["it is wet"]}}
    output: list[dict[str, Any]] = responses.whole(
        Completion("m", message, turns=turns, extension=found), asked, identity
    )["output"]
    return output


def test_what_was_said_around_a_fusion_is_in_order_and_goes_back_in_as_one_answer() -> None:
    thinks = replace(assistant("\n\nWet."), reasoning=(Reasoning("hm", signature="seal"),))
    whole = replace(thinks, content=(Text("Let me ask."), Text("\n\nWet.")))
    output = told_by(assistant("Let me ask."), FUSED, thinks, message=whole)
    kinds = [item["type"] for item in output]
    assert kinds == ["message", "openrouter:fusion", "reasoning", "message"]
    assert len({item["id"] for item in output}) == 4
    assert parse(input=[*output, {"role": "user", "content": "sure?"}]).messages == (
        whole,
        user("sure?"),
    )


def test_answers_that_had_a_fusion_each_stay_two() -> None:
    output = [
        *told_by(FUSED, assistant("Wet."), message=assistant("Wet."), identity="1"),
        *told_by(FUSED, CALLS, message=CALLS, identity="2"),
    ]
    wet, asked, found, goes_on = parse(input=output).messages
    assert (wet, found.role, goes_on) == (assistant("Wet."), "tool", CALLS)
    assert (asked.text, [call.name for call in asked.tool_calls]) == ("", ["openrouter_fusion"])
    output[-len(CALLS.tool_calls) :] = []
    words = [message.text for message in parse(input=output).messages]
    assert words == ["Wet.", CALLS.text]


def test_a_turn_that_goes_on_with_a_call_keeps_its_fusion_between_what_was_said() -> None:
    calls = replace(CALLS, content=(Text("\n\nI look."),))
    output = told_by(assistant("Let me ask."), FUSED, calls, message=calls)
    asked, found, goes_on = parse(input=output).messages
    assert (asked.text, asked.tool_calls) == (
        "Let me ask.",
        (ToolCall("fus_1", "openrouter_fusion", "{}"),),
    )
    assert (found.tool_call_id, "it is wet" in found.text) == ("fus_1", True)
    assert goes_on == calls


def test_settings() -> None:
    asked = parse(
        temperature=0.5,
        top_p=0.9,
        max_output_tokens=7,
        reasoning={"effort": "high", "summary": "auto"},
        tools=[LOOK],
        tool_choice={"type": "function", "name": "look"},
        parallel_tool_calls=False,
        text={"format": {"type": "json_schema", "name": "x", "schema": {}, "strict": True}},
    )
    sampling = asked.sampling
    assert (sampling.temperature, sampling.top_p, sampling.max_tokens) == (0.5, 0.9, 7)
    assert asked.tools == (Tool("look", "Looks.", LOOK["parameters"], strict=True),)
    assert (asked.tool_choice, asked.parallel_tool_calls) == (Named("look"), False)
    assert asked.response_format == ResponseFormat("json_schema", "x", {}, True)
    assert asked.effort == "high"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": 5}, "input"),
        ({"input": [{"role": "wizard", "content": "x"}]}, "input.0.role"),
        ({"input": [{"role": "user"}]}, "input.0.content"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file"}]}]},
            "input.0.content.0.type",
        ),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0.type"),
        ({"input": [{"type": "function_call", "name": "f", "arguments": ""}]}, "input.0.call_id"),
        ({"input": [{"type": "reasoning", "content": "x"}]}, "input.0.content"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tools": [{"type": "function"}]}, "tools.0.name"),
        ({"tools": [LOOK], "tool_choice": {"type": "function", "name": "f"}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "any"}, "tool_choice"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": "warm"}, "temperature"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"include": ["message.output_text.logprobs"]}, "include"),
        ({"conversation": "c"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"n": 2}, "n"),
        ({"stop": "x"}, "stop"),
        ({"fusion": {"evnts": True}}, "fusion.evnts"),
        ({"previous_response_id": "resp_"}, "previous_response_id"),
        ({"tools": [LOOK | {"defer_loading": True}]}, "tools.0.defer_loading"),
        ({"tools": [LOOK | {"allowed_callers": ["programmatic"]}]}, "tools.0.allowed_callers.0"),
        ({"plugins": [{"id": "fusion", "max_tool_calls": 17}]}, "plugins.0.max_tool_calls"),
        (
            {"tools": [{"type": "openrouter:fusion", "parameters": {"analysis_models": []}}]},
            "tools.0.parameters.analysis_models",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(body: dict[str, Any], field: str) -> None:
    assert param(**body) == field


def test_what_changes_nothing_is_accepted() -> None:
    plain = LOOK | {"defer_loading": False, "allowed_callers": ["direct"]}
    assert parse(tools=[plain]) == parse(tools=[LOOK])
    image = {"type": "input_image", "image_url": "https://a.example/x.png"}
    shown = image | {"detail": "original", "file_id": None}
    asked = parse(input=[{"role": "user", "content": [shown]}])
    assert asked.messages[0].content == (Image("https://a.example/x.png", "high"),)


def test_the_most_effort_is_our_highest() -> None:
    assert parse(reasoning={"effort": "max"}).effort == "xhigh"


def test_an_empty_result_of_a_tool_is_something() -> None:
    result = {"type": "function_call_output", "call_id": "c", "output": ""}
    assert parse(input=[result]).messages == (Message("tool", tool_call_id="c"),)


# Answers


def test_a_whole_answer(doorway: Doorway) -> None:
    model = doorway.says("hello there")
    answer = doorway.openai.responses.create(
        model="m", input="hi you", instructions="be brief", metadata={"job": "7"}, temperature=0.5
    )
    assert answer.output_text == "hello there"
    assert (answer.status, answer.model, answer.object) == ("completed", "m", "response")
    assert answer.id.startswith("resp_req_")
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (4, 2)
    assert (answer.usage.total_tokens, answer.metadata) == (6, {"job": "7"})
    assert (answer.instructions, answer.temperature) == ("be brief", 0.5)
    assert answer.store is False  # nothing is kept here
    assert answer.model_extra is not None
    assert answer.model_extra["fusion"]["cost_usd"] == "0"
    [(_, call)] = model.calls
    assert call.metadata == (("job", "7"),)


def test_thoughts_and_calls(doorway: Doorway) -> None:
    doorway.says(CALLS)
    answer = doorway.openai.responses.create(model="m", input="hi", tools=[LOOK])  # type: ignore[list-item]
    thought, hidden, message, first, second = answer.output
    assert thought.type == "reasoning"
    assert thought.content is not None
    assert (thought.content[0].text, thought.encrypted_content) == ("hm well", "seal")
    assert hidden.type == "reasoning"
    assert (hidden.content, hidden.encrypted_content) == ([], "hidden:hidden")
    assert message.type == "message"
    for call, identity in ((first, "c1"), (second, "c2")):
        assert call.type == "function_call"
        assert (call.call_id, call.name) == (identity, "look")


class Point(BaseModel):
    x: int
    y: int


def test_structured_output(doorway: Doorway) -> None:
    model = doorway.says('{"x": 1, "y": 2}')
    answer = doorway.openai.responses.parse(model="m", input="where?", text_format=Point)
    assert answer.output_parsed == Point(x=1, y=2)
    [(request, _)] = model.calls
    assert request.response_format is not None
    assert (request.response_format.kind, request.response_format.strict) == ("json_schema", True)


@pytest.mark.parametrize(
    ("reason", "status", "why"),
    [
        ("length", "incomplete", "max_output_tokens"),
        ("content_filter", "incomplete", "content_filter"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_stops_short_says_why(
    doorway: Doorway, reason: Any, status: str, why: str, stream: bool
) -> None:
    doorway.plays(TextDelta("half"), Done(Completion("m", assistant("half"), reason)))
    answer: Any = doorway.openai.responses.create(model="m", input="hi", stream=stream)
    if stream:
        *_, last = answer
        assert last.type == f"response.{status}"
        answer = last.response
    assert (answer.status, answer.incomplete_details.reason) == (status, why)
    assert answer.output_text == "half"


def test_sources_that_are_cited_are_annotations(doorway: Doorway) -> None:
    text = "see https://a.example/xyz, https://a.example/x?q=1 and https://a.example/x. That is all"
    done = Done(
        Completion(
            "m", assistant(text), sources=(Source("https://a.example/x", "X"), Source("b", "B"))
        )
    )
    doorway.plays(TextDelta(text), done)
    whole = doorway.openai.responses.create(model="m", input="hi")
    *_, last = doorway.openai.responses.create(model="m", input="hi", stream=True)
    assert last.type == "response.completed"
    for answer in (whole, last.response):
        message = answer.output[0]
        assert message.type == "message"
        part = message.content[0]
        assert part.type == "output_text"
        [note] = part.annotations
        assert note.type == "url_citation"
        assert (note.url, note.title) == ("https://a.example/x", "X")
        assert text[note.start_index : note.end_index] == note.url


# Streams


def stream(doorway: Doorway, **body: Any) -> list[dict[str, Any]]:
    """The events as they stand on the wire."""
    body = {"model": "m", "input": "hi", "stream": True} | body
    text = httpx.post(f"{doorway.url}/v1/responses", json=body, timeout=20).text
    events = []
    for block in text.split("\n\n"):
        if block.startswith("event: "):
            head, data = block.split("\n", 1)
            events.append(json.loads(data.removeprefix("data: ")))
            assert head == f"event: {events[-1]['type']}"
    return events


def test_the_events_of_a_text_come_in_order(doorway: Doorway) -> None:
    doorway.says("hello there")
    events = stream(doorway)
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[0]["response"]["output"] == []
    assert events[-1]["response"]["output"] == [events[-2]["item"]]
    assert events[-1]["response"]["usage"]["output_tokens"] == 2


def test_the_events_of_thoughts_and_calls(doorway: Doorway) -> None:
    doorway.says(CALLS)
    events = stream(doorway, tools=[LOOK])
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    said = dict.fromkeys(("reasoning_text", "output_text", "function_call_arguments"), 0)
    for event in events:
        for kind in said:
            said[kind] += event["type"] == f"response.{kind}.done"
    assert said == {"reasoning_text": 1, "output_text": 1, "function_call_arguments": 2}
    # Whole and streamed say the same.
    whole = doorway.openai.responses.create(model="m", input="hi", tools=[LOOK])  # type: ignore[list-item]
    final = events[-1]["response"]["output"]
    assert [{**item, "id": ""} for item in final] == [
        {**item.to_dict(), "id": ""} for item in whole.output
    ]


def test_every_item_is_opened_written_and_closed(doorway: Doorway) -> None:
    doorway.says(CALLS)
    open_items: dict[int, str] = {}
    for event in stream(doorway, tools=[LOOK]):
        if event["type"] == "response.output_item.added":
            assert event["item"]["status"] == "in_progress"
            open_items[event["output_index"]] = event["item"]["id"]
        elif event["type"] == "response.output_item.done":
            assert open_items.pop(event["output_index"]) == event["item"]["id"]
            assert event["item"]["status"] == "completed"
        elif "item_id" in event:
            assert open_items[event["output_index"]] == event["item_id"]
    assert open_items == {}


def test_the_clients_stream_helper_reads_ours(doorway: Doorway) -> None:
    doorway.says(CALLS)
    with doorway.openai.responses.stream(model="m", input="hi", tools=[LOOK]) as events:  # type: ignore[list-item]
        snapshots = [e.snapshot for e in events if e.type == "response.output_text.delta"]
        final = events.get_final_response()
    assert snapshots[-1] == final.output_text == "let me look"
    calls = [item for item in final.output if item.type == "function_call"]
    assert [call.arguments for call in calls] == ['{"at":"x"}', '{"at":"y"}']


def test_the_clients_stream_helper_parses(doorway: Doorway) -> None:
    doorway.says('{"x": 1, "y": 2}')
    with doorway.openai.responses.stream(model="m", input="hi", text_format=Point) as events:
        assert events.get_final_response().output_parsed == Point(x=1, y=2)


async def test_the_asynchronous_client_reads_ours_too(doorway: Doorway) -> None:
    doorway.says("hello there")
    async with (
        openai.AsyncOpenAI(base_url=f"{doorway.url}/v1", api_key="none") as client,
        client.responses.stream(model="m", input="hi") as events,
    ):
        assert (await events.get_final_response()).output_text == "hello there"


def test_an_answer_without_a_word_is_one(doorway: Doorway) -> None:
    doorway.says("")
    with doorway.openai.responses.stream(model="m", input="hi") as events:
        assert events.get_final_response().output_text == ""
    assert doorway.openai.responses.create(model="m", input="hi").output_text == ""


# The fusion, by its contract

ANALYSIS: dict[str, Any] = {
    "consensus": ["both say 4"],
    "contradictions": [],
    "partial_coverage": [],
    "unique_insights": [{"model": "a", "insight": "even"}],
    "blind_spots": [],
}
RESULT: dict[str, Any] = {
    "status": "ok",
    "analysis": ANALYSIS,
    "responses": [{"model": "a", "content": "4"}],
    "failed_models": [{"model": "b", "error": "down", "status_code": 503}],
}
ANSWERED = Done(
    Completion(
        "m",
        assistant("4"),
        usage=Usage(10, 5),
        extension={key: value for key, value in RESULT.items() if key != "status"},
        turns=(FUSED, assistant("4")),
    )
)
FUSION: tuple[Event, ...] = (
    Progress("in_progress"),
    Progress("panel.added", {"index": 0, "model": "a"}),
    Progress("panel.added", {"index": 1, "model": "b"}),
    Progress("panel.reasoning.delta", {"index": 0, "model": "a", "delta": "2+2"}),
    Progress("panel.delta", {"index": 0, "model": "a", "delta": "4"}),
    Progress("panel.completed", {"index": 0, "model": "a", "content": "4"}),
    Progress("panel.failed", {"index": 1, "model": "b", "error": "down", "status_code": 503}),
    Progress("analysis.in_progress", {"model": "m"}),
    Progress("analysis.completed", {"analysis": ANALYSIS}),
    Progress("completed", {"result": RESULT}),
    Progress("something.of.ours", {"x": 1}),
    TextDelta("4"),
    ANSWERED,
)


#: The client's stream helper copies the whole response, and pydantic remarks on an item that is
#: none of OpenAI's.
unknown_item = pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")


def test_a_fusion_is_an_item_with_events_of_its_own(doorway: Doorway) -> None:
    doorway.plays(*FUSION)
    events = stream(doorway)
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "fusion_call.in_progress",
        "fusion_call.panel.added",
        "fusion_call.panel.added",
        "fusion_call.panel.reasoning.delta",
        "fusion_call.panel.delta",
        "fusion_call.panel.completed",
        "fusion_call.panel.failed",
        "fusion_call.analysis.in_progress",
        "fusion_call.analysis.completed",
        "fusion_call.completed",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    fusion = [event for event in events if ".fusion_call." in event["type"]]
    assert {(event["item_id"], event["output_index"]) for event in fusion} == {
        (events[2]["item"]["id"], 0)
    }
    assert events[2]["item"] == {
        "type": "openrouter:fusion",
        "id": events[2]["item"]["id"],
        "status": "in_progress",
    }
    assert events[13]["item"] == {
        "type": "openrouter:fusion",
        "id": events[2]["item"]["id"],
        "status": "completed",
        **{key: value for key, value in RESULT.items() if key != "status"},
    }
    assert [item["type"] for item in events[-1]["response"]["output"]] == [
        "openrouter:fusion",
        "message",
    ]


def test_each_event_of_a_panel_says_who(doorway: Doorway) -> None:
    doorway.plays(*FUSION)
    panel = {
        event["type"].removeprefix("response.fusion_call."): event
        for event in stream(doorway)
        if ".fusion_call.panel." in event["type"]
    }
    assert panel["panel.delta"]["delta"] == "4"
    assert panel["panel.reasoning.delta"]["delta"] == "2+2"
    assert (panel["panel.completed"]["model"], panel["panel.completed"]["content"]) == ("a", "4")
    failed = panel["panel.failed"]
    assert (failed["model"], failed["message"], failed["status_code"]) == ("b", "down", 503)


@unknown_item
def test_the_official_client_reads_a_fusion(doorway: Doorway) -> None:
    # It takes an event that it does not know as it is, unless there is an `error` in it.
    doorway.plays(*FUSION)
    raw = list(doorway.openai.responses.create(model="m", input="hi", stream=True))
    assert sum(".fusion_call." in event.type for event in raw) == 10
    with doorway.openai.responses.stream(model="m", input="hi") as events:
        final = events.get_final_response()
    assert final.output_text == "4"
    fusion = final.output[0].to_dict(warnings=False)
    assert (fusion["type"], fusion["status"]) == ("openrouter:fusion", "completed")
    assert fusion["analysis"] == ANALYSIS


def test_a_whole_answer_has_the_same_item(doorway: Doorway) -> None:
    doorway.plays(*FUSION)
    answer = doorway.openai.responses.create(model="m", input="hi")
    streamed = stream(doorway)[-1]["response"]["output"]
    assert answer.output[0].to_dict(warnings=False) | {"id": ""} == streamed[0] | {"id": ""}


def test_an_answer_that_is_told_again_has_its_fusion_too(doorway: Doorway) -> None:
    """With what the panel has it from, and not what its writer knows beside."""
    found = ANSWERED.completion.extension | {
        "sources": [{"url": "https://a.example/", "title": "A"}]
    }
    doorway.plays(*as_events(replace(ANSWERED.completion, extension=found, sources=(Source("b"),))))
    answer = doorway.openai.responses.create(model="m", input="hi")
    whole = [item.to_dict(warnings=False) for item in answer.output]
    streamed = stream(doorway)[-1]["response"]["output"]
    assert [item | {"id": ""} for item in whole] == [item | {"id": ""} for item in streamed]
    assert streamed[0]["sources"] == [{"url": "https://a.example/", "title": "A"}]


@unknown_item
def test_an_answer_that_was_kept_without_its_turns_has_its_fusion_first(doorway: Doorway) -> None:
    doorway.plays(*as_events(replace(ANSWERED.completion, turns=())))
    answer = doorway.openai.responses.create(model="m", input="hi")
    whole = [item.to_dict(warnings=False) for item in answer.output]
    streamed = stream(doorway)[-1]["response"]["output"]
    for output in (whole, streamed):
        assert [item["type"] for item in output] == ["openrouter:fusion", "message"]
        assert output[0]["analysis"] == ANALYSIS


def test_what_is_said_before_a_call_is_told_without_notes_whole_and_streamed(
    doorway: Doorway,
) -> None:
    """A stream has closed it when the call comes, and knows no sources then."""
    calls = replace(CALLS, content=(Text("see https://a.example/"),), reasoning=())
    doorway.plays(*as_events(Completion("m", calls, sources=(Source("https://a.example/"),))))
    answer = doorway.openai.responses.create(model="m", input="hi")
    whole = [item.to_dict(warnings=False) for item in answer.output]
    streamed = stream(doorway)[-1]["response"]["output"]
    for output in (whole, streamed):
        assert [item["type"] for item in output] == ["message", "function_call", "function_call"]
        assert output[0]["content"][0]["annotations"] == []


def test_a_fusion_that_nobody_watched_is_an_item_at_the_end(doorway: Doorway) -> None:
    doorway.plays(Progress("panel.completed", {"model": "a", "content": "4"}), ANSWERED)
    events = stream(doorway)
    kinds = [event["type"] for event in events]
    assert kinds.index("response.fusion_call.in_progress") < kinds.index(
        "response.fusion_call.panel.completed"
    )
    assert events[-1]["response"]["output"][0]["analysis"] == ANALYSIS


@unknown_item
def test_a_fusion_whose_panel_failed_says_so(doorway: Doorway) -> None:
    doorway.plays(
        Progress("in_progress"),
        Progress(
            "completed",
            {
                "result": {
                    "status": "error",
                    "error": "all panel models failed",
                    "failure_reason": "all_panels_failed",
                }
            },
        ),
        TextDelta("alone"),
        Done(Completion("m", assistant("alone"))),
    )
    with doorway.openai.responses.stream(model="m", input="hi") as events:
        fusion = events.get_final_response().output[0].to_dict(warnings=False)
    assert (fusion["status"], fusion["error"], fusion["failure_reason"]) == (
        "failed",
        "all panel models failed",
        "all_panels_failed",
    )


# Failures


def test_errors_have_a_status_and_name_the_field(doorway: Doorway) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        doorway.openai.responses.create(model="m", input="hi", truncation="auto")
    assert (caught.value.param, caught.value.type) == ("truncation", "invalid_request_error")
    with pytest.raises(openai.NotFoundError):
        doorway.openai.responses.create(model="nobody", input="hi")
    doorway.says(Overloaded("full", retry_after_s=1.2))
    for streaming in (False, True):
        with pytest.raises(openai.RateLimitError) as full:
            doorway.openai.responses.create(model="m", input="hi", stream=streaming)
        assert full.value.response.headers["retry-after"] == "2"


def test_a_stream_that_breaks_off_ends_with_failed(doorway: Doorway) -> None:
    class Breaking:
        async def stream(self, request: Request, call: Call) -> Any:
            yield TextDelta("half")
            raise Unavailable("gone")

    doorway.models["m"] = Breaking()
    *_, last = doorway.openai.responses.create(model="m", input="hi", stream=True)
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert (last.response.error.message, last.response.status) == ("gone", "failed")


# Going on from an answer


class Memory:
    def __init__(self) -> None:
        self.kept: dict[str, tuple[Message, ...]] = {}

    async def recall(self, identity: str, who: Caller) -> tuple[Message, ...]:
        if identity not in self.kept:
            raise NotFound(f"No answer 'resp_{identity}'.", param="previous_response_id")
        return self.kept[identity]

    async def keep(
        self, identity: str, conversation: tuple[Message, ...], answer: Completion, who: Caller
    ) -> None:
        self.kept[identity] = (*conversation, answer.message)


def test_without_a_memory_the_client_is_told_to_send_everything(doorway: Doorway) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        doorway.openai.responses.create(model="m", input="hi", previous_response_id="resp_1")
    assert caught.value.param == "previous_response_id"


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_can_be_gone_on_from(doorway: Doorway, stream: bool) -> None:
    doorway.door.memory = Memory()
    model = doorway.says("one")
    client = doorway.openai
    if stream:
        with client.responses.stream(model="m", input="first", instructions="be brief") as events:
            first = events.get_final_response().id
    else:
        made = client.responses.create(model="m", input="first", instructions="be brief")
        assert made.store is True
        first = made.id
    client.responses.create(
        model="m", input="second", instructions="be long", previous_response_id=first
    )
    # Instructions are of their own answer alone.
    assert model.calls[-1][0].messages == (
        system("be long"),
        user("first"),
        assistant("one"),
        user("second"),
    )
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="m", input="x", previous_response_id="resp_nobody")


def test_what_shall_not_be_stored_is_not(doorway: Doorway) -> None:
    doorway.door.memory = memory = Memory()
    doorway.openai.responses.create(model="m", input="first", store=False)
    assert memory.kept == {}


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_the_store_does_not_take_is_given_all_the_same(
    doorway: Doorway, stream: bool
) -> None:
    class Down(Memory):
        async def keep(self, *_: Any) -> None:
            raise StoreUnavailable("the disk is full")

    doorway.door.memory = Down()
    client = doorway.openai
    if stream:
        with client.responses.stream(model="m", input="hi") as events:
            made: Any = events.get_final_response()
    else:
        made = client.responses.create(model="m", input="hi")
    assert (made.output_text, made.store) == ("ok", False)


def test_a_catalog_that_keeps_no_answers_keeps_none(doorway: Doorway) -> None:
    doorway.door.memory = memory = Memory()
    forgetful = CATALOG.model_copy(
        update={"server": CATALOG.server.model_copy(update={"response_days": 0.0})}
    )
    before = doorway.door.editions
    doorway.door.editions = Fixed(replace(before.current, catalog=forgetful))
    try:
        made = doorway.openai.responses.create(model="m", input="hi")
    finally:
        doorway.door.editions = before
    assert (made.store, memory.kept) == (False, {})


def test_a_session_and_an_answer_to_go_on_from_are_one_too_many(doorway: Doorway) -> None:
    doorway.door.memory = Memory()
    with pytest.raises(openai.BadRequestError) as caught:
        doorway.openai.responses.create(
            model="m",
            input="hi",
            previous_response_id="resp_1",
            extra_headers={"x-session-id": "ses_1"},
        )
    assert caught.value.param == "previous_response_id"


def test_pieces_of_two_calls_may_mix(doorway: Doorway) -> None:
    doorway.plays(
        ToolCallDelta(0, "", id="c1", name="look"),
        ToolCallDelta(1, "", id="c2", name="look"),
        ToolCallDelta(0, "{}"),
        ToolCallDelta(1, '{"at":1}'),
        Done(Completion("m", Message("assistant"), "tool_calls")),
    )
    with doorway.openai.responses.stream(model="m", input="hi", tools=[LOOK]) as events:  # type: ignore[list-item]
        calls = [i for i in events.get_final_response().output if i.type == "function_call"]
    assert [call.arguments for call in calls] == ["{}", '{"at":1}']


def test_a_thought_without_a_seal_ends_with_the_text(doorway: Doorway) -> None:
    doorway.plays(
        ReasoningDelta("hm"),
        TextDelta("4"),
        Done(Completion("m", Message("assistant", (Text("4"),), reasoning=(Reasoning("hm"),)))),
    )
    with doorway.openai.responses.stream(model="m", input="hi") as events:
        thought, message = events.get_final_response().output
    assert thought.type == "reasoning"
    assert thought.encrypted_content is None
    assert message.type == "message"
