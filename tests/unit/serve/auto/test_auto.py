"""`fusion/auto` end to end, without Ray: the choice, the cascade, what is told and kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from models.answerer import Events, SystemClock
from models.call import Call
from models.catalog import Catalog
from models.errors import (
    AccountRefused,
    AnswerDenied,
    BadRequest,
    BudgetExceeded,
    ContextTooLong,
    FusionError,
    Overloaded,
    PolicyDenied,
    StoreUnavailable,
    Unavailable,
    Unsupported,
)
from models.fake import FakeModel
from models.messages import (
    Completion,
    Done,
    Request,
    ResponseFormat,
    RouteOptions,
    Stage,
    Tool,
    assistant,
    user,
)
from models.spec import FakeModelSpec
from router.gain import GainModel
from router.live import Answered, Event, Heard, Judged, LiveRouter, Looked, Plan, Question, blind
from serve.auto.auto import ANALYSIS_WEIGHT, Auto
from serve.auto.events import Route
from serve.pipeline import Models

HARD, EASY = "What is 31 times 44, plus 12?", "Name a bird, no 31"


@dataclass
class World:
    """Two fakes, a router in this process, and what was kept."""

    catalog: Catalog
    live: LiveRouter
    small: FakeModel = field(default_factory=lambda: FakeModel("small", "A wren."))
    large: FakeModel = field(default_factory=lambda: FakeModel("large", "A robin."))
    kept: list[tuple[Route, Sequence[Event]]] = field(default_factory=list)
    chance: float = 0.99

    async def decide(self, question: Question) -> Plan:
        return self.live.decide(question, now=0.0, chance=self.chance)

    async def keep(self, route: Route, happened: Sequence[Event]) -> None:
        self.kept.append((route, happened))

    @property
    def auto(self) -> Auto:
        models = Models(self.catalog, {"small": self.small, "large": self.large})
        panels = FakeModel("writer", "Both agree.")
        return Auto(self.catalog, models, panels, self, self.keep, SystemClock())

    async def ask(self, prompt: str, **route: float) -> Completion:
        request = Request("fusion/auto", (user(prompt),), route=RouteOptions(**route))  # type: ignore[arg-type]
        return await self.auto.complete(request, Call(id="req_1", project="mine"))

    def rule(self, **rules: object) -> None:
        changed = self.catalog.router.model_copy(update=rules)
        self.catalog = self.catalog.model_copy(update={"router": changed})


@dataclass
class Said:
    """Panels that give this one answer."""

    answer: Completion

    async def complete(self, request: Request, call: Call) -> Completion:
        return self.answer

    async def stream(self, request: Request, call: Call) -> Events:
        yield Done(self.answer)


@pytest.fixture
def world(catalog: Catalog, weights: GainModel) -> World:
    made = World(catalog, LiveRouter(weights))
    made.rule(verify=())
    return made


async def test_easy_goes_to_the_cheap_model_and_hard_to_the_dear_one(world: World) -> None:
    assert (await world.ask(EASY)).model == "small"
    answer = await world.ask(HARD)
    assert answer.model == "large"
    route = answer.extension["route"]
    assert route["kind"] == "one"
    assert route["models"] == ["large"]
    assert "right answer is worth" in route["why"]
    assert route["interval"][0] <= route["quality"] <= route["interval"][1]


async def test_the_knob_and_the_ceiling_are_the_requests_own(world: World) -> None:
    assert (await world.ask(HARD, quality=0.0)).model == "small"
    assert (await world.ask(EASY, quality=1.0)).model == "large"
    assert (await world.ask(HARD, quality=1.0, max_usd=0.0001)).model == "small"


async def test_a_ceiling_binds_every_call_beneath(world: World) -> None:
    await world.ask(HARD, max_usd=1)
    assert world.large.calls[0][1].cost_cap_nano_usd == 1_000_000_000


async def test_what_happened_is_kept_before_the_answer_is_given(world: World) -> None:
    await world.ask(HARD)
    ((route, happened),) = world.kept
    assert (route.project, route.id, route.last) == ("mine", "req_1", "large")
    (answered,) = happened
    assert isinstance(answered, Answered)
    lesson = route.judged(0.0)[0]
    assert isinstance(lesson, Judged)
    assert (lesson.lesson.model, lesson.lesson.score) == ("large", 0.0)


async def test_a_store_that_is_down_does_not_stop_an_answer(world: World) -> None:
    async def broken(route: Route, happened: Sequence[Event]) -> None:
        raise Unavailable("The store is down.")

    world.keep = broken  # type: ignore[method-assign]
    assert (await world.ask(EASY)).text == "A wren."


class TestCascade:
    """The small model answers first, and its answer is looked at."""

    @pytest.fixture
    def world(self, catalog: Catalog, weights: GainModel) -> World:
        made = World(catalog, LiveRouter(weights))
        made.rule(verify=("checker", "agreement"))
        return made

    async def cascade(self, world: World, request: Request) -> Completion:
        """Whatever the router thinks, so that the run is tested and not the choice."""
        choose = world.decide

        async def forced(question: Question) -> Plan:
            plan = await choose(question)
            cascades = [o for o in plan.decision.options if o.kind == "cascade"]
            return replace(plan, decision=replace(plan.decision, choice=cascades[0]))

        world.decide = forced  # type: ignore[method-assign]
        return await world.auto.complete(request, Call(id="req_1"))

    def request(self, prompt: str = EASY, schema: object = None) -> Request:
        shape = ResponseFormat("json_schema", schema=schema) if schema else None  # type: ignore[arg-type]
        route = RouteOptions(quality=0.55)
        return Request("fusion/auto", (user(prompt),), route=route, response_format=shape)

    async def test_a_good_cheap_answer_is_given(self, world: World) -> None:
        answer = await self.cascade(world, self.request())
        assert answer.text == "A wren."
        look = answer.extension["route"]["look"]
        assert look["escalated"] is False
        assert look["signs"]["finished"] is True
        assert not world.large.calls

    async def test_json_of_the_wrong_shape_is_escalated(self, world: World) -> None:
        world.small.reply, world.large.reply = '{"bird": 1}', '{"bird": "wren"}'
        schema = {"type": "object", "properties": {"bird": {"type": "string"}}}
        answer = await self.cascade(world, self.request(HARD, schema))
        assert answer.text == '{"bird": "wren"}'
        look = answer.extension["route"]["look"]
        assert look["signs"]["valid"] is False
        assert look["escalated"] is True
        route, happened = world.kept[0]
        assert (route.first, route.last) == ("small", "large")
        assert [type(event) for event in happened] == [Looked, Judged, Answered]
        answered = happened[-1]
        assert isinstance(answered, Answered)

    async def test_wrong_sums_are_escalated(self, world: World) -> None:
        world.small.reply = "It is 31 * 44 + 12 = 1000"
        answer = await self.cascade(world, self.request(HARD))
        assert answer.text == "A robin."
        assert answer.extension["route"]["look"]["signs"]["sums"] is False

    async def test_an_answer_of_unlikely_tokens_is_escalated(self, world: World) -> None:
        world.rule(verify=("confidence",), models={})
        world.live.fold(Heard("small", -0.1))
        small = {"engine": "fake", "logprob": -3.0}
        models = world.catalog.models | {"small": FakeModelSpec.model_validate(small)}
        world.catalog = world.catalog.model_copy(update={"models": models})
        world.small.logprob = -3.0
        answer = await self.cascade(world, self.request(HARD))
        assert answer.text == "A robin."
        look = answer.extension["route"]["look"]
        assert look["signs"] == {"confident": False}
        assert [request.sampling.logprobs for request, _ in world.small.calls] == [True]
        assert [request.sampling.logprobs for request, _ in world.large.calls] == [False]
        assert Heard("small", -3.0) in world.kept[0][1]

    async def test_nobody_is_asked_how_likely_who_cannot_tell(self, world: World) -> None:
        world.rule(verify=("checker", "confidence"))
        await self.cascade(world, self.request(HARD))
        assert not world.small.calls[0][0].sampling.logprobs

    async def test_a_dear_model_that_fails_leaves_the_cheap_answer(self, world: World) -> None:
        world.small.reply = "It is 31 * 44 + 12 = 1000"
        world.large.reply = Unavailable("gone")
        answer = await self.cascade(world, self.request(HARD))
        assert answer.text == "It is 31 * 44 + 12 = 1000"
        assert answer.stages[-1].error == "unavailable"

    async def test_a_cheap_model_that_fails_is_escalated(self, world: World) -> None:
        world.small.reply = Unavailable("gone")
        answer = await self.cascade(world, self.request(HARD))
        assert answer.text == "A robin."
        assert answer.stages[0].error == "unavailable"

    @pytest.mark.parametrize("reply", ["It is 31 * 44 + 12 = 1000", "A tit."])
    async def test_a_cheap_answer_of_another_model_teaches_nothing_of_the_cheap_one(
        self, world: World, reply: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(world, "small", StandsIn("small", FakeModel("stranger", reply)))
        await self.cascade(world, self.request(HARD))
        ((route, happened),) = world.kept
        assert [type(event) for event in happened] == [Answered]
        assert route.last in ("stranger", "large")

    async def test_a_stream_of_a_cascade_is_the_answer_that_stood(self, world: World) -> None:
        world.live = LiveRouter(world.live.model)
        request = self.request()
        events = [event async for event in world.auto.stream(request, Call())]
        done = events[-1]
        assert isinstance(done, Done)
        assert done.completion.text == "A wren."


async def test_a_panels_judge_teaches_about_every_panelist(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.rule(panels=("pair",), explore=0.1)
    choose = world.decide

    async def panel(question: Question) -> Plan:
        plan = await choose(question)
        chosen = next(o for o in plan.decision.options if o.kind == "panel")
        return replace(plan, decision=replace(plan.decision, choice=chosen), propensity=0.9)

    monkeypatch.setattr(world, "decide", panel)
    stages = tuple(Stage("panelist", name, member=name) for name in ("small", "large"))
    told = {
        "analysis": {
            "consensus": ["birds fly"],
            "partial_coverage": [{"models": ["large"], "point": "not all"}],
        }
    }
    auto = world.auto
    auto._panels = Said(Completion("large", assistant("Some fly."), stages=stages, extension=told))
    await auto.complete(Request("fusion/auto", (user(EASY),)), Call(id="req_1"))
    judged = [event for event in world.kept[0][1] if isinstance(event, Judged)]
    assert {one.lesson.model: one.lesson.score for one in judged} == {"small": 0.5, "large": 1.0}
    assert {(one.signal, one.propensity, one.lesson.weight) for one in judged} == {
        ("analysis", 0.9, ANALYSIS_WEIGHT)
    }


async def test_tools_are_never_a_cascade_and_need_a_model_that_takes_them(world: World) -> None:
    request = Request("fusion/auto", (user(HARD),), tools=(Tool("look"),))
    assert (await world.auto.complete(request, Call())).model == "large"
    world.catalog = Catalog.model_validate(
        {"models": {"small": {"engine": "fake"}}, "roles": {"judge": "small"}}
    )
    with pytest.raises(Unsupported, match="No model of the catalog"):
        await world.auto.complete(request, Call())


async def test_a_catalog_with_one_model(world: World) -> None:
    world.catalog = Catalog.model_validate(
        {"models": {"small": {"engine": "fake"}}, "roles": {"judge": "small"}}
    )
    assert (await world.ask(HARD)).model == "small"


async def test_exploring_tries_another_model_and_says_so(world: World) -> None:
    world.rule(explore=0.1, explore_usd_per_day=1.0)
    world.chance = 0.05
    answer = await world.ask(EASY)
    route = answer.extension["route"]
    assert (answer.model, route["explored"], route["propensity"]) == ("large", True, 0.1)
    world.rule(explore=0.1, explore_usd_per_day=0.0)
    answer = await world.ask(EASY)
    assert (answer.model, answer.extension["route"]["propensity"]) == ("small", 1.0)


async def test_far_from_everything_it_says_so(world: World) -> None:
    answer = await world.ask("这是一个没有空格的句子吗？" * 30)
    assert answer.extension["route"]["far"] is True
    assert "unlike anything seen" in answer.extension["route"]["why"]


async def test_a_kind_of_subtask_that_does_not_exist(world: World) -> None:
    with pytest.raises(BadRequest, match="No kind of subtask"):
        await world.ask(EASY, kind="sing")  # type: ignore[arg-type]


def test_without_a_router_price_and_strength_decide(catalog: Catalog) -> None:
    from serve.auto.question import question

    asked = question(Request("fusion/auto", (user(EASY),)), catalog)
    plan = blind(asked)
    assert plan.decision.far
    assert "could not be asked" in plan.decision.reason
    cheap = blind(replace(asked, objective=replace(asked.objective, quality=0.0)))
    assert cheap.decision.choice.models == ("small",)


PASSING = (
    Unavailable("gone"),
    AccountRefused("no money"),
    PolicyDenied("no"),
    BudgetExceeded("too dear"),
    ContextTooLong("too long"),
)


@pytest.mark.parametrize("error", PASSING, ids=lambda error: str(error.code))
async def test_where_the_chosen_model_cannot_answer_the_next_best_one_does(
    world: World, error: FusionError
) -> None:
    world.large.reply = error
    answer = await world.ask(HARD)
    assert (answer.text, answer.extension["route"]["model"]) == ("A wren.", "small")
    assert [(stage.model, stage.error) for stage in answer.stages[:1]] == [("large", error.code)]
    ((route, _),) = world.kept
    assert (route.first, route.last, route.propensity) == ("large", "small", 1.0)


async def test_a_stream_goes_to_the_next_best_model_before_its_first_word(world: World) -> None:
    world.large.reply = Unavailable("gone")
    request = Request("fusion/auto", (user(HARD),))
    done = [event async for event in world.auto.stream(request, Call())][-1]
    assert isinstance(done, Done)
    assert done.completion.text == "A wren."


@pytest.mark.parametrize(
    "error", [BadRequest("wrong"), Overloaded("full"), StoreUnavailable("down")]
)
async def test_what_the_next_model_would_say_too_is_not_asked_of_it(
    world: World, error: FusionError
) -> None:
    world.large.reply = error
    with pytest.raises(type(error)):
        await world.ask(HARD)
    assert not world.small.calls


async def test_where_nobody_answers_the_chosen_models_failure_is_told(world: World) -> None:
    world.large.reply, world.small.reply = PolicyDenied("not there"), Unavailable("gone")
    with pytest.raises(PolicyDenied, match="not there"):
        await world.ask(HARD)


async def test_a_rule_about_answers_is_not_got_round_by_asking_others(world: World) -> None:
    world.large.reply = AnswerDenied("not that")
    with pytest.raises(AnswerDenied, match="not that"):
        await world.ask(HARD)
    assert world.small.calls == []


@dataclass
class StandsIn:
    """A model in whose place another one answers, as with a fallback or where there is room."""

    name: str
    other: FakeModel

    async def complete(self, request: Request, call: Call) -> Completion:
        return await self.other.complete(replace(request, model=self.other.name), call)


async def test_feedback_teaches_of_the_model_that_answered(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world, "large", StandsIn("large", world.small))
    answer = await world.ask(HARD)
    assert answer.extension["route"]["model"] == "small"
    (lesson, *_) = world.kept[0][0].judged(1.0)
    assert isinstance(lesson, Judged)
    assert lesson.lesson.model == "small"
    assert lesson.lesson.expected == world.kept[0][0].expected["small"]


async def test_a_stand_in_that_nothing_was_expected_of_teaches_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world, "large", StandsIn("large", FakeModel("stranger", "A tit.")))
    await world.ask(HARD)
    ((route, _),) = world.kept
    assert route.last == "stranger"
    assert route.judged(1.0) == []
