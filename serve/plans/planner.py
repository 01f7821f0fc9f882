"""Asks the planning model for a graph, and asks once more with what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from models.answerer import Answerer
from models.call import Call
from models.errors import ApprovalNeeded, BudgetExceeded, DeadlineExceeded, FusionError
from models.messages import Message, Request, ResponseFormat, Sampling, Stage, assistant, user
from serve.plans import graph, prompts, run
from serve.plans.graph import BadGraph, Graph, Limits, Subtask


@dataclass(frozen=True, slots=True)
class Planned:
    """A graph, what it cost to get it, and why it is not the planner's own, if so."""

    graph: Graph
    stages: tuple[Stage, ...] = ()
    fallback: str | None = None


#: What else is wrong with a graph, a line each.
Objections = Callable[[Graph], Iterable[str]]


class Planner:
    """`model` is the name that plans, asked through `answerer`. A whole plan must also pass
    `objections`."""

    def __init__(
        self, answerer: Answerer, model: str, limits: Limits, objections: Objections
    ) -> None:
        self._answerer = answerer
        self._model = model
        self._limits = limits
        self._objections = objections

    async def plan(self, task: str, call: Call, documents: str | None = None) -> Planned:
        """A graph for this task. A planner that makes none in two tries leaves the task as one
        subtask, and the plan says so. Raises what ends the whole: no money, no time, or that a
        person must allow it."""
        messages = prompts.planning(task, documents)
        found, stages, why = await self._asked(messages, call, self._objections)
        if found is not None:
            return Planned(found, stages)
        alone = Graph(subtasks=(Subtask(id="whole", kind="write", task=task[:200_000]),))
        return Planned(alone, stages, f"the planner made no plan: {why}")

    async def replan(self, task: str, failed: Subtask, error: str, call: Call) -> Planned | None:
        """Easier subtasks in place of one that failed. None where the planner has no idea."""
        messages = prompts.replanning(task, failed, error)
        found, stages, _ = await self._asked(messages, call, lambda _: ())
        if found is None:
            return None
        # Ids of their own: they stand beside those of the plan.
        names = {
            one.id: f"{failed.id[:30]}.{one.id}"[:40].replace(".", "_") for one in found.subtasks
        }
        renamed = tuple(
            one.model_copy(
                update={"id": names[one.id], "needs": tuple(names[need] for need in one.needs)}
            )
            for one in found.subtasks[:3]
            if all(need in names for need in one.needs)
        )
        return Planned(Graph(subtasks=renamed), stages)

    async def _asked(
        self, messages: tuple[Message, ...], call: Call, objections: Objections
    ) -> tuple[Graph | None, tuple[Stage, ...], str]:
        shape = ResponseFormat("json_schema", "plan", graph.schema(self._limits), strict=True)
        request = Request(self._model, messages, Sampling(temperature=0.0), response_format=shape)
        stages: tuple[Stage, ...] = ()
        why = ""
        for _ in range(2):
            try:
                answer = await self._answerer.complete(request, call.child("plan"))
            except (ApprovalNeeded, BudgetExceeded, DeadlineExceeded):
                raise
            except FusionError as error:
                return None, stages, error.message
            stages += answer.stages
            try:
                made = graph.parse(_read(answer.text), self._limits)
                if problems := tuple(objections(made)):
                    raise BadGraph(problems)
                return made, stages, ""
            except BadGraph as error:
                why = "; ".join(error.problems[:5])
                more = (assistant(answer.text[:20_000]), user(prompts.repair(error.problems)))
                request = replace(request, messages=(*messages, *more))
        return None, stages, why


def _read(text: str) -> Any:
    data = run.json_in(text)
    if not isinstance(data, dict):
        raise BadGraph(["the answer holds no JSON object"])
    return data
