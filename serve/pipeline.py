"""The one way in: from a name that a client sends to whatever answers.

The gateway, batch jobs, plans and evaluations all call this. `Models` answers for concrete
models, each behind its wrappers; `Pipeline` answers for every name of the catalog.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

from models.answerer import Answerer, Clock, Events, SystemClock
from models.call import Call
from models.catalog import CONTRACT_NAMES, Catalog, Target
from models.errors import ModelNotFound
from models.messages import Completion, Done, FusionOptions, Request
from models.tools.toolbox import Boxes
from models.values import changed
from models.wrappers.fit import refuse_unfit
from serve.auto.auto import Auto, Keep, Router, forget
from serve.fusion.deliberation import Resources
from serve.fusion.fusion import Fusion
from serve.fusion.judge import Judge
from serve.fusion.outer import Outer
from serve.fusion.plan import make
from serve.fusion.record import Keeper
from serve.plans.plan import Means, Plan
from serve.plans.record import Records as PlanRecords


class Models:
    """Every concrete model of the catalog behind one `Answerer`, by its name or an alias.

    `answerers` are whole stacks of wrappers (see `models.wrappers`).
    """

    def __init__(self, catalog: Catalog, answerers: Mapping[str, Answerer]) -> None:
        self._catalog = catalog
        self._answerers = answerers

    async def complete(self, request: Request, call: Call) -> Completion:
        answerer, request = self._find(request)
        return await answerer.complete(request, call)

    def stream(self, request: Request, call: Call) -> Events:
        answerer, request = self._find(request)
        return answerer.stream(request, call)

    def _find(self, request: Request) -> tuple[Answerer, Request]:
        if (known := self._answerers.get(request.model)) is not None:
            return known, request
        model = self._catalog.model_behind(request.model)
        return self._answerers[model], changed(request, model=model)


class Pipeline:
    """Answers for every name that the catalog knows."""

    def __init__(
        self,
        catalog: Catalog,
        models: Answerer,
        judge: Judge,
        router: Router,
        clock: Clock | None = None,
        boxes: Boxes | None = None,
        records: Keeper | None = None,
        plans: PlanRecords | None = None,
        routes: Keep = forget,
    ) -> None:
        """`boxes` opens the server tools of one request, `records` keeps what fusions did,
        `plans` what plans did, and `routes` how answers of `fusion/auto` came about."""
        self._catalog = catalog
        self._models = models
        clock = clock or SystemClock()
        self._plans = {panel: make(catalog, panel, None) for panel in catalog.panels}
        self._means = Means(catalog, self, clock, plans)
        self._resources = Resources(catalog, models, judge, clock, boxes, records)
        self._auto = Auto(catalog, models, self, router, routes, clock)

    async def complete(self, request: Request, call: Call) -> Completion:
        answerer, request, extension = await self._choose(request)
        return _extended(await answerer.complete(request, call), extension)

    async def stream(self, request: Request, call: Call) -> Events:
        answerer, request, extension = await self._choose(request)
        async with aclosing(answerer.stream(request, call)) as events:
            async for event in events:
                if isinstance(event, Done):
                    event = Done(_extended(event.completion, extension))
                yield event

    async def _choose(self, request: Request) -> tuple[Answerer, Request, dict[str, Any]]:
        target = self._catalog.resolve(request.model)
        options = request.fusion
        if options is not None and not options.enabled:
            options = None
        named = options is not None and bool(options.analysis_models or options.preset)
        if target is None and request.model in CONTRACT_NAMES and named:
            # It needs no panel of that name where it names its models, or another panel.
            return self._fusion(request, None, options), request, {}
        if target is None:
            raise ModelNotFound(
                f"No model, alias or panel is called '{request.model}'. GET /v1/models lists them.",
                param="model",
            )
        if target.kind == "panel":
            return self._fusion(request, target.name, options), request, {}
        if target.kind == "plan":
            return Plan(self._means), request, {}
        extension: dict[str, Any] = {}
        if target.kind == "auto":
            if options is None:
                return self._auto, request, {}
            model, extension = await self._auto.model_for(request)
            request, target = changed(request, model=model), Target("model", model)
        if options is None:
            return self._models, request, extension
        return self._fusion(request, None, options, target.name), request, extension

    def _fusion(
        self, request: Request, panel: str | None, options: FusionOptions | None, model: str = ""
    ) -> Answerer:
        """A fusion with this panel (None: the options' own). `model` is who the caller asked:
        it writes the answer, or decides whether to call the fusion at all."""
        if options is not None and options.entry == "tool":
            outer = model or make(self._catalog, panel, options).writer
            self._refuse_unfit(request, outer)
            return Outer(outer, lambda: make(self._catalog, panel, options, outer), self._resources)
        plan = self._plans.get(panel or "") if options is None else None
        plan = plan or make(self._catalog, panel, options, model or None)
        # Known now, so not after a panel and a judge have been paid for.
        self._refuse_unfit(request, plan.writer)
        return Fusion(plan, self._resources)

    def _refuse_unfit(self, request: Request, model: str) -> None:
        refuse_unfit(request, model, self._catalog.models[model])


def _extended(completion: Completion, extension: dict[str, Any]) -> Completion:
    if not extension:
        return completion
    return changed(completion, extension={**completion.extension, **extension})
