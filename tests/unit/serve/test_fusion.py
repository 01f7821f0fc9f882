"""A whole fusion on fake models."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing

import pytest

from models.call import Call
from models.catalog import Panel
from models.errors import (
    AllPanelsFailed,
    BadRequest,
    DeadlineExceeded,
    FusionError,
    Unavailable,
)
from models.fake import FakeClock, FakeModel, settle
from models.messages import (
    Completion,
    Done,
    Event,
    Progress,
    Request,
    Sampling,
    TextDelta,
    Tool,
    user,
)
from models.prices import Price
from serve.fusion.contract import Analysis
from serve.fusion.fusion import Fusion
from serve.fusion.judge import ModelJudge
from serve.money.meter import Meter

EMPTY = {key: [] for key in Analysis.model_fields}
ASKED = Request("fusion/trio", (user("Is water wet?"),), Sampling(max_tokens=50))
PANEL = Panel.model_validate(
    {"members": ["one", {"model": "two", "persona": "Doubt it.", "temperature": 0.9}]}
)


class ByName:
    """Fakes by model name, each metered."""

    def __init__(self, *fakes: FakeModel) -> None:
        price = Price.model_validate({"input": 1, "output": 1})
        self._models = {fake.name: Meter(fake, price) for fake in fakes}

    async def complete(self, request: Request, call: Call) -> Completion:
        return await self._models[request.model].complete(request, call)

    def stream(self, request: Request, call: Call):
        return self._models[request.model].stream(request, call)


def fusion(*fakes: FakeModel, panel: Panel = PANEL, clock: FakeClock | None = None) -> Fusion:
    models = ByName(*fakes)
    judge = ModelJudge(models)
    return Fusion(
        "trio",
        panel,
        judge_model="judge",
        writer="writer",
        models=models,
        judge=judge,
        clock=clock,
    )


def cast(**replies: object) -> list[FakeModel]:
    known = {"one": "Yes.", "two": "No.", "judge": json.dumps(EMPTY), "writer": "It depends."}
    return [FakeModel(name, reply) for name, reply in (known | replies).items()]  # type: ignore[arg-type]


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
    kinds = [event.kind for event in seen if isinstance(event, Progress)]
    assert sorted(kinds[:2]) == ["panel.completed", "panel.failed"]
    assert kinds[2:] == ["analysis.in_progress", "analysis.completed"]
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
        first = await anext(stream)
        assert isinstance(first, Progress)
    assert models[1].cancelled == 1
    assert len(asyncio.all_tasks()) == 1


async def test_a_writer_that_fails_fails_the_request() -> None:
    with pytest.raises(FusionError, match="no pen"):
        await fusion(*cast(writer=Unavailable("no pen"))).complete(ASKED, Call())


async def test_a_bug_in_a_panelist_ends_the_fusion_and_does_not_hang_it() -> None:
    def broken(_: Request) -> str:
        raise RuntimeError("a bug")

    with pytest.raises(FusionError, match="Internal error: RuntimeError"):
        await asyncio.wait_for(fusion(*cast(one=broken)).complete(ASKED, Call()), 5)


async def test_panelists_that_all_come_too_late_are_a_504() -> None:
    late = DeadlineExceeded("too late")
    with pytest.raises(DeadlineExceeded):
        await fusion(*cast(one=late, two=late)).complete(ASKED, Call())
