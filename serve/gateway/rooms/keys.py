"""API keys over HTTP, for keys with the scope `admin`."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from models.answerer import Clock
from models.errors import BadRequest
from serve.access import keys
from serve.access.book import KeyBook
from serve.access.caller import caller
from serve.gateway import body

#: A hundred years.
_LONGEST_S = 3.2e9


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("every character must be printable")
    return text


Label = Annotated[str, Field(max_length=200), AfterValidator(_printable)]


class NewKey(body.Body):
    project: Annotated[Label, Field(min_length=1)] = "default"
    name: Label = ""
    scopes: tuple[str, ...] | list[str] = ("use",)
    models: list[str] | None = None
    #: Seconds from now; null never.
    expires_in_s: float | None = Field(None, le=_LONGEST_S)


class Rotation(body.Body):
    #: How long the old key goes on.
    grace_s: float = Field(0.0, le=_LONGEST_S)


class KeysRoom:
    def __init__(self, book: KeyBook, clock: Clock) -> None:
        self._book = book
        self._clock = clock

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/v1/keys", self.list, methods=["GET"]),
            Route("/v1/keys", self.create, methods=["POST"]),
            Route("/v1/keys/{id}", self.revoke, methods=["DELETE"]),
            Route("/v1/keys/{id}/rotate", self.rotate, methods=["POST"]),
        ]

    async def list(self, request: Request) -> Response:
        caller(request).require("admin")
        now = self._clock.now()
        return JSONResponse(
            {"object": "list", "data": [key.shown(now) for key in await self._book.list()]}
        )

    async def create(self, request: Request) -> Response:
        caller(request).require("admin")
        asked = await body.parse(request, NewKey)
        if asked.expires_in_s is not None and asked.expires_in_s <= 0:
            raise BadRequest("'expires_in_s' is above 0.", param="expires_in_s")
        now = self._clock.now()
        key, text = await self._book.create(
            project=asked.project,
            name=asked.name,
            scopes=keys.scopes(asked.scopes),
            models=None if asked.models is None else tuple(asked.models),
            expires_at=None if asked.expires_in_s is None else now + asked.expires_in_s,
        )
        return JSONResponse({**key.shown(now), "key": text}, 201)

    async def revoke(self, request: Request) -> Response:
        caller(request).require("admin")
        await self._book.revoke(_id(request))
        return Response(status_code=204)

    async def rotate(self, request: Request) -> Response:
        caller(request).require("admin")
        asked = await body.parse(request, Rotation)
        if asked.grace_s < 0:
            raise BadRequest("'grace_s' is not below 0.", param="grace_s")
        key, text = await self._book.rotate(_id(request), asked.grace_s)
        return JSONResponse({**key.shown(self._clock.now()), "key": text}, 201)


def _id(request: Request) -> str:
    named: str = request.path_params["id"]
    if not named.isprintable():  # not every store can be asked for it
        raise BadRequest("A key's id has printable characters only.", param="id")
    return named
