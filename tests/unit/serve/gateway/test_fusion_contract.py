"""The Fusion contract from a client's side: the official client, the door, the real fusion, and
fake models behind it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from doorway import Doorway
from doorway import doorway as open_doorway

from models.answerer import Answerer
from models.catalog import Catalog
from models.errors import Unavailable
from models.fake import FakeModel
from models.messages import FUSION_TOOL, Message, Request, ToolCall
from router.live import Plan, Question
from serve.fusion.contract import Analysis
from serve.fusion.judge import ModelJudge
from serve.pipeline import Pipeline

CATALOG = Catalog.model_validate(
    {
        "models": {
            "outer": {"engine": "openai"},
            "plain": {"engine": "fake"},
            "one": {"engine": "fake"},
            "two": {"engine": "fake"},
            "judge": {"engine": "fake", "max_output": 2048},
        },
        "panels": {
            "default": {"members": ["one", "two"]},
            "general-fast": {"members": ["one"]},
            "mine": {"members": ["one", "one"]},
        },
        "roles": {"judge": "judge"},
    }
)
ANALYSIS: dict[str, Any] = {key: [] for key in Analysis.model_fields} | {"consensus": ["yes"]}
TOOL: dict[str, Any] = {"type": FUSION_TOOL}
HELLO: list[Any] = [{"role": "user", "content": "Is water wet?"}]


class NoRouter:
    async def decide(self, question: Question) -> Plan:
        raise AssertionError("nobody asked for it")


def wired(models: Answerer) -> Answerer:
    return Pipeline(CATALOG, models, ModelJudge(models), NoRouter())


@pytest.fixture(scope="module")
def _fusion() -> Iterator[Doorway]:
    with open_doorway(CATALOG, wired) as running:
        yield running


def judging(request: Request) -> str:
    """The judge compares when it is held to a schema, and writes when it is not."""
    return json.dumps(ANALYSIS) if request.response_format else "It is wet."


@pytest.fixture
def fusion(_fusion: Doorway) -> Doorway:
    said: dict[str, Any] = {"one": "Yes.", "two": "No.", "plain": "Plainly.", "judge": judging}
    _fusion.models.clear()
    _fusion.models.update({name: FakeModel(name, reply) for name, reply in said.items()})
    # A function's name may hold no colon.
    call = ToolCall("c1", FUSION_TOOL.replace(":", "_"), "{}")
    _fusion.models["outer"] = FakeModel("outer", [Message("assistant", tool_calls=(call,)), "Wet."])
    return _fusion


def panel_of(fusion: Doorway) -> list[str]:
    """Who was asked as a panelist."""
    return [
        name
        for name in ("one", "two")
        for _, call in fusion.models[name].calls
        if call.role == "panelist"
    ]


# Chat


@pytest.mark.parametrize(
    ("model", "panel"),
    [
        ("openrouter/fusion", ["one", "two"]),
        ("openrouter/fusion-flash", ["one"]),
        ("fusion/mine", ["one", "one"]),
    ],
)
def test_a_name_always_runs_its_panel(fusion: Doorway, model: str, panel: list[str]) -> None:
    answer = fusion.openai.chat.completions.create(model=model, messages=HELLO)
    # The concrete model that wrote it, and the usage of all inner calls.
    assert (answer.model, answer.choices[0].message.content) == ("judge", "It is wet.")
    told: Any = answer.model_extra and answer.model_extra["fusion"]
    assert panel_of(fusion) == panel
    assert told["analysis"] == ANALYSIS


def test_a_plugin_runs_the_panel_that_it_names(fusion: Doorway) -> None:
    plugin = {"id": "fusion", "analysis_models": ["two", "two", "one"], "model": "judge"}
    answer = fusion.openai.chat.completions.create(
        model="plain", messages=HELLO, extra_body={"plugins": [plugin]}
    )
    assert answer.choices[0].message.content
    assert panel_of(fusion) == ["one", "two", "two"]


def test_a_plugin_that_is_switched_off_changes_nothing(fusion: Doorway) -> None:
    answer = fusion.openai.chat.completions.create(
        model="plain", messages=HELLO, extra_body={"plugins": [{"id": "fusion", "enabled": False}]}
    )
    assert (answer.model, answer.choices[0].message.content) == ("plain", "Plainly.")


@pytest.mark.parametrize("choice", [None, "required", TOOL])
def test_the_outer_model_calls_the_tool(fusion: Doorway, choice: Any) -> None:
    chosen = {} if choice is None else {"tool_choice": choice}
    answer = fusion.openai.chat.completions.create(
        model="outer", messages=HELLO, extra_body={"tools": [TOOL], **chosen}
    )
    assert (answer.model, answer.choices[0].message.content) == ("outer", "Wet.")
    # What the tool found was put before the outer model.
    result = json.loads(fusion.models["outer"].calls[1][0].messages[-1].text)
    assert result["status"] == "ok"
    assert result["analysis"] == ANALYSIS
    assert [one["content"] for one in result["responses"]] == ["Yes.", "No."]


@pytest.mark.parametrize(
    ("plugin", "status"),
    [
        ({"analysis_models": ["one"] * 9}, 400),
        ({"analysis_models": []}, 400),
        ({"max_tool_calls": 17}, 400),
        ({"max_tool_calls": 0}, 400),
        ({"tools": [{"type": "shell"}]}, 400),
        ({"analysis_models": ["fusion/mine"]}, 400),
        ({"preset": "nobody"}, 400),
        ({"analysis_models": ["nobody"]}, 404),
        ({"model": "nobody"}, 404),
    ],
)
@pytest.mark.parametrize("dialect", ["chat", "responses"])
def test_a_breach_is_an_error_that_names_the_field(
    fusion: Doorway, plugin: dict[str, Any], status: int, dialect: str
) -> None:
    body = {"plugins": [{"id": "fusion"} | plugin]}
    with pytest.raises(openai.APIStatusError) as caught:
        if dialect == "chat":
            fusion.openai.chat.completions.create(model="plain", messages=HELLO, extra_body=body)
        else:
            fusion.openai.responses.create(model="plain", input="x", extra_body=body)
    assert caught.value.status_code == status
    assert caught.value.type == "invalid_request_error"
    [field] = plugin
    assert field in (caught.value.param or "")


def test_a_fusion_inside_a_fusion_is_refused(fusion: Doorway) -> None:
    with pytest.raises(openai.BadRequestError):
        fusion.openai.chat.completions.create(
            model="openrouter/fusion",
            messages=HELLO,
            extra_headers={"x-openrouter-fusion-depth": "1"},
        )


def test_a_panel_that_fails_as_a_whole(fusion: Doorway) -> None:
    for name in ("one", "two"):
        fusion.models[name] = FakeModel(name, Unavailable("down"))
    with pytest.raises(openai.InternalServerError) as caught:
        fusion.openai.chat.completions.create(model="openrouter/fusion", messages=HELLO)
    assert caught.value.code == "all_panels_failed"


# Responses

FIELDS = {
    "in_progress": set(),
    "panel.added": {"model"},
    "panel.delta": {"model", "delta"},
    "panel.completed": {"model", "content"},
    "panel.failed": {"model", "message", "status_code"},
    "analysis.in_progress": {"model"},
    "analysis.completed": {"analysis"},
    "completed": set(),
}


def test_the_events_of_a_fusion_as_the_official_client_reads_them(fusion: Doorway) -> None:
    fusion.models["two"] = FakeModel("two", Unavailable("down"))
    seen = list(
        fusion.openai.responses.create(model="openrouter/fusion", input="Wet?", stream=True)
    )
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    prefix = "response.fusion_call."
    events = [event.to_dict() for event in seen if event.type.startswith(prefix)]
    kinds = [str(event["type"]).removeprefix(prefix) for event in events]
    assert set(kinds) == set(FIELDS)
    for kind, event in zip(kinds, events, strict=True):
        assert {"item_id", "output_index", "sequence_number"} | FIELDS[kind] <= set(event)
    order = [kinds.index(kind) for kind in FIELDS if not kind.startswith("panel.")]
    assert order == sorted(order)
    assert kinds[0] == "in_progress"
    assert kinds.index("panel.added") < kinds.index("panel.completed") < order[1]
    last = seen[-1]
    assert last.type == "response.completed"
    item, message = last.response.output
    assert message.type == "message"
    told = item.to_dict(warnings=False)
    assert told["type"] == "openrouter:fusion"
    assert told["status"] == "completed"
    assert told["analysis"] == ANALYSIS
    assert told["responses"] == [{"model": "one", "content": "Yes."}]
    assert told["failed_models"] == [{"model": "two", "error": "down", "status_code": 503}]
    assert last.response.output_text == "It is wet."
    assert last.response.model == "judge"


def test_a_whole_response_has_the_item_too(fusion: Doorway) -> None:
    answer = fusion.openai.responses.create(model="openrouter/fusion", input="Wet?")
    item, _ = answer.output
    told = item.to_dict(warnings=False)
    assert (told["type"], told["status"]) == ("openrouter:fusion", "completed")
    assert told["analysis"] == ANALYSIS
    assert [one["content"] for one in told["responses"]] == ["Yes.", "No."]  # type: ignore[attr-defined]


def test_the_tool_on_responses_shows_its_item_before_the_answer(fusion: Doorway) -> None:
    tools: Any = [{"type": FUSION_TOOL, "parameters": {"analysis_models": ["one"]}}]
    *_, last = fusion.openai.responses.create(
        model="outer", input="Wet?", tools=tools, stream=True, tool_choice="required"
    )
    assert last.type == "response.completed"
    assert [item.type for item in last.response.output] == ["openrouter:fusion", "message"]
    assert last.response.output_text == "Wet."


def test_a_judge_that_fails_leaves_the_analysis_out(fusion: Doorway) -> None:
    fusion.models["judge"] = FakeModel(
        "judge", lambda request: "no json" if request.response_format else "It is wet."
    )
    answer = fusion.openai.responses.create(model="openrouter/fusion", input="Wet?")
    told = answer.output[0].to_dict(warnings=False)
    assert told["status"] == "completed"
    assert "analysis" not in told
    assert told["failure_reason"] == "judge_not_valid_json"
    assert answer.output_text == "It is wet."


# Messages


def test_a_fusion_answers_in_anthropics_dialect_too(fusion: Doorway) -> None:
    asked: Any = {"model": "openrouter/fusion", "max_tokens": 50, "messages": HELLO}
    whole = fusion.anthropic.messages.create(**asked)
    assert whole.model == "judge"
    with fusion.anthropic.messages.stream(**asked) as events:
        assert events.get_final_text() == "It is wet."
