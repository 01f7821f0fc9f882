"""One plan as an `Answerer`: carries out what `run` decides, with real models."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from models import prices
from models.answerer import Answerer, Clock, Events
from models.call import Call, new_id
from models.catalog import AUTO, PLAN, Catalog
from models.errors import (
    ApprovalNeeded,
    BadRequest,
    BudgetExceeded,
    Cancelled,
    FusionError,
    StoreUnavailable,
    UpstreamError,
)
from models.messages import (
    Completion,
    Done,
    Message,
    PlanOptions,
    Progress,
    Request,
    ResponseFormat,
    Sampling,
    Stage,
    Usage,
)
from serve.plans import graph, prompts, run, telling
from serve.plans.estimate import Estimate, estimate
from serve.plans.graph import BadGraph, Graph, Limits, Subtask
from serve.plans.planner import Planned, Planner
from serve.plans.record import Done as Kept
from serve.plans.record import Records, Saved, Status
from serve.plans.run import Converge, Event, GiveUp, Replan, Run, Start
from serve.plans.tasks import Beside, Tasks

#: Subtasks of one plan at the same time.
PARALLEL = 20
#: How often a plan under way says so, and looks whether somebody wants it to stop.
LOOK_S = 0.5
#: The share of a budget that is kept for writing the answer.
WRITERS_SHARE = 4


@dataclass(frozen=True, slots=True)
class Means:
    """What plans are carried out with. `answerer` answers for every name of the catalog."""

    catalog: Catalog
    answerer: Answerer
    clock: Clock
    records: Records | None = None
    #: Of a graph that a caller brings: as wide as he has documents. A planner's own is smaller.
    limits: Limits = field(default_factory=lambda: Limits(subtasks=4000, width=4000))


class Plan:
    """What answers as `fusion/plan`. A request may bring a graph of its own, or go on with a plan
    that broke off; else the planner makes one."""

    def __init__(self, means: Means) -> None:
        self._means = means

    async def complete(self, request: Request, call: Call) -> Completion:
        async with aclosing(self.stream(request, call)) as events:
            async for event in events:
                if isinstance(event, Done):
                    return event.completion
        raise AssertionError("a stream ends with Done")

    async def stream(self, request: Request, call: Call) -> Events:
        if call.role != "answer":
            raise BadRequest("A plan cannot run inside a plan.", param="model")
        own, resumed = await self._brought(request, call)
        if resumed is not None and resumed.status == "done":
            yield Done(telling.kept(resumed))
            return
        work = _Work(self._means, replace(request, plan=None), call)
        ended: Status | None = "cancelled"
        why = ""
        try:
            async with aclosing(work.events(own, resumed)) as events:
                async for event in events:
                    if isinstance(event, Done):
                        ended = None
                    yield event
        except Cancelled as error:
            ended = "paused" if isinstance(error, _Paused) else "cancelled"
            raise
        except ApprovalNeeded as error:
            ended, why, error.plan = "paused", error.message, work.id
            raise
        except FusionError as error:
            ended, why, error.plan = "failed", error.message, work.id
            raise
        finally:
            if ended is not None:
                await work.broke_off(ended, why)

    async def _brought(self, request: Request, call: Call) -> tuple[Graph | None, Saved | None]:
        options = request.plan or PlanOptions()
        try:
            own = None if options.graph is None else graph.parse(options.graph, self._means.limits)
        except BadGraph as error:
            raise BadRequest(str(error), param="graph") from None
        if options.resume is None:
            return own, None
        if self._means.records is None:
            raise BadRequest("Plans are not kept here, so none can be resumed.", param="resume")
        return own, await self._means.records.find(options.resume, call.project)


class _Work:
    """One plan under way."""

    def __init__(self, means: Means, request: Request, call: Call) -> None:
        self._means = means
        self._request = request
        self._call = call
        self._task = "\n\n".join(one.text for one in request.messages if one.role == "user")
        self._id = new_id("plan")
        self._holder = new_id("run")
        self._stages: list[Stage] = []
        self._told: dict[str, dict[str, Any]] = {}
        self._fallback: str | None = None
        self._begun = False
        catalog = means.catalog
        self._brain = catalog.roles.plan or catalog.roles.judge
        self._writer = catalog.roles.synthesis or catalog.roles.judge
        self._planner = Planner(means.answerer, self._brain, Limits(), self._too_dear)
        self._estimate: dict[str, Any] = {}

    @property
    def id(self) -> str:
        """Of the plan, where it is kept; empty before."""
        return self._id if self._begun and self._means.records is not None else ""

    async def events(self, own: Graph | None, resumed: Saved | None) -> Events:
        if resumed is not None:
            self._id, self._task, own = resumed.id, resumed.task, resumed.graph
            self._told = {one.subtask: dict(one.told) for one in resumed.done}
            if self._means.records is not None:
                await self._means.records.take(self._id, self._holder)
            self._begun = True
        elif own is None:
            yield Progress("plan.in_progress", {"id": self._id, "model": self._brain})
            planned = await self._planner.plan(self._task, self._subcall(writing=False))
            self._stages += planned.stages
            own, self._fallback = planned.graph, planned.fallback
        _refuse_names(own, self._means.catalog)
        state = Run(own, self._ladder, PARALLEL, limits=self._means.limits)
        kept = resumed.done if resumed else ()
        tries = {one.subtask: int(one.told.get("attempt", 1)) for one in kept}
        actions = state.start({one.subtask: one.text for one in kept}, tries)
        await self._begin(state.graph)
        done = {one.id for one in state.graph.subtasks if state.steps[one.id].settled}
        # Of a folder's four thousand pieces it takes half a second, which is not the others'.
        self._estimate = (await asyncio.to_thread(self._estimated, state.graph, done)).told()
        shown = {"id": self._id, "subtasks": telling.told_graph(state.graph)}
        yield Progress("plan.created", {**shown, "estimate": self._estimate})
        inbox: asyncio.Queue[Event | FusionError] = asyncio.Queue()
        async with Tasks(inbox) as tasks, Beside(self._watch(inbox)):
            while True:
                known = state.graph
                for action in actions:
                    match action:
                        case Start():
                            yield Progress(
                                "plan.subtask.in_progress",
                                {
                                    "id": action.subtask.id,
                                    "model": action.name,
                                    "attempt": action.attempt,
                                },
                            )
                            tasks.start(self._do(action))
                        case Replan(subtask, error):
                            tasks.start(self._replan(subtask, error))
                        case GiveUp(error):
                            raise UpstreamError(f"The plan failed: {error}.")
                        case Converge():
                            async with aclosing(self._converge(state, action)) as written:
                                async for event in written:
                                    yield event
                            return
                happened = await inbox.get()
                if isinstance(happened, _Paused | ApprovalNeeded):
                    # What is under way is paid for: its results are kept first.
                    await tasks.ended()
                if isinstance(happened, FusionError):
                    raise happened
                actions = state.on(happened)
                if state.graph is not known:
                    await self._grown(state.graph)
                    shown = {"id": self._id, "subtasks": telling.told_graph(state.graph)}
                    yield Progress("plan.changed", shown)
                yield telling.progress(happened, state, self._told)

    def _estimated(self, made: Graph, done: Collection[str] = ()) -> Estimate:
        """What is to be paid, beside what is done."""
        firsts = {one.id: self._ladder(one, 0) for one in made.subtasks if one.id not in done}
        names = {key: name for key, name in firsts.items() if name is not None}
        return estimate(made, self._task, names, self._writer, self._means.catalog)

    def _too_dear(self, made: Graph) -> Iterator[str]:
        cap, least = self._call.cost_cap_nano_usd, self._estimated(made).nano_usd.low
        if cap is not None and least > cap:
            yield (
                f"it costs from about {prices.usd(least)} US dollars on and only {prices.usd(cap)} "
                "may be spent: plan fewer subtasks, and shorter ones"
            )

    def _ladder(self, subtask: Subtask, attempt: int) -> str | None:
        """Who does it first, and one rung up: whoever plans."""
        roles = self._means.catalog.roles
        first = subtask.model or getattr(roles.subtasks, subtask.kind)
        if subtask.kind == "decide" and subtask.model is None and first == AUTO:
            first = self._brain
        return (first, self._brain)[attempt] if attempt < 2 else None

    async def _do(self, start: Start) -> Event:
        subtask = start.subtask
        messages = prompts.working(self._task, subtask, start.inputs, start.feedback)
        shape = None
        if subtask.kind == "check":
            shape = ResponseFormat("json_schema", "verdict", prompts.VERDICT, strict=True)
        elif subtask.list:
            shape = ResponseFormat("json_schema", "list", prompts.ITEMS, strict=True)
        asked = Request(
            start.name,
            messages,
            Sampling(max_tokens=subtask.max_tokens),
            response_format=shape,
        )
        began = self._means.clock.now()
        call = self._subcall(writing=False).child("subtask")
        try:
            answer = await self._means.answerer.complete(asked, call)
        except BudgetExceeded:
            return run.OutOfMoney(subtask.id)
        except ApprovalNeeded:
            raise  # no fault of the subtask: the whole waits for a person
        except FusionError as error:
            return run.Failed(subtask.id, error.message)
        self._stages += (replace(stage, member=subtask.id) for stage in answer.stages)
        if not answer.text.strip():
            return run.Failed(subtask.id, "the answer was empty")
        self._told[subtask.id] = {
            "model": answer.model,
            "asked": start.name,
            "attempt": start.attempt,
            "seconds": round(self._means.clock.now() - began, 3),
            "cost_usd": prices.usd(sum(stage.nano_usd or 0 for stage in answer.stages)),
            "tokens": answer.usage.input + answer.usage.output,
        }
        if self._means.records is not None and self._begun:
            kept = Kept(subtask.id, answer.text, self._told[subtask.id])
            await self._means.records.finished(self._id, kept)
        return run.Finished(subtask.id, answer.text)

    async def _replan(self, subtask: Subtask, error: str) -> Event:
        try:
            planned: Planned | None = await self._planner.replan(
                self._task, subtask, error, self._subcall(writing=False)
            )
        except BudgetExceeded:
            planned = None
        if planned is None:
            return run.Replanned(subtask.id)
        self._stages += planned.stages
        return run.Replanned(subtask.id, planned.graph.subtasks)

    async def _converge(self, state: Run, converge: Converge) -> Events:
        """The caller's own conversation, sampling, tools and format, and the results."""
        writer = self._writer
        before, material = prompts.converging(
            state.graph.answer, converge.results, converge.missing
        )
        messages: tuple[Message, ...] = (before, *self._request.messages, material)
        asked = replace(self._request, model=writer, messages=messages, fusion=None)
        call = self._subcall(writing=True).child("synthesis")
        yield Progress("plan.writing", {"model": writer, "missing": list(converge.missing)})
        async with aclosing(self._means.answerer.stream(asked, call)) as events:
            async for event in events:
                if isinstance(event, Done):
                    done = self._whole(event.completion, state, converge)
                    await self._end("done", done)
                    yield Done(done)
                else:
                    yield event

    def _whole(self, written: Completion, state: Run, converge: Converge) -> Completion:
        stages = (*self._stages, *written.stages)
        usage = sum((stage.usage for stage in stages), Usage())
        told = {
            "id": self._id,
            "subtasks": [
                telling.told_step(step, self._told.get(step.subtask.id, {}))
                for step in state.steps.values()
            ],
            "missing": list(converge.missing),
            "estimate": self._estimate,
            "budget_ended": state.broke,
            "shares": telling.shares(stages, self._means.catalog),
            **({"fallback": self._fallback} if self._fallback else {}),
        }
        extension = {**written.extension, "plan": told}
        return replace(written, stages=stages, usage=usage, extension=extension)

    def _subcall(self, *, writing: bool) -> Call:
        """Under the same cap; of it a part is kept for the answer."""
        cap = self._call.cost_cap_nano_usd
        if cap is None or writing:
            return self._call
        return replace(self._call, cost_cap_nano_usd=cap - cap // WRITERS_SHARE)

    async def _begin(self, made: Graph) -> None:
        if self._means.records is not None and not self._begun:
            await self._means.records.begin(
                self._id, self._call.project, self._task, made, self._holder
            )
            self._begun = True

    async def _grown(self, made: Graph) -> None:
        if self._means.records is not None:
            await self._means.records.grown(self._id, made)

    async def _end(self, status: Status, whole: Completion) -> None:
        if self._means.records is not None and self._begun:
            told = {
                "answer": whole.text,
                "model": whole.model,
                "cost_usd": prices.usd(sum(stage.nano_usd or 0 for stage in whole.stages)),
                "plan": whole.extension["plan"],
            }
            await self._means.records.end(self._id, self._holder, status, told)

    async def _watch(self, inbox: asyncio.Queue[Event | FusionError]) -> None:
        """Hold on to the plan, and hear what others want of it, whichever gateway they ask."""
        if self._means.records is None:
            return
        while True:
            await self._means.clock.sleep(LOOK_S)
            try:
                wanted = await self._means.records.still(self._id, self._holder)
            except StoreUnavailable:
                continue  # the next look is soon enough
            except FusionError as error:
                inbox.put_nowait(error)
                return
            if wanted == "cancelled":
                inbox.put_nowait(Cancelled("This plan was cancelled. It can be resumed."))
            elif wanted == "paused":
                inbox.put_nowait(_Paused("This plan is paused. It can be resumed."))

    async def broke_off(self, status: Status, why: str = "") -> None:
        """It ended without an answer. What was done is kept: it can be resumed."""
        if self._means.records is not None and self._begun:
            told = {"error": why} if why else {}
            await self._means.records.end(self._id, self._holder, status, told)


def _refuse_names(made: Graph, catalog: Catalog) -> None:
    """Known now, so not after the first subtasks have been paid for."""
    for subtask in made.subtasks:
        if subtask.model == PLAN:
            raise BadRequest(f"Subtask '{subtask.id}' is a plan inside a plan.", param="graph")
        if subtask.model is not None and catalog.resolve(subtask.model) is None:
            raise BadRequest(
                f"Subtask '{subtask.id}' names '{subtask.model}', which nothing is called.",
                param="graph",
            )


class _Paused(Cancelled):
    """Nothing new was begun, and what had begun was kept."""
