"""A whole fusion on fake models."""

from __future__ import annotations

import asyncio
import json
import random
import re
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Any

import pytest
from panel import ASKED, CATALOG, EMPTY, LOOKS, ByName, CappedTill, cast, catalog, fusion, priced

from models.call import Call
from models.catalog import Catalog, Roles
from models.errors import (
    AllPanelsFailed,
    BadRequest,
    ContextTooLong,
    DeadlineExceeded,
    FusionError,
    Unavailable,
)
from models.fake import FakeClock, FakeModel, settle
from models.messages import (
    Completion,
    Done,
    Event,
    FusionOptions,
    Message,
    Progress,
    Request,
    Sampling,
    ServerTool,
    Source,
    Text,
    TextDelta,
    Tool,
    ToolCall,
)
from models.tools.fake import FakeTools
from models.tools.toolbox import ToolResult
from serve.fusion import deliberation
from serve.fusion.deliberation import Deliberation, Resources
from serve.fusion.fusion import Fusion
from serve.fusion.judge import Case, Finding, ModelJudge
from serve.fusion.plan import make


async def events(answerer: Fusion, request: Request = ASKED) -> list[Event]:
    return [event async for event in answerer.stream(request, Call())]


async def test_the_writers_answer_comes_back_with_everything_it_took() -> None:
    answer = await fusion(*cast()).complete(ASKED, Call())
    assert answer.text == "It depends."
    assert answer.model == "writer"
    assert [(stage.role, stage.member or stage.model) for stage in answer.stages] == [
        ("panelist", "one"),
        ("panelist", "two"),
        ("judge", "judge"),
        ("synthesis", "writer"),
    ]
    assert answer.usage.input == sum(stage.usage.input for stage in answer.stages)
    assert all(stage.nano_usd for stage in answer.stages)
    assert answer.extension["analysis"] == EMPTY
    assert answer.extension["responses"] == [
        {"model": "one", "content": "Yes."},
        {"model": "two", "content": "No."},
    ]
    assert answer.extension["failed_models"] == []


async def test_planted_stances_reach_the_writer() -> None:
    stances = [{"model": "A", "stance": "planted-left"}, {"model": "B", "stance": "planted-right"}]
    verdict = EMPTY | {"contradictions": [{"topic": "planted-topic", "stances": stances}]}
    models = cast(judge=json.dumps(verdict))
    await fusion(*models).complete(ASKED, Call())
    [(request, call)] = models[3].calls
    text = request.messages[-1].text
    for planted in ("planted-topic", "planted-left", "planted-right", "Yes.", "No."):
        assert planted in text
    assert text.startswith("Is water wet?")
    assert call.role == "synthesis"


async def test_the_callers_sampling_tools_and_limits_are_the_writers() -> None:
    tool = Tool("look", parameters={"type": "object"})
    request = Request("fusion/trio", ASKED.messages, Sampling(max_tokens=7, seed=3), tools=(tool,))
    models = cast()
    await fusion(*models).complete(request, Call())
    written, _ = models[3].calls[0]
    assert (written.sampling, written.tools) == (request.sampling, (tool,))
    asked, _ = models[0].calls[0]
    # Of the caller's sampling a panelist shares only the seed.
    assert (asked.sampling, asked.tools) == (Sampling(seed=3), ())


async def test_panelists_share_the_conversation_as_a_prefix() -> None:
    models = cast()
    await fusion(*models).complete(ASKED, Call())
    plain, _ = models[0].calls[0]
    doubting, _ = models[1].calls[0]
    assert plain.messages[-1].text == "Is water wet?"
    assert doubting.messages[-1].text == "Is water wet?\n\n(For this answer: Doubt it.)"
    assert doubting.sampling.temperature == 0.9


async def test_one_panelist_failing_does_not_fail_the_request() -> None:
    answer = await fusion(*cast(two=Unavailable("gone"))).complete(ASKED, Call())
    assert answer.text == "It depends."
    assert answer.extension["failed_models"] == [
        {"model": "two", "error": "gone", "status_code": 503}
    ]
    assert [stage.error for stage in answer.stages] == [None, "gone", None, None]


async def test_all_panelists_failing_does() -> None:
    with pytest.raises(AllPanelsFailed, match="all panel models failed"):
        await fusion(*cast(one=Unavailable("a"), two=Unavailable("b"))).complete(ASKED, Call())


