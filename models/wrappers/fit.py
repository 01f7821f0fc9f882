"""Keeps a request within what its model can do."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace

from models.answerer import Answerer, Events
from models.call import Call
from models.catalog import ModelSpec
from models.errors import Unsupported
from models.messages import Completion, Image, Request


class Fit:
    """Clamps the answer's length to the model's limit, and refuses what the model cannot do.

    The limit is sent also where the caller named none: an answer has a bound, and so has its
    cost. A clamped answer that breaks off says so by its finish reason.
    """

    def __init__(self, inner: Answerer, name: str, spec: ModelSpec) -> None:
        self._inner = inner
        self._name = name
        self._spec = spec

    async def complete(self, request: Request, call: Call) -> Completion:
        return await self._inner.complete(self._fitted(request), call)

    async def stream(self, request: Request, call: Call) -> Events:
        async with aclosing(self._inner.stream(self._fitted(request), call)) as events:
            async for event in events:
                yield event

    def _fitted(self, request: Request) -> Request:
        spec = self._spec
        if request.tools and not spec.tools:
            raise Unsupported(
                f"Model '{self._name}' cannot call tools: its catalog entry has no 'tools: true'.",
                param="tools",
            )
        parts = (part for message in request.messages for part in message.content)
        if not spec.images and any(isinstance(part, Image) for part in parts):
            raise Unsupported(
                f"Model '{self._name}' cannot read images: its catalog entry has no "
                "'images: true'.",
                param="messages",
            )
        asked = request.sampling.max_tokens
        limit = spec.max_output if asked is None else min(asked, spec.max_output)
        return replace(request, sampling=replace(request.sampling, max_tokens=limit))
