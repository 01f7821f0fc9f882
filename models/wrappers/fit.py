"""Keeps a request within what its model can do."""

from __future__ import annotations

from contextlib import aclosing

from models.answerer import Answerer, Events
from models.call import Call
from models.errors import Unsupported
from models.messages import Completion, Image, Request
from models.spec import ModelSpec
from models.values import changed


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
        refuse_unfit(request, self._name, spec)
        asked = request.sampling.max_tokens
        limit = spec.max_output if asked is None else min(asked, spec.max_output)
        return changed(request, sampling=changed(request.sampling, max_tokens=limit))


def needs_images(request: Request) -> bool:
    return any(isinstance(part, Image) for message in request.messages for part in message.content)


def refuse_unfit(request: Request, name: str, spec: ModelSpec) -> None:
    """Raise Unsupported if the model cannot do what the request asks for."""
    for param, needed, able in (
        ("tools", bool(request.tools), spec.tools),
        ("images", needs_images(request), spec.images),
    ):
        if needed and not able:
            raise Unsupported(
                f"Model '{name}' does not take {param}: its catalog entry has no '{param}: true'.",
                param="tools" if param == "tools" else "messages",
            )
