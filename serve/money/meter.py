"""Measures each call to a model: time, tokens, cost. The innermost wrapper."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace

from models.answerer import Answerer, Clock, Events, SystemClock
from models.call import Call
from models.messages import Completion, Done, Request, Stage
from models.prices import Price


class Meter:
    """Puts a `Stage` on every completion that passes. Without a price the cost is unknown."""

    def __init__(self, inner: Answerer, price: Price | None, clock: Clock | None = None) -> None:
        self._inner = inner
        self._price = price
        self._clock = clock or SystemClock()

    async def complete(self, request: Request, call: Call) -> Completion:
        start = self._clock.now()
        return self._measured(await self._inner.complete(request, call), call, start)

    async def stream(self, request: Request, call: Call) -> Events:
        start = self._clock.now()
        async with aclosing(self._inner.stream(request, call)) as events:
            async for event in events:
                if isinstance(event, Done):
                    event = Done(self._measured(event.completion, call, start))
                yield event

    def _measured(self, completion: Completion, call: Call, start: float) -> Completion:
        stage = Stage(
            role=call.role,
            model=completion.model,
            usage=completion.usage,
            seconds=self._clock.now() - start,
            nano_usd=None if self._price is None else self._price.cost(completion.usage),
        )
        return replace(completion, stages=(*completion.stages, stage))