async def test_a_prompt_that_fits_nobody_is_the_callers_error() -> None:
    models = cast(one=BadRequest("too long"), two=BadRequest("too long"))
    with pytest.raises(BadRequest, match="too long"):
        await fusion(*models).complete(ASKED, Call())


async def test_a_judge_that_fails_twice_leaves_raw_answers_and_says_so() -> None:
    models = cast(judge="prose")
    answer = await fusion(*models).complete(ASKED, Call())
    assert answer.extension["failure_reason"] == "judge_not_valid_json"
    assert "analysis" not in answer.extension
    written, _ = models[3].calls[0]
    assert "Yes." in written.messages[-1].text
    assert "A judge compared" not in written.messages[-1].text


async def test_the_stream_tells_what_happens_and_then_the_answer_live() -> None:
    seen = await events(fusion(*cast(two=Unavailable("gone"))))
    told = [event for event in seen if isinstance(event, Progress)]
    kinds = [event.kind for event in told]
    assert kinds[:3] == ["in_progress", "panel.added", "panel.added"]
    assert sorted(kinds[3:6]) == ["panel.completed", "panel.delta", "panel.failed"]
    assert kinds[6:] == ["analysis.in_progress", "analysis.completed", "completed"]
    assert told[-1].data["result"] == {
        "status": "ok",
        "analysis": EMPTY,
        "responses": [{"model": "one", "content": "Yes."}],
        "failed_models": [{"model": "two", "error": "gone", "status_code": 503}],
    }
    text = "".join(event.text for event in seen if isinstance(event, TextDelta))
    assert text == "It depends."
    assert isinstance(seen[-1], Done)
    assert seen[-1].completion.text == text


async def test_a_fusion_inside_a_fusion_is_refused() -> None:
    with pytest.raises(BadRequest, match="inside a fusion"):
        await fusion(*cast()).complete(ASKED, Call(fusion_depth=1))


async def test_inner_calls_carry_the_depth() -> None:
    models = cast()
    await fusion(*models).complete(ASKED, Call())
    assert {call.fusion_depth for model in models for _, call in model.calls} == {1}


@pytest.mark.parametrize("moment_s", [0.0, 0.5, 1.5])
async def test_cancelling_at_any_point_frees_everything(moment_s: float) -> None:
    clock = FakeClock()
    models = cast()
    for model in models:
        model.clock, model.first_token_s = clock, 1.0
    task = asyncio.create_task(fusion(*models, clock=clock).complete(ASKED, Call()))
    await clock.advance(moment_s)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await settle()
    started = sum(len(model.calls) for model in models)
    finished = 2 if moment_s > 1 else 0
    assert sum(model.cancelled for model in models) == started - finished
    assert len(asyncio.all_tasks()) == 1


async def test_closing_the_stream_frees_everything() -> None:
    clock = FakeClock()
    models = cast()
    models[1].clock, models[1].first_token_s = clock, 5.0
    async with aclosing(fusion(*models).stream(ASKED, Call())) as stream:
        async for event in stream:
            if isinstance(event, Progress) and event.kind == "panel.completed":
                break
    assert models[1].cancelled == 1
    assert len(asyncio.all_tasks()) == 1


async def test_a_writer_that_fails_fails_the_request() -> None:
    with pytest.raises(FusionError, match="no pen"):
        await fusion(*cast(writer=Unavailable("no pen"))).complete(ASKED, Call())


async def test_a_bug_in_a_panelist_is_that_panelists_failure() -> None:
    def broken(_: Request) -> str:
        raise RuntimeError("a bug")

    answer = await asyncio.wait_for(fusion(*cast(one=broken)).complete(ASKED, Call()), 5)
    [failed] = answer.extension["failed_models"]
    assert (failed["model"], failed["error"]) == ("one", "Internal error: RuntimeError.")


async def test_an_answer_that_is_no_text_is_that_panelists_failure() -> None:
    nothing: Any = None
    one = Message("assistant", (Text(nothing),))
    answer = await asyncio.wait_for(fusion(*cast(one=one)).complete(ASKED, Call()), 5)
    [failed] = answer.extension["failed_models"]
    assert (failed["model"], failed["error"]) == ("one", "Internal error: AttributeError.")


