"""The Fusion contract over HTTP, field by field, read by the official client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import httpx
import openai
import pytest
from doorway import Doorway, doorway

from models.call import Call
from models.catalog import Catalog
from models.errors import BadRequest, BudgetExceeded, RateLimited, Unavailable
from models.fake import FakeModel
from models.messages import (
    Completion,
    Done,
    Message,
    Reasoning,
    Request,
    Source,
    Text,
    ToolCall,
    assistant,
)
from router.live import Plan, Question
from serve.fusion.contract import Analysis
from serve.fusion.judge import ModelJudge
from serve.pipeline import Models, Pipeline

EMPTY: dict[str, Any] = {key: [] for key in Analysis.model_fields}
FOUND = EMPTY | {
    "consensus": ["water is a liquid"],
    "contradictions": [
        {
            "topic": "wetness",
            "stances": [{"model": "A", "stance": "wet"}, {"model": "B", "stance": "dry"}],
        }
    ],
}
CATALOG = Catalog.model_validate(
    {
        "models": {
            "outer": {"engine": "openai", "price": {"input": 1, "output": 1}},
            **{name: {"engine": "fake"} for name in ("one", "two", "three", "judge", "writer")},
        },
        "panels": {
            "default": {"members": ["one", "two"], "synthesis": "writer"},
            "general-fast": {"members": ["one"], "synthesis": "writer"},
            "general-high": {"members": ["one", "two", "three"], "synthesis": "writer"},
        },
        "roles": {"judge": "judge"},
    }
)
MESSAGES: list[Any] = [{"role": "user", "content": "Is water wet?"}]
NAMES = ("openrouter/fusion", "openrouter/fusion-flash", "outer", "one", "nobody")


class NoRouter:
    async def decide(self, question: Question) -> Plan:
        raise AssertionError("nobody asked for it")


class House:
    """A server whose models say what a test wants."""

    def __init__(self, door: Doorway) -> None:
        self.door = door
        self.openai = door.openai
        said = {"one": "Yes.", "two": "No.", "three": "Perhaps.", "writer": "It depends."}
        said |= {"judge": json.dumps(FOUND), "outer": "From outside."}
        self.fakes = {name: FakeModel(name, reply) for name, reply in said.items()}
        models = Models(CATALOG, self.fakes)
        pipeline = Pipeline(CATALOG, models, ModelJudge(models), NoRouter())
        for name in NAMES:
            door.models[name] = pipeline

    def chat(self, **body: Any) -> dict[str, Any]:
        response = httpx.post(
            f"{self.door.url}/v1/chat/completions", json={"messages": MESSAGES} | body, timeout=20
        )
        return {"status": response.status_code} | response.json()

    def asked(self) -> set[str]:
        """The panelists that were asked."""
        calls = ((name, call.role) for name, fake in self.fakes.items() for _, call in fake.calls)
        return {name for name, role in calls if role == "panelist"}


@pytest.fixture(scope="module")
def open_door() -> Iterator[Doorway]:
    with doorway() as door:
        yield door


@pytest.fixture
def house(open_door: Doorway) -> House:
    return House(open_door)


# Entries


def test_the_alias_runs_the_default_panel_and_the_writer_signs(house: House) -> None:
    answer = house.openai.chat.completions.create(model="openrouter/fusion", messages=MESSAGES)
    assert (answer.model, answer.choices[0].message.content) == ("writer", "It depends.")
    assert house.asked() == {"one", "two"}
    assert answer.usage is not None
    stages = (answer.model_extra or {})["fusion"]["stages"]
    assert answer.usage.prompt_tokens == sum(stage["input_tokens"] for stage in stages)


def test_flash_is_the_fast_preset(house: House) -> None:
    house.chat(model="openrouter/fusion-flash")
    assert house.asked() == {"one"}


def test_a_plugin_on_a_model_lets_that_model_write(house: House) -> None:
    answer = house.chat(model="outer", plugins=[{"id": "fusion"}])
    assert (answer["model"], answer["choices"][0]["message"]["content"]) == (
        "outer",
        "From outside.",
    )
    assert house.asked() == {"one", "two"}


def test_a_plugin_that_is_off_leaves_the_model_alone(house: House) -> None:
    house.chat(model="outer", plugins=[{"id": "fusion", "enabled": False}])
    assert house.asked() == set()


def test_a_preset_is_a_panel_of_the_catalog_and_explicit_models_win(house: House) -> None:
    house.chat(model="openrouter/fusion", plugins=[{"id": "fusion", "preset": "general-high"}])
    assert house.asked() == {"one", "two", "three"}
    for fake in house.fakes.values():
        fake.calls.clear()
    plugin = {"id": "fusion", "preset": "general-high", "analysis_models": ["three", "three"]}
    answer = house.chat(model="openrouter/fusion", plugins=[plugin], fusion={"expose_panel": True})
    assert house.asked() == {"three"}
    assert [one["model"] for one in answer["fusion"]["responses"]] == ["three", "three#2"]


def test_the_judge_that_a_request_names_judges_and_writes(house: House) -> None:
    house.fakes["three"].reply = [json.dumps(EMPTY), "Three wrote it."]
    answer = house.chat(model="openrouter/fusion", plugins=[{"id": "fusion", "model": "three"}])
    assert answer["choices"][0]["message"]["content"] == "Three wrote it."
    assert [call.role for _, call in house.fakes["three"].calls] == ["judge", "synthesis"]


def test_the_tool_is_called_by_the_outer_model_when_it_wants_to(house: House) -> None:
    tools = [{"type": "openrouter:fusion", "parameters": {"temperature": 0.7}}]
    house.fakes["outer"].reply = "No need."
    assert house.chat(model="outer", tools=tools)["choices"][0]["message"]["content"] == "No need."
    assert house.asked() == set()
    call = ToolCall("c", "openrouter_fusion", "{}")
    house.fakes["outer"].reply = [Message("assistant", (), tool_calls=(call,)), "They say yes."]
    answer = house.chat(model="outer", tools=tools, tool_choice="required")
    assert answer["choices"][0]["message"]["content"] == "They say yes."
    assert house.asked() == {"one", "two"}
    asked, _ = house.fakes["one"].calls[0]
    assert (asked.sampling.temperature, asked.sampling.max_tokens) == (0.7, 16_000)
    assert house.fakes["judge"].calls[0][0].sampling.temperature == 0.0
    assert [request.tool_choice for request, _ in house.fakes["outer"].calls[1:]] == [
        "required",
        None,
    ]


# Ranges


@pytest.mark.parametrize(
    ("plugin", "status", "field"),
    [
        ({"analysis_models": []}, 400, "plugins.0.analysis_models"),
        ({"analysis_models": ["one"] * 9}, 400, "plugins.0.analysis_models"),
        ({"analysis_models": ["nobody"]}, 404, "analysis_models"),
        ({"analysis_models": ["openrouter/fusion"]}, 400, "analysis_models"),
        ({"model": "nobody"}, 404, "model"),
        ({"preset": "general-budget"}, 400, "preset"),
        ({"max_tool_calls": 0}, 400, "plugins.0.max_tool_calls"),
        ({"max_tool_calls": 17}, 400, "plugins.0.max_tool_calls"),
        ({"tools": "web_search"}, 400, "plugins.0.tools"),
        ({"tools": [{"type": "web_search"}] * 9}, 400, "plugins.0.tools"),
        ({"tools": [7]}, 400, "plugins.0.tools.0"),
    ],
)
def test_a_field_out_of_its_range_is_named(
    house: House, plugin: dict[str, Any], status: int, field: str
) -> None:
    answer = house.chat(model="openrouter/fusion", plugins=[{"id": "fusion"} | plugin])
    assert (answer["status"], answer["error"]["param"]) == (status, field)
    assert not any(fake.calls for fake in house.fakes.values())


# The result


def test_the_result_has_its_exact_shape(house: House) -> None:
    house.fakes["two"].reply = Unavailable("gone")
    told = house.chat(model="openrouter/fusion", fusion={"expose_panel": True})["fusion"]
    assert told["status"] == "ok"
    assert list(told["analysis"]) == [
        "consensus",
        "contradictions",
        "partial_coverage",
        "unique_insights",
        "blind_spots",
    ]
    assert told["responses"] == [{"model": "one", "content": "Yes."}]
    assert told["failed_models"] == [{"model": "two", "error": "gone", "status_code": 503}]


def test_a_judge_that_fails_leaves_the_analysis_out(house: House) -> None:
    house.fakes["judge"].reply = "prose"
    told = house.chat(model="openrouter/fusion")["fusion"]
    assert (told["status"], told["failure_reason"]) == ("ok", "judge_not_valid_json")
    assert "analysis" not in told


def breaks(_: Request) -> str:
    raise RuntimeError("a bug")


@pytest.mark.parametrize(
    ("judge", "reason"),
    [
        ("prose", "judge_not_valid_json"),
        ("", "judge_empty_completion"),
        ('{"consensus": 7}', "judge_schema_mismatch"),
        (Unavailable("gone"), "judge_upstream_error"),
        (RateLimited("slower"), "rate_limited"),
        (BudgetExceeded("spent"), "insufficient_credits"),
        (breaks, "unexpected_error"),
    ],
)
def test_why_a_judge_failed_is_told_and_the_answer_written_all_the_same(
    house: House, judge: Any, reason: str
) -> None:
    house.fakes["judge"].reply = judge
    answer = house.chat(model="openrouter/fusion", fusion={"expose_panel": True})
    told = answer["fusion"]
    assert (told["status"], told["failure_reason"]) == ("ok", reason)
    assert "analysis" not in told
    assert len(told["responses"]) == 2
    assert answer["choices"][0]["message"]["content"] == "It depends."


@pytest.mark.parametrize(
    ("panel", "reason"),
    [
        (Unavailable("gone"), "all_panels_failed"),
        (RateLimited("slower"), "rate_limited"),
        (BudgetExceeded("spent"), "insufficient_credits"),
        (breaks, "all_panels_failed"),
    ],
)
def test_why_a_whole_panel_failed_is_told(house: House, panel: Any, reason: str) -> None:
    for name in ("one", "two"):
        house.fakes[name].reply = panel
    stream = house.openai.responses.create(
        model="openrouter/fusion", input="Is water wet?", stream=True
    )
    events: list[Any] = []
    with suppress(openai.APIError):  # it may raise at the end; what came before counts
        events += map(plain, stream)
    [done] = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done["error"] == "all panel models failed"
    assert done["failure_reason"] == reason


def test_a_caller_inside_a_fusion_may_not_begin_one(house: House) -> None:
    response = httpx.post(
        f"{house.door.url}/v1/chat/completions",
        json={"model": "openrouter/fusion", "messages": MESSAGES},
        headers={"x-openrouter-fusion-depth": "1"},
        timeout=20,
    )
    assert response.status_code == 400
    assert "inside a fusion" in response.json()["error"]["message"]


# Responses


def plain(event: Any) -> dict[str, Any]:
    """The event's JSON. Its item is of a type that the client does not know."""
    told: dict[str, Any] = event.model_dump(warnings=False)
    return told


