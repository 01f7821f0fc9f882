"""The final answer of a fusion, whole or streamed as it is written."""

from __future__ import annotations

from contextlib import aclosing

from models.answerer import Events
from models.call import Call
from models.catalog import Catalog
from models.messages import (
    Completion,
    Done,
    FinishReason,
    ReasoningDelta,
    Request,
    TextDelta,
    ToolCallDelta,
    assistant,
)
from serve.fusion import engine, prompts, window
from serve.fusion.calls import noted
from serve.fusion.deliberation import Deliberation, Resources


async def complete(
    work: Deliberation, request: Request, call: Call, resources: Resources
) -> Completion:
    """The answer to `request` from what the panel and the judge found."""
    if (picked := _picked(work)) is not None:
        return picked
    asked = await _asked(work, request, resources.catalog)
    with noted(work.stages, "synthesis", work.plan.writer, resources.clock):
        return await resources.models.complete(asked, call.child("synthesis"))


async def stream(work: Deliberation, request: Request, call: Call, resources: Resources) -> Events:
    """The same as it is written."""
    if (picked := _picked(work)) is not None:
        yield TextDelta(picked.text)
        yield Done(picked)
        return
    asked = await _asked(work, request, resources.catalog)
    writing = resources.models.stream(asked, call.child("synthesis"))
    with noted(work.stages, "synthesis", work.plan.writer, resources.clock):
        async with aclosing(writing) as events:
            async for event in events:
                if isinstance(event, TextDelta | ReasoningDelta | ToolCallDelta | Done):
                    yield event


async def _asked(work: Deliberation, request: Request, catalog: Catalog) -> Request:
    """What the writer is asked, with as much of the answers as it can read."""
    plan, found = work.plan, work.write
    if not found.answers:
        return prompts.alone(request, plan.writer)
    spec = catalog.models[plan.writer]
    longest = min(request.sampling.max_tokens or spec.max_output, spec.max_output)
    asked = sum(window.tokens(message.text) for message in request.messages)
    room = spec.context - longest - window.OVERHEAD - asked - plan.analysis_tokens
    answers = await work.material(max(room, spec.context // 8))
    return prompts.synthesis(request, plan.writer, answers, found.analysis, prompts.new_mark())


def _picked(work: Deliberation) -> Completion | None:
    """The answer that the judge found best, where it is not written anew; without its word, the
    first in the panel's order."""
    if work.plan.answer != "best_of" or not work.write.answers:
        return None
    best = _best(work.write)
    model = work.plan.members[work.plan.names.index(best.member)].model
    ended: FinishReason = "length" if best.cut else "stop"
    return Completion(model, assistant(best.text), ended, sources=best.sources)


def _best(found: engine.Write) -> engine.Answer:
    chosen = (answer for answer in found.answers if answer.member == found.best)
    return next(chosen, found.answers[0])