async def test_panelists_that_all_come_too_late_are_a_504() -> None:
    late = DeadlineExceeded("too late")
    with pytest.raises(DeadlineExceeded):
        await fusion(*cast(one=late, two=late)).complete(ASKED, Call())


# What a panel may say


async def test_one_slow_panelist_is_left_out_after_its_grace_and_said_so() -> None:
    clock = FakeClock()
    models = cast(two="No, and slowly.")
    for model in models:
        model.clock, model.first_token_s = clock, 1.0
    models[1].first_token_s = 10.0
    made = fusion(*models, known=catalog(quorum=1, grace_s=2.0), clock=clock)
    task = asyncio.create_task(made.complete(ASKED, Call()))
    await clock.advance(5.0)
    answer = await task
    assert clock.now() == 5.0  # 1 and 2 of grace, the judge's 1, the writer's 1
    assert [one["model"] for one in answer.extension["responses"]] == ["one"]
    assert answer.extension["left_out"] == [{"model": "two", "why": "late"}]
    [failed] = answer.extension["failed_models"]
    assert (failed["model"], failed["status_code"]) == ("two", 504)
    assert models[1].cancelled == 1


async def test_a_candidate_takes_the_place_of_one_that_failed() -> None:
    made = fusion(*cast(one=Unavailable("gone")), known=catalog(candidates=["three"]))
    answer = await made.complete(ASKED, Call())
    assert answer.extension["responses"] == [
        {"model": "three", "content": "Perhaps."},
        {"model": "two", "content": "No."},
    ]
    assert [one["model"] for one in answer.extension["failed_models"]] == ["one"]


async def test_a_second_layer_reads_the_first_and_shares_it_as_a_prefix() -> None:
    models = cast(one=["Yes.", "Yes, better."], two=["No.", "No, better."])
    answer = await fusion(*models, known=catalog(layers=2)).complete(ASKED, Call())
    assert [one["content"] for one in answer.extension["responses"]] == [
        "Yes, better.",
        "No, better.",
    ]
    (_, (plain, _)), (_, (doubting, _)) = models[0].calls, models[1].calls
    shown = plain.messages[-1].text
    assert "Yes." in shown
    assert "No." in shown
    assert doubting.messages[-1].text.endswith("(For this answer: Doubt it.)")


async def test_one_model_fused_with_itself_differs_by_its_seed() -> None:
    models = cast()
    known = catalog(members=["one"], self=3)
    answer = await fusion(*models, known=known).complete(
        Request("fusion/trio", ASKED.messages, Sampling(seed=7)), Call()
    )
    assert [one["model"] for one in answer.extension["responses"]] == ["one", "one#2", "one#3"]
    assert [request.sampling.seed for request, _ in models[0].calls] == [7, 8, 9]


async def test_best_of_gives_the_chosen_answer_as_it_is() -> None:
    def verdict(request: Request) -> str:
        label = "A" if re.search(r'from="A">\nNo\.', request.messages[-1].text) else "B"
        return json.dumps(EMPTY | {"best": label})

    models = cast(judge=verdict)
    answer = await fusion(*models, known=catalog(answer="best_of")).complete(ASKED, Call())
    assert (answer.text, answer.model, answer.extension["best"]) == ("No.", "two", "two")
    assert models[3].calls == []
    # A panelist whose answer may be the final one keeps within the caller's limit.
    assert models[0].calls[0][0].sampling.max_tokens == 50


async def test_a_chosen_answer_that_was_cut_says_so() -> None:
    class Cut(FakeModel):
        async def complete(self, request: Request, call: Call) -> Completion:
            return replace(await super().complete(request, call), finish_reason="length")

    models = cast(judge=json.dumps(EMPTY | {"best": "A"}))
    known = catalog(answer="best_of")
    assert (await fusion(*models, known=known).complete(ASKED, Call())).finish_reason == "stop"
    models[:2] = [Cut("one", "Yes, but"), Cut("two", "No, but")]
    assert (await fusion(*models, known=known).complete(ASKED, Call())).finish_reason == "length"


async def test_judge_only_is_the_judge_without_a_panel() -> None:
    models = cast(judge="By myself.")
    answer = await fusion(*models, known=catalog(answer="judge_only")).complete(ASKED, Call())
    assert (answer.text, answer.model) == ("By myself.", "judge")
    assert [len(model.calls) for model in models] == [0, 0, 1, 0, 0]
    assert models[2].calls[0][0].messages == ASKED.messages


