"""A fusion as an `Answerer`: a panel answers, a judge compares, a writer writes."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import asdict
from typing import Any

from models.answerer import Events
from models.call import Call
from models.errors import Cancelled, FusionError
from models.messages import Completion, Done, Request, Usage
from models.values import changed
from serve.fusion import engine, synthesis
from serve.fusion.contract import TooDeep
from serve.fusion.deliberation import Deliberation, Resources
from serve.fusion.plan import Plan
from serve.fusion.record import Record

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
        at = self._resources
        inner = capped(deeper(call), self._plan.cost_cap)
        async with Deliberation(self._plan, request, inner, at, live=live) as work:
            ended = False
            try:
                async with aclosing(work.events()) as told:
                    async for progress in told:
                        yield progress
                writing = synthesis.write(work, request, inner, at.models, at.catalog, live)
                async with aclosing(writing) as written:
                    async for event in written:
                        if isinstance(event, Done):
                            event = Done(finished(work, event.completion, at, request, call))
                            ended = True
                        yield event
            except FusionError as error:
                keep(work, at, request, call, None, error)
                raise
            except (asyncio.CancelledError, GeneratorExit):
                if not ended:
                    keep(work, at, request, call, None, Cancelled("The caller went away."))
                raise


def deeper(call: Call) -> Call:
    """The call for what runs inside a fusion. Raises TooDeep inside of one."""
    if call.fusion_depth >= MAX_DEPTH:
        raise TooDeep("A fusion cannot run inside a fusion.", param="model")
    return changed(call, fusion_depth=call.fusion_depth + 1)


def capped(call: Call, cap: int | None) -> Call:
    """The call under the lower of its own cap and this one."""
    caps = [one for one in (call.cost_cap_nano_usd, cap) if one is not None]
    return changed(call, cost_cap_nano_usd=min(caps)) if caps else call


def finished(
    work: Deliberation,
    written: Completion,
    resources: Resources,
    request: Request,
    call: Call,
    error: FusionError | None = None,
) -> Completion:
    """The final answer, with what it took: usage and stages are those of all inner calls.
    `error` is why the fusion itself failed, where an outer model answered all the same."""
    stages = (*work.ordered_stages(), *written.stages)
    answer = changed(
        written,
        usage=sum((stage.usage for stage in stages), Usage()),
        stages=stages,
        sources=tuple(dict.fromkeys((*written.sources, *work.sources(written.text)))),
        extension={**written.extension, **work.told(error)},
    )
    if error is None:
        cost = sum(stage.nano_usd or 0 for stage in written.stages)
        work.run.on(engine.Written(work.write.ask, cost), resources.clock.now())
    keep(work, resources, request, call, answer, error)
    return answer


def keep(
    work: Deliberation,
    resources: Resources,
    request: Request,
    call: Call,
    answer: Completion | None,
    error: FusionError | None,
) -> None:
    """Put the whole record in line for the store."""
    if resources.records is None:
        return
    told: dict[str, Any] = {
        **work.told(error),
        "judge": work.plan.judge,
        "messages": [{"role": one.role, "content": one.text} for one in request.messages],
        "stages": [asdict(stage) for stage in (answer.stages if answer else work.stages)],
    }
    if answer is not None:
        told |= {
            "model": answer.model,
            "output": answer.text,
            "sources": [asdict(source) for source in answer.sources],
        }
    now = resources.clock.now()
    resources.records.keep(Record(work.id, now, call.project, call.request or call.id, told))
