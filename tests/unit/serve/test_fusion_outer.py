"""The fusion as a tool of an outer model, which decides whether to call it."""

from __future__ import annotations

import json
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from models.call import Call
from models.catalog import Catalog
from models.errors import Unavailable
from models.fake import FakeModel
from models.messages import (
    FUSION_TOOL,
    Done,
    FusionOptions,
    Message,
    Named,
    Progress,
    Reasoning,
    ReasoningDelta,
    Request,
    ResponseFormat,
    Text,
    TextDelta,
    Tool,
    ToolCall,
    ToolCallDelta,
    assistant,
    user,
)
from router.live import Plan, Question
from serve.fusion.contract import Analysis
from serve.fusion.judge import ModelJudge
from serve.fusion.record import Record
from serve.pipeline import Models, Pipeline

CATALOG = Catalog.model_validate(
    {
        "models": {
            "outer": {"engine": "openai"},
            "one": {"engine": "fake"},
            "two": {"engine": "fake"},
            "judge": {"engine": "fake"},
        },
        "panels": {"default": {"members": ["one", "two"]}},
        "roles": {"judge": "judge"},
    }
)
EMPTY = {key: [] for key in Analysis.model_fields}
TOOL = FusionOptions(entry="tool")
LOOK = Tool("look", parameters={"type": "object"})


class NoRouter:
    async def decide(self, question: Question) -> Plan:
        raise AssertionError("nobody asked for it")


def calling(*names: str, arguments: str = "{}") -> Message:
    calls = (ToolCall(f"call_{n}", name, arguments) for n, name in enumerate(names))
    return Message("assistant", (), tool_calls=tuple(calls))


class House:
    """A pipeline whose outer model says `replies`, one after the other."""

    def __init__(self, *replies: Any, **others: Any) -> None:
        said = {"one": "Yes.", "two": "No.", "judge": json.dumps(EMPTY)} | others
        self.fakes = {name: FakeModel(name, reply) for name, reply in said.items()}
        self.fakes["outer"] = FakeModel("outer", list(replies))
        models = Models(CATALOG, self.fakes)
        self.records: list[Record] = []
        self.pipeline = Pipeline(CATALOG, models, ModelJudge(models), NoRouter(), records=self)

    def keep(self, record: Record) -> None:
        self.records.append(record)

    async def ask(self, **changes: Any) -> Any:
        request = Request("outer", (user("Is water wet?"),), **({"fusion": TOOL} | changes))
        return await self.pipeline.complete(request, Call())

    async def hear(self, **changes: Any) -> list[Any]:
        request = Request("outer", (user("Is water wet?"),), **({"fusion": TOOL} | changes))
        return [event async for event in self.pipeline.stream(request, Call())]

    def asked(self, step: int) -> Request:
        return self.fakes["outer"].calls[step][0]


async def test_an_outer_model_that_does_not_call_it_answers_alone() -> None:
    house = House("Wet.")
    answer = await house.ask()
    assert (answer.text, answer.model, answer.extension) == ("Wet.", "outer", {})
    assert [tool.name for tool in house.asked(0).tools] == ["openrouter_fusion"]
    assert not house.fakes["one"].calls


async def test_an_outer_model_that_calls_it_gets_the_contracts_result_and_writes() -> None:
    house = House(calling("openrouter_fusion"), "Wet, they say.")
    answer = await house.ask()
    assert (answer.text, answer.model) == ("Wet, they say.", "outer")
    told = house.asked(1).messages[-1]
    assert (told.role, told.tool_call_id) == ("tool", "call_0")
    assert json.loads(told.text) == {
        "status": "ok",
        "analysis": EMPTY,
        "responses": [{"model": "one", "content": "Yes."}, {"model": "two", "content": "No."}],
        "failed_models": [],
    }
    assert answer.extension["analysis"] == EMPTY
    roles = [stage for stage, _ in ((call.role, 0) for _, call in house.fakes["outer"].calls)]
    assert roles == ["synthesis", "synthesis"]


async def test_it_may_ask_the_panel_something_of_its_own() -> None:
    arguments = json.dumps({"question": "Is any liquid wet?"})
    house = House(calling("openrouter_fusion", arguments=arguments), "Yes.")
    await house.ask()
    [(asked, call)] = house.fakes["one"].calls
    assert [message.text for message in asked.messages] == ["Is any liquid wet?"]
    assert call.fusion_depth == 1