async def test_panelists_are_heard_while_they_write() -> None:
    seen = await events(fusion(*cast(one="Yes, it is.")))
    deltas = [
        event.data["delta"]
        for event in seen
        if isinstance(event, Progress) and event.kind == "panel.delta" and event.data["index"] == 0
    ]
    assert deltas == ["Yes,", " it", " is."]


async def test_an_answer_does_not_wait_for_a_call_that_does_not_heed_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Deaf(FakeModel):
        async def complete(self, request: Request, call: Call) -> Completion:
            for _ in range(2):
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(60)
            await asyncio.sleep(1)
            raise Unavailable("at last")

    monkeypatch.setattr(deliberation, "CLOSING_S", 0.01)
    models = [Deaf("two", "never") if one.name == "two" else one for one in cast()]
    ended = asyncio.get_running_loop().time() + 0.9
    answer = await fusion(*models, known=catalog(quorum=1, grace_s=0)).complete(ASKED, Call())
    assert answer.text == "It depends."
    assert asyncio.get_running_loop().time() < ended, "it is not waited for"


async def test_a_result_has_its_sources_in_the_panels_order_whatever_the_answer_cites() -> None:
    def looks(name: str) -> list[Message | str]:
        call = ToolCall("c", "web_search", json.dumps({"query": name}))
        return [replace(LOOKS, tool_calls=(call,)), f"From {name}."]

    def finds(arguments: str) -> ToolResult:
        return ToolResult("x", (Source(f"https://{json.loads(arguments)['query']}.example/"),))

    def made() -> Fusion:
        fakes = cast(one=looks("a"), two=looks("b"), writer="See https://b.example/")
        known, models = priced(CappedTill(), fakes)
        boxes = FakeTools({"web_search": finds}).open
        resources = Resources(known, models, ModelJudge(models), boxes=boxes)
        return Fusion(make(known, "trio", None), resources)

    call = Call(cost_cap_nano_usd=2_000_000)
    whole = await made().complete(ASKED, call)
    [told] = [
        event.data["result"]
        async for event in made().stream(ASKED, call)
        if isinstance(event, Progress) and event.kind == "completed"
    ]
    urls = [one["url"] for one in told["sources"]]
    assert urls == ["https://a.example/", "https://b.example/"]
    assert whole.extension["sources"] == told["sources"]
    assert [one.url for one in whole.sources] == urls[::-1]


# Bad input


@pytest.mark.parametrize(
    ("options", "field", "message"),
    [
        (FusionOptions(analysis_models=("one",) * 9), "analysis_models", "at most 8"),
        (FusionOptions(analysis_models=("nobody",)), "analysis_models", "nobody"),
        (FusionOptions(analysis_models=("fusion/trio",)), "analysis_models", "is a fusion"),
        (FusionOptions(analysis_models=("fusion/auto",)), "analysis_models", "is the router"),
        (FusionOptions(judge="nobody"), "model", "nobody"),
    ],
)
def test_a_request_that_names_what_cannot_be_is_told_so(
    options: FusionOptions, field: str, message: str
) -> None:
    with pytest.raises(FusionError, match=message) as caught:
        make(CATALOG, "trio", options)
    assert caught.value.param == field
    assert caught.value.status in (400, 404)


def test_a_preset_that_nobody_defined() -> None:
    with pytest.raises(BadRequest, match="There is no preset 'general-high'") as caught:
        make(CATALOG, None, FusionOptions(preset="general-high"))
    assert caught.value.param == "preset"


async def test_a_request_chooses_its_own_panel_and_judge_who_also_writes() -> None:
    models = cast(three=[json.dumps(EMPTY), "From three."])
    options = FusionOptions(analysis_models=("one", "one"), judge="three", temperature=0.3)
    answer = await fusion(*models, options=options).complete(ASKED, Call())
    assert (answer.model, answer.text) == ("three", "From three.")
    assert [one["model"] for one in answer.extension["responses"]] == ["one", "one#2"]
    assert [request.sampling.temperature for request, _ in models[0].calls] == [0.3, 0.3]
    assert models[4].calls[0][0].sampling.temperature == 0.0


