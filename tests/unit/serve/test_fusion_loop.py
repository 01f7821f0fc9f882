"""A model that works with server tools until it has an answer."""

from __future__ import annotations

import asyncio
import json

import pytest

from models.answerer import SystemClock
from models.call import Call
from models.errors import BudgetExceeded, FusionError, Unavailable
from models.fake import FakeModel
from models.messages import Message, Request, Source, ToolCall, assistant, user
from models.tools.fake import FakeTools
from models.tools.toolbox import ToolResult, failed
from serve.fusion.loop import Loop

ASKED = Request("m", (user("What is new?"),))


def calling(*queries: str) -> Message:
    calls = tuple(
        ToolCall(f"call_{n}", "web_search", json.dumps({"query": query}))
        for n, query in enumerate(queries)
    )
    return Message("assistant", (), tool_calls=calls)


def loop(model: FakeModel, box: FakeTools, most: int = 4) -> Loop:
    return Loop(model, SystemClock(), box, box.specs(), most)


async def test_calls_of_one_step_run_together_and_their_results_go_back() -> None:
    model, box = FakeModel("m", [calling("a", "b"), "Nothing is new."]), FakeTools(seconds=0.01)
    answer = await loop(model, box).complete(ASKED, Call())
    assert answer.text == "Nothing is new."
    assert sorted(box.calls) == [("web_search", '{"query": "a"}'), ("web_search", '{"query": "b"}')]
    second, _ = model.calls[1]
    assert [message.role for message in second.messages] == ["user", "assistant", "tool", "tool"]
    assert [message.tool_call_id for message in second.messages[2:]] == ["call_0", "call_1"]


async def test_sources_are_collected_once_each() -> None:
    model, box = FakeModel("m", [calling("a"), calling("b"), "ok"]), FakeTools()
    answer = await loop(model, box).complete(ASKED, Call())
    assert answer.sources == (Source("fake:web_search", "A source of web_search"),)


async def test_no_more_than_so_many_calls_and_then_the_model_must_answer() -> None:
    model, box = FakeModel("m", [calling("a", "b", "c"), "ok"]), FakeTools()
    answer = await loop(model, box, most=2).complete(ASKED, Call())
    assert answer.text == "ok"
    assert len(box.calls) == 2
    last, _ = model.calls[1]
    assert last.tool_choice == "none"
    assert last.messages[-1].is_error


async def test_a_model_that_calls_on_when_it_may_not_has_given_its_answer() -> None:
    model, box = FakeModel("m", [calling("a")]), FakeTools()
    answer = await loop(model, box, most=1).complete(ASKED, Call())
    assert answer.text == ""
    assert len(model.calls) == 2


async def test_a_tool_that_fails_is_told_to_the_model_and_seen_in_the_stages() -> None:
    model = FakeModel("m", [calling("a"), "ok"])
    box = FakeTools({"web_search": failed("no network")})
    work = loop(model, box)
    answer = await work.complete(ASKED, Call())
    assert model.calls[1][0].messages[-1].text == "no network"
    assert [(stage.role, stage.error) for stage in answer.stages] == [("tool", "no network")]


async def test_what_a_tool_costs_is_in_its_stage() -> None:
    model = FakeModel("m", [calling("a"), "ok"])
    box = FakeTools({"web_search": ToolResult("found", nano_usd=5)})
    answer = await loop(model, box).complete(ASKED, Call())
    assert [stage.nano_usd for stage in answer.stages] == [5]


async def test_what_was_done_before_a_failure_is_still_told() -> None:
    model = FakeModel("m", [calling("a"), Unavailable("gone")])
    work = loop(model, FakeTools())
    with pytest.raises(Unavailable):
        await work.complete(ASKED, Call())
    assert [stage.role for stage in work.stages] == ["tool"]
    assert work.sources


async def test_who_cannot_pay_for_what_it_found_answers_without() -> None:
    def poor(request: Request) -> Message | FusionError:
        if len(request.messages) > 1:
            return BudgetExceeded("spent")
        return calling("a") if request.tools else assistant("As far as I know, nothing.")

    model = FakeModel("m", poor)
    work = loop(model, FakeTools())
    answer = await work.complete(ASKED, Call(cost_cap_nano_usd=100))
    assert (answer.text, answer.sources) == ("As far as I know, nothing.", ())
    assert [stage.role for stage in answer.stages] == ["tool"]


async def test_what_reads_a_tools_result_leaves_money_for_an_answer_without() -> None:
    model = FakeModel("m", [calling("a"), calling("b"), "ok"])
    box = FakeTools()
    work = Loop(model, SystemClock(), box, box.specs(), spare=lambda: 30)
    await work.complete(ASKED, Call(cost_cap_nano_usd=100))
    assert [call.cost_cap_nano_usd for _, call in model.calls] == [100, 70, 70]


async def test_a_tool_that_is_cut_off_has_its_stage() -> None:
    work = loop(FakeModel("m", calling("a")), FakeTools(seconds=60))
    task = asyncio.create_task(work.complete(ASKED, Call()))
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert [(one.role, one.model, one.error) for one in work.stages] == [
        ("tool", "web_search", "Cancelled.")
    ]


async def test_who_cannot_pay_for_its_first_words_fails() -> None:
    model = FakeModel("m", BudgetExceeded("spent"))
    with pytest.raises(BudgetExceeded):
        await loop(model, FakeTools()).complete(ASKED, Call())
    assert len(model.calls) == 1


async def test_without_tools_it_is_one_call() -> None:
    model = FakeModel("m", "ok")
    answer = await Loop(model, SystemClock()).complete(ASKED, Call())
    assert answer.text == "ok"
    assert model.calls[0][0].tools == ()
