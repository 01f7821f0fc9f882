"""How many tokens a request would be, before it is asked: `POST /v1/messages/count_tokens`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from models.catalog import Catalog
from models.errors import DeadlineExceeded, ModelNotFound, Overloaded, Unavailable
from models.messages import Request
from serve.access.caller import caller
from serve.dialects.messages.request import countable
from serve.editions.edition import Current
from serve.gateway.door import read_body
from serve.money import bound

#: Counts with the model's own tokenizer; None where it has none here.
Count = Callable[[Catalog, Request], Awaitable[int | None]]


@dataclass(frozen=True, slots=True)
class TokenCount:
    editions: Current
    count: Count

    def routes(self) -> list[BaseRoute]:
        return [Route("/v1/messages/count_tokens", self.tokens, methods=["POST"])]

    async def tokens(self, http: HttpRequest) -> Response:
        """A hosted model counts with its own tokenizer. For all others the answer is a bound: no
        tokenizer makes more of this request, and most make a quarter of it."""
        catalog = self.editions.current.catalog
        request = countable(await read_body(http, catalog.server))
        caller(http).may_ask((request.model,))
        model = _model(catalog, request.model)
        counted = None
        if model is not None:
            # A model that is full or gone says nothing, and the bound holds all the same.
            with suppress(Unavailable, Overloaded, DeadlineExceeded):
                counted = await self.count(catalog, replace(request, model=model))
        if counted is None:
            specs = catalog.models.values() if model is None else (catalog.models[model],)
            counted = bound.input_tokens(request, max(spec.image_tokens for spec in specs))
        return JSONResponse({"input_tokens": counted})


def _model(catalog: Catalog, name: str) -> str | None:
    """The model that would read this: a panel's writer, and nobody yet where it is chosen later."""
    target = catalog.resolve(name)
    if target is None:
        raise ModelNotFound(
            f"No model, alias or panel is called '{name}'. GET /v1/models lists them.",
            param="model",
        )
    if target.kind == "panel":
        return catalog.writer_of(target.name)
    return target.name if target.kind == "model" else None