@pytest.mark.parametrize(
    ("marked", "asked", "seen"), [(None, "1h", "1h"), ("5m", "1h", "1h"), ("5m", None, "5m")]
)
async def test_how_long_prompts_are_kept_reaches_the_panel(
    marked: Any, asked: Any, seen: Any
) -> None:
    house = House(calling("openrouter_fusion"), "Yes.")
    await house.ask(fusion=FusionOptions(entry="tool", cache_ttl=asked), cache=marked)
    assert [request.cache for request, _ in house.fakes["one"].calls] == [seen]
    assert house.asked(0).cache == marked


async def test_a_second_call_in_a_turn_is_capped() -> None:
    house = House(calling("openrouter_fusion"), calling("openrouter_fusion"), "Enough.")
    answer = await house.ask()
    assert answer.text == "Enough."
    told = json.loads(house.asked(2).messages[-1].text)
    assert told["failure_reason"] == "fusion_invocation_capped"
    assert len(house.fakes["one"].calls) == 1


async def test_two_calls_in_one_step_are_one_and_a_capped_one() -> None:
    house = House(calling("openrouter_fusion", "openrouter_fusion"), "Enough.")
    await house.ask()
    first, second = (json.loads(message.text) for message in house.asked(1).messages[-2:])
    assert (first["status"], second["failure_reason"]) == ("ok", "fusion_invocation_capped")


async def test_a_model_that_never_stops_calling_is_told_to_answer() -> None:
    house = House(calling("openrouter_fusion"))
    house.fakes["outer"].reply = lambda request: (
        "At last." if request.tool_choice == "none" else calling("openrouter_fusion")
    )
    assert (await house.ask()).text == "At last."


async def test_a_call_of_the_callers_own_tool_goes_to_the_caller() -> None:
    house = House(calling("look"))
    events = await house.hear(tools=(LOOK,))
    names = [event.name for event in events if isinstance(event, ToolCallDelta) and event.name]
    assert names == ["look"]
    assert isinstance(events[-1], Done)
    assert events[-1].completion.finish_reason == "tool_calls"


async def test_the_callers_tool_waits_for_a_fusion_of_the_same_step() -> None:
    house = House(calling("look", "openrouter_fusion"), "Done.")
    events = await house.hear(tools=(LOOK,))
    assert not any(isinstance(event, ToolCallDelta) for event in events)
    waiting, fused = house.asked(1).messages[-2:]
    assert (waiting.tool_call_id, waiting.is_error) == ("call_0", True)
    assert (fused.tool_call_id, fused.is_error) == ("call_1", False)


async def test_required_and_named_choices_hold_for_the_first_step_only() -> None:
    for choice, seen in (
        ("required", "required"),
        (Named(FUSION_TOOL), Named("openrouter_fusion")),
    ):
        house = House(calling("openrouter_fusion"), "Wet.")
        await house.ask(tool_choice=choice)
        assert [house.asked(step).tool_choice for step in (0, 1)] == [seen, None]


async def test_a_fusion_that_fails_is_told_to_the_outer_model_which_answers() -> None:
    gone = Unavailable("gone")
    house = House(calling("openrouter_fusion"), "I do not know.", one=gone, two=gone)
    answer = await house.ask()
    assert answer.text == "I do not know."
    told = json.loads(house.asked(1).messages[-1].text)
    assert (told["status"], told["error"]) == ("error", "all panel models failed")
    assert answer.extension["failure_reason"] == "all_panels_failed"
    assert [failed["model"] for failed in answer.extension["failed_models"]] == ["one", "two"]


async def test_models_that_nobody_knows_are_a_failure_reason() -> None:
    house = House(calling("openrouter_fusion"), "Alone then.")
    options = FusionOptions(entry="tool", analysis_models=("nobody",))
    answer = await house.ask(fusion=options)
    assert answer.extension["failure_reason"] == "invalid_model"


async def test_the_stream_tells_of_the_fusion_between_the_outer_models_words() -> None:
    asked = Message(
        "assistant",
        (Text("Let me ask."),),
        tool_calls=(ToolCall("c", "openrouter_fusion", "{}"),),
    )
    house = House(asked, "Wet.")
    events = await house.hear()
    kinds = [
        event.kind if isinstance(event, Progress) else type(event).__name__
        for event in events
        if not (isinstance(event, Progress) and event.kind.startswith("panel."))
    ]
    assert kinds == [
        *(["TextDelta"] * 3),
        "in_progress",
        "analysis.in_progress",
        "analysis.completed",
        "completed",
        "TextDelta",
        "Done",
    ]
    assert [event.text for event in events if isinstance(event, TextDelta)][-1] == "\n\nWet."