def test_the_official_client_reads_a_fusion_as_a_response(house: House) -> None:
    answer = house.openai.responses.create(model="openrouter/fusion", input="Is water wet?")
    assert answer.output_text == "It depends."
    item = answer.output[0].to_dict()
    assert (item["type"], item["status"]) == ("openrouter:fusion", "completed")
    assert set(item["analysis"]) == set(EMPTY)  # type: ignore[arg-type]
    assert [one["model"] for one in item["responses"]] == ["one", "two"]  # type: ignore[attr-defined]


def test_a_responses_stream_tells_of_the_fusion_in_order(house: House) -> None:
    stream = house.openai.responses.create(
        model="openrouter/fusion", input="Is water wet?", stream=True
    )
    events = [plain(event) for event in stream]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    prefix = "response.fusion_call."
    told = [event for event in events if str(event["type"]).startswith(prefix)]
    kinds = [str(event["type"]).removeprefix(prefix) for event in told]
    assert kinds[:3] == ["in_progress", "panel.added", "panel.added"]
    assert sorted(kinds[3:7]) == [*(["panel.completed"] * 2), *(["panel.delta"] * 2)]
    assert kinds[7:] == ["analysis.in_progress", "analysis.completed", "completed"]
    assert len({(event["item_id"], event["output_index"]) for event in told}) == 1
    texts = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    assert "".join(map(str, texts)) == "It depends."
    assert events[-1]["type"] == "response.completed"


