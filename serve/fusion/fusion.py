"""A fusion as an `Answerer`: a panel answers, a judge compares, a writer writes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import aclosing
from dataclasses import asdict
from typing import Any

from models.answerer import Events
from models.call import Call
from models.errors import Cancelled, FusionError
from models.messages import FUSED, Completion, Done, Request, Stage, total
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
        at = self._resources
        inner = capped(deeper(call), self._plan.cost_cap)
        work = Deliberation(self._plan, request, inner, at, live=False)
        try:
            async with work:
                async for _ in work.events():
                    pass  # nobody listens
                written = await synthesis.complete(work, request, inner, at)
            return finished(work, written, at, request, call)
        except BaseException as error:
            broke(error, work, at, request, call)
            raise

    async def stream(self, request: Request, call: Call) -> Events:
        at = self._resources
        inner = capped(deeper(call), self._plan.cost_cap)
        work = Deliberation(self._plan, request, inner, at, live=True)
        try:
            async with work:
                async with aclosing(work.events()) as told:
                    async for progress in told:
                        yield progress
                async with aclosing(synthesis.stream(work, request, inner, at)) as events:
                    async for event in events:
                        if isinstance(event, Done):
                            written = event.completion
                        else:
                            yield event
            yield Done(finished(work, written, at, request, call))
        except BaseException as error:
            broke(error, work, at, request, call)
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
    """The final answer, with what it took: usage and stages are those of all inner calls. `work` is
    closed, so that what was cut off is among them. `error` is why the fusion itself failed, where
    an outer model answered all the same."""
    stages = (*work.ordered_stages(), *written.stages)
    told = work.told(error)
    answer = changed(
        written,
        usage=total(stage.usage for stage in stages),
        stages=stages,
        sources=tuple(dict.fromkeys((*written.sources, *work.sources(written.text)))),
        extension={**written.extension, **told},
        turns=written.turns or (FUSED, written.message),
    )
    if error is None:
        cost = sum(stage.nano_usd or 0 for stage in written.stages)
        work.run.on(engine.Written(work.write.ask, cost), resources.clock.now())
    _keep(told, stages, answer, work, resources, request, call)
    return answer


def broke(
    error: BaseException, work: Deliberation, resources: Resources, request: Request, call: Call
) -> None:
    """The fusion ended before it was finished, or its reader went away after. `work` is closed, so
    that what was cut off is among its stages."""
    if work.kept:
        return
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        error = Cancelled("The caller went away.")
    if isinstance(error, FusionError):
        _keep(work.told(error), work.stages, None, work, resources, request, call)


def _keep(
    told: Mapping[str, Any],
    stages: Iterable[Stage],
    answer: Completion | None,
    work: Deliberation,
    resources: Resources,
    request: Request,
    call: Call,
) -> None:
    """Put the whole record in line for the store."""
    work.kept = True
    if resources.records is None:
        return
    whole: dict[str, Any] = {
        **told,
        "judge": work.plan.judge,
        "messages": [{"role": one.role, "content": one.text} for one in request.messages],
        "stages": [vars(stage) | {"usage": asdict(stage.usage)} for stage in stages],
    }
    if answer is not None:
        whole |= {
            "model": answer.model,
            "output": answer.text,
            "sources": [asdict(source) for source in answer.sources],
        }
    now = resources.clock.now()
    resources.records.keep(Record(work.id, now, call.project, call.request or call.id, whole))
