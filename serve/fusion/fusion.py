"""A fusion as an `Answerer`: a panel answers, a judge compares, a writer writes."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace
from typing import Any

from models.answerer import Events
from models.call import Call, new_id
from models.errors import BadRequest
from models.messages import Completion, Done, Request, Usage
from serve.fusion import result, synthesis
from serve.fusion.deliberation import Deliberation, Resources
from serve.fusion.plan import Plan

#: An inner call may not be a fusion itself.
MAX_DEPTH = 1


class Fusion:
    """Answers by one plan."""

    def __init__(self, plan: Plan, resources: Resources) -> None:
        self._plan = plan
        self._resources = resources

    async def complete(self, request: Request, call: Call) -> Completion:
        async with aclosing(self._events(request, call, live=False)) as events:
            async for event in events:
                if isinstance(event, Done):
                    return event.completion
        raise AssertionError("a stream ends with Done")

    def stream(self, request: Request, call: Call) -> Events:
        return self._events(request, call, live=True)

    async def _events(self, request: Request, call: Call, *, live: bool) -> Events:
        inner = deeper(call)
        at = self._resources
        async with Deliberation(self._plan, request, inner, at, live=live) as work:
            async with aclosing(work.events()) as told:
                async for progress in told:
                    yield progress
            writing = synthesis.write(work, request, inner, at.models, at.catalog, live)
            async with aclosing(writing) as written:
                async for event in written:
                    if isinstance(event, Done):
                        event = Done(whole(work, event.completion, new_id("fus")))
                        work.written(event.completion)
                    yield event


def deeper(call: Call) -> Call:
    """The call for what runs inside a fusion. Raises BadRequest inside of one."""
    if call.fusion_depth >= MAX_DEPTH:
        raise BadRequest("A fusion cannot run inside a fusion.", param="model")
    return replace(call, fusion_depth=call.fusion_depth + 1)


def whole(work: Deliberation, written: Completion, identity: str) -> Completion:
    """The final answer, with what it took: usage and stages are those of all inner calls."""
    # In the panel's order and not in that of arrival, so that two runs compare.
    places = {name: place for place, name in enumerate(work.plan.names)}
    panel = sorted((s for s in work.stages if s.member), key=lambda s: places[s.member or ""])
    rest = (stage for stage in work.stages if not stage.member)
    every = (*panel, *rest, *written.stages)
    sources = tuple(
        dict.fromkeys((*written.sources, *result.sources(work.write.answers, written.text)))
    )
    extension: dict[str, Any] = {"id": identity, "panel": work.plan.panel, **work.result()}
    if work.plan.answer != "synthesis":
        extension["answer"] = work.plan.answer
    if work.write.best is not None:
        extension["best"] = work.write.best
    if left := result.left_out(work.run.failed):
        extension["left_out"] = left
    if sources:
        extension["sources"] = result.listed(sources)
    return replace(
        written,
        usage=sum((stage.usage for stage in every), Usage()),
        stages=every,
        sources=sources,
        extension={**written.extension, **extension},
    )
