"""The whole HTTP face as one ASGI application. Ray only carries it; any server can."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from models.errors import BadRequest, FusionError, NotFound
from serve.access.caller import Caller
from serve.dialects import errors, messages
from serve.dialects.dialect import to_json
from serve.dialects.paths import spoken_at

#: Tells who asks, by the headers of the request; raises Unauthorized or StoreUnavailable.
Guard = Callable[[HTTPConnection], Awaitable[Caller]]
#: Paths that answer without a key: they say whether the server lives, to whoever balances load.
OPEN_PATHS = frozenset(("/healthz",))


class Room(Protocol):
    """One group of routes. Its handlers may raise any of our errors."""

    def routes(self) -> list[BaseRoute]: ...


def site(rooms: Iterable[Room], guard: Guard) -> ASGIApp:
    """All rooms behind one guard. Raises ValueError where two have one address."""
    routes = [route for room in rooms for route in room.routes()]
    places = Counter(
        (route.path, method)
        for route in routes
        if isinstance(route, Route)
        for method in route.methods or ()
    )
    # The first would answer and the second never.
    if twice := [place for place, count in places.items() if count > 1]:
        raise ValueError(f"two rooms have one address: {twice}")
    inner = Starlette(
        routes=routes,
        exception_handlers={
            FusionError: _told,
            HTTPException: _wrong_address,
            Exception: _bug,
        },
    )
    return _Guarded(inner, guard)


class _Guarded:
    def __init__(self, inner: ASGIApp, guard: Guard) -> None:
        self._inner = inner
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            request = HTTPConnection(scope)
            send = _naming(request, send)
            try:
                scope.setdefault("state", {})["caller"] = await self._guard(request)
            except FusionError as error:
                await respond(error, scope["path"])(scope, receive, send)
                return
        await self._inner(scope, receive, send)


def _naming(request: HTTPConnection, send: Send) -> Send:
    """Tells the request's id under the name, too, where Anthropic's client looks for it. Serve
    gives every request one, and tells it as x-request-id."""
    identity = request.headers.get("x-request-id")
    if identity is None or spoken_at(request.scope["path"]) is not messages:
        return send

    async def named(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message)["request-id"] = identity
        await send(message)

    return named


def respond(error: FusionError, path: str) -> Response:
    """This error as the dialect of this path says it."""
    body = to_json(spoken_at(path).error(error))
    headers = {"content-type": "application/json", **errors.headers(error)}
    return Response(body, error.status, headers)


async def _told(request: Request, error: Exception) -> Response:
    assert isinstance(error, FusionError)
    return respond(error, request.url.path)


async def _wrong_address(request: Request, error: Exception) -> Response:
    """Wrong paths and methods."""
    assert isinstance(error, HTTPException)
    made = NotFound if error.status_code == 404 else BadRequest
    response = respond(made(str(error.detail)), request.url.path)
    response.status_code = error.status_code
    response.headers.update(error.headers or {})  # a wrong method is told the right ones
    return response


async def _bug(request: Request, error: Exception) -> Response:
    """A bug of ours. Its text may hold anything, so only its kind is told; the log has all."""
    bug = FusionError(f"Internal error: {type(error).__name__}.")
    return respond(bug, request.url.path)