@pytest.mark.parametrize(
    ("options", "tokens"),
    [
        (FusionOptions(), 1024),
        (FusionOptions(max_completion_tokens=400), 400),
        (FusionOptions(max_completion_tokens=4000), 1024),
        # What a judge thinks counts as written, so it needs room beside its analysis.
        (FusionOptions(effort="high"), 8000),
        (FusionOptions(effort="high", max_completion_tokens=3000), 3000),
        (FusionOptions(effort="none"), 1024),
    ],
)
def test_a_judge_is_held_to_the_callers_limit_and_has_room_to_think(
    options: FusionOptions, tokens: int
) -> None:
    data = CATALOG.model_dump(mode="json")
    data["models"]["judge"] |= {"context": 64_000, "max_output": 8000}
    assert make(Catalog.model_validate(data), "trio", options).analysis_tokens == tokens


async def test_a_panelist_that_streams_for_ever_is_cut_off_by_the_deadline() -> None:
    clock = FakeClock()
    models = cast(two=" ".join(["more"] * 100_000))
    for model in models:
        model.clock = clock
    models[1].token_s = 0.05
    task = asyncio.create_task(
        fusion(*models, known=catalog(quorum=2), clock=clock).complete(ASKED, Call(deadline=10.0))
    )
    await clock.advance(6.0)
    answer = await task
    assert answer.extension["left_out"] == [{"model": "two", "why": "deadline"}]


async def test_an_answer_of_a_megabyte_is_shortened_for_its_readers_and_told_whole() -> None:
    long = "All work and no play. " * 50_000
    shortened = []

    def judged(request: Request) -> str:
        text = request.messages[-1].text
        if "<text-" in text:
            shortened.append(text)
            return "It repeats itself."
        assert len(text) < 30_000
        return json.dumps(EMPTY)

    models = cast(one=long, judge=judged)
    known = catalog().model_copy(
        update={"roles": Roles.model_validate({"judge": "judge", "reduce": "judge"})}
    )
    answer = await fusion(*models, known=known).complete(ASKED, Call())
    assert answer.extension["responses"][0]["content"] == long
    assert "".join(shortened).count("All work") > 49_000, "every piece was read"
    written = models[3].calls[0][0].messages[-1].text
    assert "It repeats itself." in written
    assert len(written) < 30_000


async def test_half_characters_are_replaced_before_they_break_the_answer() -> None:
    answer = await fusion(*cast(one="half \ud83d of a smile")).complete(ASKED, Call())
    content = answer.extension["responses"][0]["content"]
    assert content == "half ? of a smile"
    assert content.encode()


async def test_panelists_that_are_all_empty() -> None:
    with pytest.raises(AllPanelsFailed, match="empty answer"):
        await fusion(*cast(one="", two=" ")).complete(ASKED, Call())


async def test_panelists_that_all_say_the_same_are_a_fusion_like_any() -> None:
    answer = await fusion(*cast(one="Same.", two="Same.")).complete(ASKED, Call())
    assert answer.text == "It depends."


async def test_a_judge_that_has_to_be_asked_shorter_has_all_its_calls_told() -> None:
    """And looks no further: what it may look for is used up."""
    asked: list[Request] = []

    def judge(request: Request) -> Message | str | FusionError:
        asked.append(request)
        if request.tools:
            return LOOKS if len(request.messages) == len(asked[0].messages) else "Noted."
        first = sum(not one.tools for one in asked) == 1
        return ContextTooLong("too long") if first else json.dumps(EMPTY)

    data = CATALOG.model_dump(mode="json")
    data["models"]["judge"]["tools"] = True
    known, models = Catalog.model_validate(data), ByName(*cast(judge=judge))
    tools = FakeTools()
    resources = Resources(known, models, ModelJudge(models, tools.open), boxes=tools.open)
    answer = await Fusion(make(known, "trio", None), resources).complete(ASKED, Call())
    assert answer.extension["analysis"] == EMPTY
    told = [(one.role, one.error) for one in answer.stages if one.member is None]
    assert told == [
        ("judge", None),
        ("tool", None),
        ("judge", None),
        ("judge", "too long"),
        ("judge", None),
        ("synthesis", None),
    ]