def test_a_panel_that_fails_whole_is_told_with_its_reason(house: House) -> None:
    for name in ("one", "two"):
        house.fakes[name].reply = Unavailable("gone")
    with pytest.raises(openai.APIStatusError) as caught:
        house.openai.responses.create(model="openrouter/fusion", input="Is water wet?")
    assert caught.value.status_code == 502
    assert "all panel models failed" in caught.value.message
    stream = house.openai.responses.create(
        model="openrouter/fusion", input="Is water wet?", stream=True
    )
    events: list[Any] = []
    with suppress(openai.APIError):  # it may raise at the end; what came before counts
        events += map(plain, stream)
    [done] = [event for event in events if event["type"] == "response.output_item.done"]
    assert (done["item"]["status"], done["item"]["failure_reason"]) == (
        "failed",
        "all_panels_failed",
    )


CALLED = Message("assistant", tool_calls=(ToolCall("c1", "openrouter_fusion", "{}"),))
BY_TOOL = {"model": "outer", "input": "Is water wet?", "tools": [{"type": "openrouter:fusion"}]}


def fusion_items(house: House, **body: Any) -> list[tuple[dict[str, Any], Any]]:
    """The fusion's item and the usage of a response, whole and streamed."""
    found = []
    for stream in (False, True):
        house.fakes["outer"].reply = [CALLED, "From outside."]
        answer = house.openai.responses.create(**{**BY_TOOL, **body}, stream=stream)
        if stream:
            *_, last = [plain(event) for event in answer]
            told = last["response"]
        else:
            told = plain(answer)
        [item] = [one for one in told["output"] if one["type"] == "openrouter:fusion"]
        found.append((item, told["usage"]["input_tokens"]))
    return found


