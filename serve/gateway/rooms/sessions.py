"""Sessions over HTTP. A session belongs to its project; to another one it is not there."""

from __future__ import annotations

from typing import Any

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from models.errors import BadRequest
from serve.access.caller import Caller, caller
from serve.control.sessions import transcript
from serve.control.sessions.store import New, Sessions
from serve.gateway import body

MOST_PAGE = 1000
#: Bytes of a body that carries items.
MOST_BYTES = 16_000_000
MOST_APPENDED = 10_000


class Created(body.Body):
    name: str = Field("", max_length=200)
    #: Messages in our own form, to begin with.
    items: list[dict[str, Any]] = Field(default_factory=list, max_length=MOST_APPENDED)


class Appended(body.Body):
    items: list[dict[str, Any]] = Field(min_length=1, max_length=MOST_APPENDED)


class Forked(body.Body):
    #: The last item that the new session has; default: all.
    item: str | None = None
    name: str | None = Field(None, max_length=200)


class Changed(body.Body):
    name: str | None = Field(None, max_length=200)
    archived: bool | None = None


class SessionsRoom:
    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def routes(self) -> list[BaseRoute]:
        one = "/v1/sessions/{id}"
        return [
            Route("/v1/sessions", self.list, methods=["GET"]),
            Route("/v1/sessions", self.create, methods=["POST"]),
            Route("/v1/sessions/import", self.import_, methods=["POST"]),
            Route(one, self.show, methods=["GET"]),
            Route(one, self.change, methods=["PATCH"]),
            Route(one, self.delete, methods=["DELETE"]),
            Route(f"{one}/items", self.items, methods=["GET"]),
            Route(f"{one}/items", self.append, methods=["POST"]),
            Route(f"{one}/fork", self.fork, methods=["POST"]),
            Route(f"{one}/export", self.export, methods=["GET"]),
        ]

    async def list(self, request: Request) -> Response:
        asked = request.query_params
        found = await self._sessions.newest(
            _who(request).project,
            archived=asked.get("archived") == "true",
            before=asked.get("before"),
            limit=_number(request, "limit", 20, MOST_PAGE),
        )
        return JSONResponse({"object": "list", "data": found})

    async def create(self, request: Request) -> Response:
        who = _who(request)
        asked = await body.parse(request, Created, MOST_BYTES)
        made = await self._sessions.create(who.project, asked.name, _messages(asked.items))
        return JSONResponse(made, 201)

    async def show(self, request: Request) -> Response:
        return JSONResponse(await self._sessions.read(_id(request), _who(request).project))

    async def items(self, request: Request) -> Response:
        after = _number(request, "after", -1, 10**9)
        limit = _number(request, "limit", 100, MOST_PAGE)
        found = await self._sessions.page(_id(request), _who(request).project, after, limit)
        return JSONResponse({"object": "list", "data": found})

    async def append(self, request: Request) -> Response:
        who = _who(request)
        asked = await body.parse(request, Appended, MOST_BYTES)
        new = _messages(asked.items)
        length = await self._sessions.append(_id(request), who.project, new)
        return JSONResponse({"id": _id(request), "object": "session", "length": length})

    async def fork(self, request: Request) -> Response:
        who = _who(request)
        asked = await body.parse(request, Forked)
        made = await self._sessions.fork(_id(request), who.project, asked.item, asked.name)
        return JSONResponse(made, 201)

    async def change(self, request: Request) -> Response:
        who = _who(request)
        asked = await body.parse(request, Changed)
        changed = await self._sessions.change(
            _id(request), who.project, name=asked.name, archived=asked.archived
        )
        return JSONResponse(changed)

    async def delete(self, request: Request) -> Response:
        await self._sessions.delete(_id(request), _who(request).project)
        return Response(status_code=204)

    async def export(self, request: Request) -> Response:
        identity, project = _id(request), _who(request).project
        await self._sessions.read(identity, project)  # a 404 before the stream begins
        lines = transcript.written(self._sessions, identity, project)
        return StreamingResponse(lines, media_type="application/x-ndjson")

    async def import_(self, request: Request) -> Response:
        who = _who(request)
        name, new = await transcript.read(body.pieces(request, transcript.MOST_BYTES))
        return JSONResponse(await self._sessions.create(who.project, name, new), 201)


def _who(request: Request) -> Caller:
    who = caller(request)
    who.require("use")
    return who


def _id(request: Request) -> str:
    identity: str = request.path_params["id"]
    return identity


def _messages(items: list[dict[str, Any]]) -> list[New]:
    new = []
    for at, item in enumerate(items):
        try:
            new.append(New(transcript.message(item)))
        except ValueError as error:
            raise BadRequest(f"items.{at}: {error}", param=f"items.{at}") from None
    return new


def _number(request: Request, name: str, default: int, most: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) <= 10 and int(text) <= most):
        raise BadRequest(f"'{name}' is a number up to {most}.", param=name)
    return int(text)