async def test_a_panelist_that_fails_by_our_own_fault_is_told_with_what_it_cost() -> None:
    def breaks(request: Request) -> Message:
        if len(request.messages) > 1:
            raise RuntimeError("a bug")
        return LOOKS

    data = CATALOG.model_dump(mode="json")
    data["models"]["one"]["tools"] = True
    known, models = Catalog.model_validate(data), ByName(*cast(one=breaks))
    resources = Resources(known, models, ModelJudge(models), boxes=FakeTools().open)
    async with Deliberation(
        make(known, "trio", None), ASKED, Call(), resources, live=False
    ) as work:
        async for _ in work.events():
            pass
    assert work.run.spent == sum(stage.nano_usd or 0 for stage in work.stages)
    told = [(stage.role, stage.error) for stage in work.stages if stage.member == "one"]
    assert told[2:] == [("panelist", "Internal error: RuntimeError.")]


@pytest.mark.parametrize("answer", ["synthesis", "best_of"])
async def test_a_judge_that_is_too_late_has_its_stage(answer: str) -> None:
    clock = FakeClock()
    models = cast()
    for model in models:
        model.clock = clock
    models[2].first_token_s = 100.0
    made = fusion(*models, known=catalog(answer=answer), clock=clock)
    task = asyncio.create_task(made.complete(ASKED, Call(deadline=10.0)))
    await clock.advance(9.0)
    told = [(one.role, one.error) for one in (await task).stages if one.role == "judge"]
    assert told == [("judge", "Cancelled.")]


# Any order of anything, with a runner


@pytest.mark.parametrize("seed", range(60))
async def test_however_it_goes_nothing_is_left_running(seed: int) -> None:
    chance = random.Random(seed)
    clock = FakeClock()
    models = cast()
    for model in models:
        model.clock, model.first_token_s = clock, chance.choice([0.1, 1.0, 7.0, 50.0])
        if model.name != "writer" and chance.random() < 0.3:
            model.reply = chance.choice([Unavailable("gone"), "", "prose"])
    known = catalog(
        quorum=chance.choice([1, 2]),
        grace_s=chance.choice([0.0, 2.0]),
        layers=chance.choice([1, 2]),
        timeout_s=chance.choice([5.0, 300.0]),
        candidates=chance.choice([[], ["three"]]),
        answer=chance.choice(["synthesis", "best_of"]),
    )
    made = fusion(*models, known=known, clock=clock)
    call = Call(deadline=chance.choice([None, 20.0, 200.0]))
    if chance.random() < 0.5:
        task = asyncio.create_task(made.complete(ASKED, call))
    else:
        task = asyncio.create_task(events(made))  # type: ignore[arg-type]
    gives_up_at = chance.choice([0.05, 3.0, 500.0])
    await clock.advance(gives_up_at)
    if not task.done():
        task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert len(asyncio.all_tasks()) == 1
    assert not [sleeper for _, _, sleeper in clock._sleepers if not sleeper.done()]
    if not task.cancelled() and (error := task.exception()):
        assert isinstance(error, FusionError)


async def test_a_tools_own_parameters_reach_panel_and_judge() -> None:
    known = CATALOG.model_copy(
        update={
            "models": {
                name: spec.model_copy(update={"tools": True})
                for name, spec in CATALOG.models.items()
            }
        }
    )
    models, tools = ByName(*cast()), FakeTools()
    resources = Resources(known, models, ModelJudge(models, tools.open), boxes=tools.open)
    wanted = (ServerTool("web_search", {"max_results": 3}),)
    await Fusion(make(known, "trio", FusionOptions(tools=wanted)), resources).complete(
        ASKED, Call()
    )
    assert tools.opened == [wanted, wanted]


class UsedUp(FakeTools):
    def left(self) -> tuple[ServerTool, ...]:
        return ()


async def test_the_judge_has_what_the_panel_left_of_the_tools() -> None:
    heard: list[Case] = []

    class Listening:
        async def judge(self, case: Case, call: Call) -> Finding:
            heard.append(case)
            return Finding(None, "judge_upstream_error")

    resources = Resources(CATALOG, ByName(*cast()), Listening(), boxes=UsedUp().open)
    await Fusion(make(CATALOG, "trio", None), resources).complete(ASKED, Call())
    assert [case.tools for case in heard] == [()]


async def test_a_panel_names_its_tools_alone() -> None:
    known = catalog(tools=["web_search"])
    assert make(known, "trio", None).tools == (ServerTool("web_search"),)
    assert make(CATALOG, "trio", None).tools is None
