"""What answers for `fusion/auto`: asks the router, carries its choice out, keeps what happened."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from models.answerer import Answerer, Clock, Events
from models.call import Call
from models.catalog import FUSION, Catalog
from models.errors import (
    AnswerDenied,
    BudgetExceeded,
    ContextTooLong,
    FusionError,
    PolicyDenied,
    StoreUnavailable,
    Unavailable,
    Unsupported,
    UpstreamError,
)
from models.messages import Completion, Done, Request, Stage, TextDelta, Usage
from models.prices import NANO_PER_USD
from router.cascade import needed
from router.checks import say_the_same
from router.live import Answered, Event, Heard, Judged, Looked, Plan, Question
from router.objective import Option
from serve.auto.analysis import scores
from serve.auto.cascade import Look, Looker
from serve.auto.events import Route
from serve.auto.question import question

#: How long an answer waits for the store to keep how it came about.
KEEP_S = 1.0
#: What a look, a dearer model's answer, or a judge's analysis teaches beside a person's word.
LOOK_WEIGHT, ESCALATION_WEIGHT, ANALYSIS_WEIGHT = 0.1, 0.3, 0.15

#: Failures of one model that another candidate need not have: it is away or wrong, or for it the
#: money, the rules or the window is too narrow. Who has no room now is not passed over: its work
#: must not go to dear models unasked.
_PASSING = (Unavailable, UpstreamError, BudgetExceeded, PolicyDenied, ContextTooLong)

log = logging.getLogger(__name__)

#: Keeps the route of an answer and what it taught; the notebook's own method, or nothing.
Keep = Callable[[Route, Sequence[Event]], Awaitable[None]]


async def forget(route: Route, happened: Sequence[Event]) -> None:
    """Keeps nothing."""


class Router(Protocol):
    async def decide(self, question: Question) -> Plan:
        """Raises BadRequest where the dollar ceiling leaves nothing."""
        ...


@dataclass(slots=True)
class _Run:
    """One request on its way. first: the model that the choice is about, last: the one whose
    answer is given; None where a panel answers. others: who may be asked in place of a single
    choice, the best first. failed: why the chosen model did not answer."""

    asked: Question
    plan: Plan
    first: str | None
    last: str | None
    look: Look | None = None
    escalated: bool = False
    stages: tuple[Stage, ...] = ()
    learned: list[Event] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    failed: FusionError | None = None

    @property
    def choice(self) -> Option:
        return self.plan.decision.choice


class Auto:
    """`models` answers for models, `panels` for `fusion/<panel>`."""

    def __init__(
        self,
        catalog: Catalog,
        models: Answerer,
        panels: Answerer,
        router: Router,
        keep: Keep,
        clock: Clock,
    ) -> None:
        self._catalog = catalog
        self._models = models
        self._panels = panels
        self._router = router
        self._keep = keep
        self._clock = clock

    async def complete(self, request: Request, call: Call) -> Completion:
        run, call = await self.begin(request, call)
        if run.choice.kind == "cascade":
            kept = await self._first(run, request, call)
            if kept is not None:
                return await self._end(run, call, kept)
        answer = None
        while answer is None:
            answerer, asked = self._answerer(run, request)
            try:
                answer = await answerer.complete(asked, call)
            except FusionError as error:
                answer = _instead(run, error)
        return await self._end(run, call, answer)

    async def stream(self, request: Request, call: Call) -> Events:
        run, call = await self.begin(request, call)
        if run.choice.kind == "cascade":
            kept = await self._first(run, request, call)
            if kept is not None:
                yield TextDelta(kept.text)
                yield Done(await self._end(run, call, kept))
                return
        answer, said = None, False
        while answer is None:
            answerer, asked = self._answerer(run, request)
            try:
                async with aclosing(answerer.stream(asked, call)) as events:
                    async for event in events:
                        if isinstance(event, Done):
                            event = Done(await self._end(run, call, event.completion))
                        said = True
                        yield event
                return
            except FusionError as error:
                if said:
                    raise
                answer = _instead(run, error)
        yield TextDelta(answer.text)
        yield Done(await self._end(run, call, answer))

    async def begin(self, request: Request, call: Call) -> tuple[_Run, Call]:
        """Ask the router. Raises Unsupported where no model can do what is asked."""
        asked = question(request, self._catalog)
        if not asked.candidates:
            raise Unsupported("No model of the catalog takes this request's tools or images.")
        asked, call = _within(asked, call)
        plan = await self._router.decide(asked)
        choice = plan.decision.choice
        single = choice.kind == "one"
        first = None if choice.kind == "panel" else choice.models[0]
        run = _Run(asked, plan, first, first if single else None)
        if single:
            alone = [one.models[0] for one in plan.decision.options if one.kind == "one"]
            run.others = [name for name in alone if name != first]
        return run, call

    async def model_for(self, request: Request) -> tuple[str, dict[str, Any]]:
        """A model alone, for a fusion that is asked for by name; and the route to tell."""
        run, _ = await self.begin(request, Call())
        run.last = run.choice.models[-1]
        return run.last, {"route": _told(run)}

    def _answerer(self, run: _Run, request: Request) -> tuple[Answerer, Request]:
        """Who gives the answer, after a cheap one has been doubted or where there is none."""
        if run.choice.kind == "panel":
            return self._panels, replace(request, model=FUSION + run.choice.panel)
        run.last = run.last or run.choice.models[-1]
        return self._models, replace(request, model=run.last)

    async def _first(self, run: _Run, request: Request, call: Call) -> Completion | None:
        """The cheap answer if it stands the look; None if the dear model must answer."""
        first, second = run.choice.models
        plan = run.plan
        dear = next(one for one in plan.decision.singles if one.models == (second,))
        sampling = replace(request.sampling, logprobs="confident" in run.asked.looks)
        asked = replace(request, model=first, sampling=sampling)
        try:
            answer = await self._models.complete(asked, call)
        except FusionError as error:
            run.stages = (Stage("answer", first, error=error.code),)
            run.escalated = True
            return None
        if answer.logprob is not None:
            run.learned.append(Heard(answer.model, answer.logprob))
        least = needed(dear.quality, dear.cost, run.asked.objective)
        judge = self._catalog.model_behind(self._catalog.roles.judge)
        looker = Looker(self._models, judge, plan.signs)
        prior = plan.predicted[first]
        run.look = await looker.look(asked, call, answer, prior, run.asked.looks, least)
        run.stages = (*answer.stages, *run.look.spent)
        if run.look.belief < least:
            run.escalated = True
            return None
        run.last = first
        return replace(answer, stages=())

    async def _end(self, run: _Run, call: Call, answer: Completion) -> Completion:
        """The answer with its route, which is kept first: feedback may come at once."""
        stages = (*run.stages, *answer.stages)
        if run.choice.kind != "panel":
            # A fallback may have answered in its place, or a model that had room.
            run.last = answer.model
        route = _route(run, call)
        if run.look is not None and run.look.answer.model == run.first:
            run.learned += _lessons(run, run.look, route, answer)
        if run.choice.kind == "panel":
            run.learned += _compared(run, route, answer)
        tokens = [(s.model, s.usage.output) for s in stages]
        flagships = sum(count for model, count in tokens if self._is_flagship(model))
        run.learned.append(
            Answered(
                self._clock.now(),
                run.plan.decision.gain,
                sum(count for _, count in tokens),
                flagships,
                run.asked.objective.share,
                run.plan.extra_usd,
            )
        )
        try:
            async with asyncio.timeout(KEEP_S):
                await self._keep(route, run.learned)
        except (FusionError, TimeoutError) as error:
            # The answer is there and paid for; only its lesson is lost.
            log.warning("the route of %s was not kept: %s", call.id, error or "too slow")
        usage = sum((stage.usage for stage in stages), Usage()) if run.stages else answer.usage
        extension = {**answer.extension, "route": _told(run)}
        return replace(answer, stages=stages, usage=usage, extension=extension)

    def _is_flagship(self, model: str) -> bool:
        spec = self._catalog.models.get(model)
        return spec is not None and spec.tier == "flagship"


def _within(asked: Question, call: Call) -> tuple[Question, Call]:
    """Both with the lower of the ceiling and the call's own cap."""
    cap, ceiling = call.cost_cap_nano_usd, asked.objective.ceiling
    if ceiling is not None:
        cap = int(ceiling * NANO_PER_USD) if cap is None else min(cap, int(ceiling * NANO_PER_USD))
    if cap is None:
        return asked, call
    objective = replace(asked.objective, ceiling=cap / NANO_PER_USD)
    return replace(asked, objective=objective), replace(call, cost_cap_nano_usd=cap)


