"""The final answer of a fusion, streamed as it is written."""

from __future__ import annotations

import secrets
from contextlib import aclosing

from models.answerer import Answerer, Events
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
from serve.fusion.deliberation import Deliberation


async def write(
    work: Deliberation, request: Request, call: Call, models: Answerer, catalog: Catalog, live: bool
) -> Events:
    """The answer to `request` from what the panel and the judge found."""
    plan, found = work.plan, work.write
    if plan.answer == "best_of" and found.answers:
        completion = _picked(work)
        yield TextDelta(completion.text)
        yield Done(completion)
        return
    if found.answers:
        spec = catalog.models[plan.writer]
        longest = min(request.sampling.max_tokens or spec.max_output, spec.max_output)
        asked = sum(window.tokens(message.text) for message in request.messages)
        room = spec.context - longest - window.OVERHEAD - asked - plan.analysis_tokens
        answers = await work.material(max(room, spec.context // 8))
        mark = secrets.token_hex(4)
        request = prompts.synthesis(request, plan.writer, answers, found.analysis, mark)
    else:
        request = prompts.alone(request, plan.writer)
    inner = call.child("synthesis")
    if not live:
        yield Done(await models.complete(request, inner))
        return
    async with aclosing(models.stream(request, inner)) as events:
        async for event in events:
            if isinstance(event, TextDelta | ReasoningDelta | ToolCallDelta | Done):
                yield event


def _picked(work: Deliberation) -> Completion:
    """The answer that the judge found best; without its word, the first in the panel's order."""
    best = _best(work.write)
    model = work.plan.members[work.plan.names.index(best.member)].model
    ended: FinishReason = "length" if best.cut else "stop"
    return Completion(model, assistant(best.text), ended, sources=best.sources)


def _best(found: engine.Write) -> engine.Answer:
    chosen = (answer for answer in found.answers if answer.member == found.best)
    return next(chosen, found.answers[0])
