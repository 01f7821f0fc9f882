"""What a fusion does with a cost cap: who gets a part of it, and who goes without."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from panel import ASKED, CATALOG, EMPTY, LOOKS, ByName, CappedTill, cast, fusion, priced

from models.call import Call
from models.catalog import Catalog
from models.errors import (
    BudgetExceeded,
)
from models.fake import FakeModel
from models.messages import (
    Completion,
    FusionOptions,
    Message,
    Request,
    Sampling,
    Text,
    Tool,
    ToolCall,
    user,
)
from models.tools.fake import FakeTools
from models.tools.toolbox import Box, ToolResult
from serve.fusion.deliberation import Resources
from serve.fusion.fusion import Fusion
from serve.fusion.judge import ModelJudge
from serve.fusion.outer import Outer
from serve.fusion.plan import make
from serve.money.fees import TillFees


async def test_a_cost_cap_leaves_out_what_does_not_fit() -> None:
    data = CATALOG.model_dump(mode="json")
    for name in ("one", "two", "judge", "writer"):
        data["models"][name]["price"] = {"input": 0, "output": 1}
    data["panels"]["trio"]["members"] = [{"model": "one", "max_tokens": 100}, "two"]
    known = Catalog.model_validate(data)
    # 50 words of the writer and 100 of the first panelist at a millionth of a dollar each.
    answer = await fusion(*cast(), known=known).complete(ASKED, Call(cost_cap_nano_usd=150_000))
    assert answer.extension["left_out"] == [{"model": "two", "why": "cost_cap"}]
    assert answer.extension["failure_reason"] == "insufficient_credits"
    assert answer.text == "It depends."


async def test_a_panelist_that_calls_tools_again_and_again_leaves_the_writer_its_part() -> None:
    def restless(_: Request) -> Message:
        return replace(LOOKS, content=(Text(" ".join(["hm"] * 100)),))

    till = CappedTill()
    known, models = priced(till, cast(one=restless))
    resources = Resources(known, models, ModelJudge(models), boxes=FakeTools(seconds=0.01).open)
    # A hundred words each of two panelists, a hundred to ask for tools, 200 of the judge, and 50 of
    # the writer.
    call = Call(cost_cap_nano_usd=550_000)
    answer = await Fusion(make(known, "trio", None), resources).complete(ASKED, call)
    assert answer.text == "It depends."
    assert [one["model"] for one in answer.extension["responses"]] == ["one", "two"]


@dataclass
class PricedSearch:
    """A search that costs as much as 60 words."""

    spec: Tool = field(default_factory=lambda: Tool("web_search", "Finds."))
    max_uses: int | None = None
    nano_usd: int = 60_000

    def limited(self, parameters: Mapping[str, Any]) -> PricedSearch:
        return self

    async def run(self, arguments: Mapping[str, Any]) -> ToolResult:
        return ToolResult("found", nano_usd=self.nano_usd)


@pytest.mark.parametrize(("cap", "searches"), [(250_000, 0), (540_000, 0), (550_000, 1)])
async def test_tools_leave_the_panelists_what_they_need_to_answer(cap: int, searches: int) -> None:
    till = CappedTill()
    fakes = cast(one=[LOOKS, "Yes."], two=[LOOKS, "No."])
    known, models = priced(till, fakes)
    box = Box({"web_search": PricedSearch()}, fees=TillFees(till))
    resources = Resources(known, models, ModelJudge(models), boxes=lambda _: box)
    call = Call(cost_cap_nano_usd=cap)
    answer = await Fusion(make(known, "trio", None), resources).complete(ASKED, call)
    assert answer.extension["failed_models"] == []
    found = [stage for stage in answer.stages if stage.role == "tool" and stage.nano_usd]
    assert len(found) == searches
    assert sum(stage.nano_usd or 0 for stage in answer.stages) <= cap


def restless(request: Request) -> Message | str:
    """Calls tools as long as there are any."""
    words = (Text(" ".join(["hm"] * 100)),)
    return replace(LOOKS, content=words) if request.tools else "Yes."


async def fused_under(cap: int, **replies: Any) -> Completion:
    known, models = priced(CappedTill(), cast(**{"judge": json.dumps(EMPTY)} | replies))
    tools = FakeTools(seconds=0.01).open
    resources = Resources(known, models, ModelJudge(models, tools), boxes=tools)
    answer = await Fusion(make(known, "trio", None), resources).complete(
        ASKED, Call(cost_cap_nano_usd=cap)
    )
    assert sum(stage.nano_usd or 0 for stage in answer.stages) <= cap
    return answer


@pytest.mark.parametrize("cap", [450_000, 600_000])
async def test_a_panelist_that_calls_tools_again_and_again_answers_and_leaves_the_judge_its_part(
    cap: int,
) -> None:
    answer = await fused_under(cap, one=restless)
    assert answer.extension["analysis"] == EMPTY


async def test_panelists_that_all_call_tools_again_and_again_all_answer() -> None:
    answer = await fused_under(900_000, one=restless, two=restless)
    assert [one["content"] for one in answer.extension["responses"]] == ["Yes.", "Yes."]


@pytest.mark.parametrize("words", [1, 100])
@pytest.mark.parametrize("cap", range(150_000, 1_000_000, 50_000))
async def test_tools_cost_no_panelist_its_answer_under_any_cap(words: int, cap: int) -> None:
    def looks_once(request: Request) -> Message | str:
        asks = request.tools and len(request.messages) == 1
        return replace(LOOKS, content=(Text(" ".join(["hm"] * words)),)) if asks else "Yes."

    answer = await fused_under(cap, one=looks_once, two=looks_once)
    assert answer.text == "It depends."
    assert len(answer.extension["responses"]) + len(answer.extension.get("left_out", ())) == 2
    if cap >= 700_000:
        assert sum(stage.role == "tool" for stage in answer.stages) == 2, "there is money for that"


@pytest.mark.parametrize("cap", [450_000, 600_000])
async def test_a_judge_that_checks_again_and_again_can_still_compare(cap: int) -> None:
    def checks(request: Request) -> Message | str:
        return restless(request) if request.tools else json.dumps(EMPTY)

    answer = await fused_under(cap, judge=checks)
    assert answer.extension["analysis"] == EMPTY


async def test_an_outer_model_can_still_read_what_its_fusion_found() -> None:
    """Its conversation is longer than what the panel is asked."""
    asks = ToolCall("c", "openrouter_fusion", '{"question": "Is it?"}')
    fakes = cast(one=restless, two=restless, judge=json.dumps(EMPTY))
    fakes.append(FakeModel("outer", [replace(LOOKS, tool_calls=(asks,)), "Wet."]))
    known, models = priced(CappedTill(), fakes, {"input": 1, "output": 10})
    options = FusionOptions(max_tool_calls=16)
    resources = Resources(known, models, ModelJudge(models), boxes=FakeTools(seconds=0.001).open)
    outer = Outer("outer", lambda: make(known, "trio", options, "outer"), resources)
    request = Request("outer", (user("word " * 12_000),), Sampling(max_tokens=50))
    answer = await outer.complete(request, Call(cost_cap_nano_usd=120_000_000))
    assert (answer.text, answer.extension["status"]) == ("hm\n\nWet.", "ok")


def test_an_outer_model_writes_also_where_the_panels_best_answer_is_only_picked() -> None:
    known, _ = priced(CappedTill(), cast())
    plan = replace(make(known, "trio", None), answer="best_of")
    terms = [plan.terms(ASKED, known, None, 1, behind=behind) for behind in (None, ASKED)]
    assert [bool(one.prices and one.prices.writer) for one in terms] == [False, True]


async def test_a_limit_of_the_callers_is_not_asked_twice() -> None:
    """Without a cap of the request's own nothing was spared for an answer without tools."""

    fakes = cast(one=[LOOKS, BudgetExceeded("The day's limit."), "Yes."])
    data = CATALOG.model_dump(mode="json")
    data["models"]["one"]["tools"] = True
    known, models = Catalog.model_validate(data), ByName(*fakes)
    resources = Resources(known, models, ModelJudge(models), boxes=FakeTools().open)
    answer = await Fusion(make(known, "trio", None), resources).complete(ASKED, Call())
    [gone] = answer.extension["failed_models"]
    assert (gone["model"], gone["status_code"]) == ("one", 402)
    assert len(fakes[0].calls) == 2


async def test_under_a_cap_a_writer_must_have_a_price() -> None:
    with pytest.raises(BudgetExceeded, match=r"'writer'.* has no price.*models\.writer\.price"):
        await fusion(*cast()).complete(ASKED, Call(cost_cap_nano_usd=500_000_000))