def _route(run: _Run, call: Call) -> Route:
    plan = run.plan
    return Route(
        project=call.project,
        id=call.id,
        first=run.first,
        last=run.last,
        context=plan.context,
        eye=plan.eye,
        expected=plan.expected,
        predicted=plan.predicted,
        known=plan.known,
        # Who answers in the place of what was chosen was sure to, once that had failed.
        propensity=plan.propensity if run.last in (None, *run.choice.models) else 1.0,
        shown=run.look.shown if run.look else {},
    )


def _lessons(run: _Run, look: Look, route: Route, answer: Completion) -> list[Event]:
    """What a cascade taught before anybody judged its answer."""
    assert run.first is not None and run.last is not None
    predicted, learned = run.plan.predicted, list[Event]()
    weight, score, signal = LOOK_WEIGHT, look.belief, "verification"
    if run.last != run.first:
        # The dear model is not always right; where both say the same, both may be wrong.
        if run.last not in predicted:
            return []
        right = predicted[run.last]
        same = say_the_same(look.answer.text, answer.text)
        weight, score, signal = ESCALATION_WEIGHT, right if same else 1.0 - right, "escalation"
        learned.append(Looked(look.shown, score))
    lesson = route.lesson(run.first, score, weight)
    learned.append(Judged(lesson, predicted[run.first], run.plan.propensity, signal))
    return learned