async def test_there_is_a_record_also_where_the_outer_model_fails_after_the_fusion() -> None:
    house = House(calling("openrouter_fusion"), Unavailable("gone"))
    with pytest.raises(Unavailable):
        await house.ask()
    [record] = house.records
    assert (record.told["status"], record.told["error"]) == ("error", "gone")


async def test_there_is_a_record_also_where_the_caller_goes_away_after_the_fusion() -> None:
    house = House(calling("openrouter_fusion"), "Wet, they say.")
    request = Request("outer", (user("Is water wet?"),), fusion=TOOL)
    async with aclosing(house.pipeline.stream(request, Call())) as events:
        async for event in events:
            if isinstance(event, TextDelta):
                break
    [record] = house.records
    assert record.told["failure_reason"] == "cancelled"
    last = record.told["stages"][-1]
    assert (last["role"], last["model"], last["error"]) == ("synthesis", "outer", "Cancelled.")


async def test_an_answer_has_one_record() -> None:
    house = House(calling("openrouter_fusion"), "Wet, they say.")
    await house.hear()
    assert [record.told["output"] for record in house.records] == ["Wet, they say."]


def first_words(text: str) -> Message:
    return replace(calling("openrouter_fusion"), content=(Text(text),))


async def test_what_it_writes_before_it_calls_is_in_the_answer_whole_and_streamed() -> None:
    said = (first_words("Let me ask."), first_words("Once more."), "Wet, they say.")
    whole = await House(*said).ask()
    events = await House(*said).hear()
    assert whole.text == "Let me ask.\n\nOnce more.\n\nWet, they say."
    assert "".join(one.text for one in events if isinstance(one, TextDelta)) == whole.text
    assert events[-1].completion.text == whole.text


async def test_what_it_thinks_before_it_calls_is_in_the_answer_whole_and_streamed() -> None:
    thinking = replace(calling("openrouter_fusion"), reasoning=(Reasoning("Hard."),))
    last = replace(assistant("Wet."), reasoning=(Reasoning("Easy."),))
    whole = await House(thinking, last).ask()
    events = await House(thinking, last).hear()
    assert whole.message.thought == "Hard.Easy."
    assert "".join(one.text for one in events if isinstance(one, ReasoningDelta)) == "Hard.Easy."
    assert events[-1].completion.message == whole.message


async def test_thoughts_without_a_seal_are_one_where_nothing_is_said_between() -> None:
    def thinks(text: str) -> Message:
        return replace(calling("openrouter_fusion"), reasoning=(Reasoning(text),))

    sealed = replace(assistant("Wet."), reasoning=(Reasoning("Easy.", signature="seal"),))
    answer = await House(thinks("Hard."), thinks("Or"), thinks(" not."), sealed).ask()
    assert [turn.reasoning for turn in answer.turns] == [
        (Reasoning("Hard."),),
        (),
        (Reasoning("Or not."), Reasoning("Easy.", signature="seal")),
    ]


async def test_an_answer_in_a_form_has_nothing_before_it_whole_and_streamed() -> None:
    said = (first_words("Let me ask."), '{"wet": true}')
    form = ResponseFormat("json_object")
    whole = await House(*said).ask(response_format=form)
    events = await House(*said).hear(response_format=form)
    assert whole.text == '{"wet": true}'
    assert "".join(one.text for one in events if isinstance(one, TextDelta)) == whole.text
    assert events[-1].completion.text == whole.text


async def test_a_plugin_makes_the_model_write_from_what_the_panel_said() -> None:
    house = House("Wet.")
    answer = await house.ask(fusion=FusionOptions(entry="plugin"))
    assert (answer.model, answer.text) == ("outer", "Wet.")
    assert "Answers of the panel" in house.asked(0).messages[-1].text


async def test_a_plugin_that_is_switched_off_changes_nothing() -> None:
    house = House("Wet.")
    answer = await house.ask(fusion=FusionOptions(entry="plugin", enabled=False))
    assert answer.extension == {}
    assert house.asked(0).messages == (user("Is water wet?"),)