def outputs(house: House, *said: Any) -> list[list[dict[str, Any]]]:
    """The items of a response whose outer model says this, whole and streamed."""
    found = []
    for stream in (False, True):
        house.fakes["outer"].reply = list(said)
        answer = house.openai.responses.create(**BY_TOOL, stream=stream)
        told = [plain(event) for event in answer][-1]["response"] if stream else plain(answer)
        found.append(told["output"])
    return found


def kinds_and_texts(items: list[dict[str, Any]]) -> list[tuple[str, str]]:
    parts = {"message": "content", "reasoning": "content"}
    return [
        (one["type"], "".join(part["text"] for part in one[parts[one["type"]]]))
        if one["type"] in parts
        else (one["type"], "")
        for one in items
    ]


def test_the_items_are_what_happened_in_order_whole_and_streamed(house: House) -> None:
    first = replace(CALLED, content=(Text("Let me ask."),), reasoning=(Reasoning("Hard."),))
    again = replace(CALLED, content=(Text("Once more."),))
    last = replace(assistant("Wet."), reasoning=(Reasoning("Easy."),))
    whole, streamed = outputs(house, first, again, last)
    assert (
        kinds_and_texts(whole)
        == kinds_and_texts(streamed)
        == [
            ("reasoning", "Hard."),
            ("message", "Let me ask."),
            ("openrouter:fusion", ""),
            ("message", "\n\nOnce more."),
            ("reasoning", "Easy."),
            ("message", "\n\nWet."),
        ]
    )


def test_the_items_of_steps_that_say_nothing_between_are_alike_too(house: House) -> None:
    first = replace(CALLED, content=(Text("Let me ask."),))
    again = replace(CALLED, content=(Text("Once more."),))
    whole, streamed = outputs(house, first, again, "Wet.")
    assert (
        kinds_and_texts(whole)
        == kinds_and_texts(streamed)
        == [
            ("message", "Let me ask."),
            ("openrouter:fusion", ""),
            ("message", "\n\nOnce more.\n\nWet."),
        ]
    )


@pytest.mark.parametrize("panel", [["one", "two"], ["nobody"]])
def test_a_tools_fusion_that_fails_is_told_alike_whole_and_streamed(
    house: House, panel: list[str]
) -> None:
    for name in ("one", "two"):
        house.fakes[name].reply = Unavailable("down")
    tool = {"type": "openrouter:fusion", "parameters": {"analysis_models": panel}}
    (whole, used), (streamed, also_used) = fusion_items(house, tools=[tool])
    assert whole["status"] == streamed["status"] == "failed"
    assert whole["error"] == streamed["error"]
    assert used == also_used