def _compared(run: _Run, route: Route, answer: Completion) -> list[Event]:
    """What a panel's judge taught about each panelist."""
    members = {s.member: s.model for s in answer.stages if s.member and s.error is None}
    return [
        Judged(
            route.lesson(model, score, ANALYSIS_WEIGHT),
            route.predicted[model],
            run.plan.propensity,
            "analysis",
        )
        for model, score in scores(answer.extension, members).items()
        if model in route.expected
    ]


def _instead(run: _Run, error: FusionError) -> Completion | None:
    """What there is where a model gave no answer: the doubted cheap one, or None where another
    model is to be asked, the next best alone. Raises where there is neither; then what the chosen
    model said counts.
    """
    run.failed = run.failed or error
    passing = isinstance(error, _PASSING) and not isinstance(error, StoreUnavailable | AnswerDenied)
    if run.look is None and not (run.others and passing):
        raise run.failed
    assert run.last is not None
    run.stages = (*run.stages, Stage("answer", run.last, error=error.code))
    if run.look is None:
        run.last = run.others.pop(0)
        return None
    run.last = run.first
    return replace(run.look.answer, stages=())


def _told(run: _Run) -> dict[str, Any]:
    """The route as the caller sees it."""
    decision, choice = run.plan.decision, run.choice
    low, high = choice.interval
    told: dict[str, Any] = {
        "kind": choice.kind,
        "models": list(choice.models),
        "model": run.last or FUSION + choice.panel,
        "why": decision.reason,
        "quality": round(choice.quality, 4),
        "interval": [round(low, 4), round(high, 4)],
        "cost_usd": round(choice.cost, 9) if choice.priced else None,
        "far": decision.far,
        "explored": run.plan.explored,
        "propensity": round(run.plan.propensity, 6),
    }
    if choice.panel:
        told["panel"] = choice.panel
    if run.look is not None:
        told["look"] = {
            "signs": dict(run.look.shown),
            "belief": round(run.look.belief, 4),
            "escalated": run.escalated,
        }
    return told