def test_panelists_that_were_asked_wrongly_are_a_failed_panel(house: House) -> None:
    for name in ("one", "two"):
        house.fakes[name].reply = BadRequest("too long")
    for item, _ in fusion_items(house):
        assert item["failure_reason"] == "all_panels_failed"


def test_no_fusion_inside_a_fusion_by_the_tool_either(house: House) -> None:
    deep = {"x-openrouter-fusion-depth": "1"}
    for item, _ in fusion_items(house, extra_headers=deep):
        assert item["failure_reason"] == "fusion_invocation_capped"


def test_sources_are_on_the_item_whole_and_streamed(house: House) -> None:
    class Cites(FakeModel):
        async def complete(self, request: Request, call: Call) -> Completion:
            source = Source("https://a.example/x", "X")
            return replace(await super().complete(request, call), sources=(source,))

        async def stream(self, request: Request, call: Call) -> Any:
            yield Done(await self.complete(request, call))

    house.fakes["one"] = Cites("one", "Yes.")
    models = Models(CATALOG, house.fakes)
    pipeline = Pipeline(CATALOG, models, ModelJudge(models), NoRouter())
    house.door.models["outer"] = pipeline
    for item, _ in fusion_items(house):
        assert item["sources"] == [{"url": "https://a.example/x", "title": "X"}]


def test_labels_in_the_judges_texts_are_names_again() -> None:
    found = Analysis.model_validate(
        EMPTY
        | {
            "consensus": ["Answers A, B and C agree on vitamin C."],
            "unique_insights": [
                {"model": "Answer B", "insight": "Unlike answer A it says so; plan B."}
            ],
        }
    ).renamed({"A": "one", "B": "two#2", "C": "three"})
    assert found.consensus == ("one, two#2 and three agree on vitamin C.",)
    assert found.unique_insights[0].insight == "Unlike one it says so; plan B."


def test_a_tool_that_is_required_is_a_fusion_that_always_runs(house: House) -> None:
    answer = house.chat(model="openrouter/fusion", tool_choice="required")
    assert answer["status"] == 200
    assert house.chat(model="outer", tool_choice="required")["status"] == 400


def test_models_that_are_named_need_no_panel(open_door: Doorway) -> None:
    known = CATALOG.model_copy(update={"panels": {}})
    house = House(open_door)
    models = Models(known, house.fakes)
    pipeline = Pipeline(known, models, ModelJudge(models), NoRouter())
    house.door.models["openrouter/fusion"] = pipeline
    plugin = {"id": "fusion", "analysis_models": ["one", "three"]}
    assert house.chat(model="openrouter/fusion", plugins=[plugin])["status"] == 200
    assert house.asked() == {"one", "three"}


def test_a_turn_that_goes_on_with_a_function_keeps_what_its_fusion_found(house: House) -> None:
    own = {"type": "function", "name": "look", "parameters": {"type": "object"}}
    tools = [own, {"type": "openrouter:fusion"}]
    looks = Message("assistant", tool_calls=(ToolCall("c2", "look", "{}"),))
    house.fakes["outer"].reply = [CALLED, looks]
    first = plain(house.openai.responses.create(**{**BY_TOOL, "tools": tools}))
    assert [one["type"] for one in first["output"]] == ["openrouter:fusion", "function_call"]
    asked = [
        {"role": "user", "content": "Is water wet?"},
        *first["output"],
        {"type": "function_call_output", "call_id": "c2", "output": "seen"},
    ]
    house.fakes["outer"].reply = [CALLED, "Done."]
    before = len(house.fakes["one"].calls)
    second = plain(house.openai.responses.create(**{**BY_TOOL, "tools": tools, "input": asked}))
    assert [one["type"] for one in second["output"]] == ["message"]
    assert len(house.fakes["one"].calls) == before, "one invocation a turn"
    shown, _ = house.fakes["outer"].calls[-2]
    assert [message.role for message in shown.messages] == [
        *("user", "assistant", "tool", "assistant", "tool")
    ]
    assert "water is a liquid" in shown.messages[2].text
