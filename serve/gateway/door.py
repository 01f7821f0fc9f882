"""What happens to an HTTP request at the door, whatever server carries it."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from models.answerer import Answerer, Clock
from models.call import Call, new_id
from models.catalog import Catalog, Server
from models.errors import (
    Cancelled,
    DeadlineExceeded,
    FusionError,
    NotFound,
    Overloaded,
    TooLarge,
    Unauthorized,
)
from models.messages import (
    Completion,
    Done,
    Event,
    ReasoningDelta,
    Request,
    TextDelta,
    ToolCallDelta,
)
from serve.access.caller import Caller, caller
from serve.editions.edition import Current
from serve.gateway import chat, errors
from serve.gateway.metrics import Recorder
from serve.gateway.streams import EventStream, Feed

#: Seconds of silence after which a stream says that it lives.
HEARTBEAT_S = 10.0
#: What a client is told to wait when this gateway is full.
RETRY_AFTER_S = 1.0
#: How deep in fusions the caller is: a fusion server may be the upstream of another.
DEPTH_HEADER = "x-openrouter-fusion-depth"
#: How often an open stream asks whether its caller would still be let in.
STILL_S = 1.0
_HEARTBEAT = b": still working\n\n"


@dataclass(slots=True)
class Door:
    """The routes' work. `healthz` and `metrics` say what the cluster says."""

    editions: Current
    recorder: Recorder
    clock: Clock
    healthz: Callable[[], Awaitable[tuple[int, dict[str, Any]]]]
    metrics: Callable[[], Awaitable[str]]
    #: Whether a caller would still be let in.
    still: Callable[[Caller], Awaitable[bool]]
    #: Requests at work in this gateway now.
    open: int = 0

    @property
    def catalog(self) -> Catalog:
        return self.editions.current.catalog

    @property
    def pipeline(self) -> Answerer:
        return self.editions.current.pipeline

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/v1/chat/completions", self.chat_completions, methods=["POST"]),
            Route("/v1/models", self.list_models),
            Route("/v1/models/{name:path}", self.show_model),
            Route("/healthz", self.health),
            Route("/metrics", self.show_metrics),
        ]

    async def chat_completions(self, http: HttpRequest) -> Response:
        """POST /v1/chat/completions"""
        visit = _Visit(self.clock.now())
        self.open += 1
        streaming = False
        try:
            self._admit()
            asked = chat.parse(await _body(http, self.catalog.server))
            visit.model = asked.request.model
            visit.caller = caller(http)
            visit.call = self._call(http, asked, visit.start)
            if asked.stream:
                response = await self._streamed(asked, visit)
                streaming = True
                return response
            answer = await self._whole(http, asked, visit)
            visit.status = 200
            self.recorder.answered(answer)
            return _json(chat.completion(answer, asked, f"chatcmpl-{visit.call.id}"))
        except FusionError as error:
            visit.status = error.status
            return _json(errors.body(error), status=error.status, headers=errors.headers(error))
        except asyncio.CancelledError:
            # Serve cancels a request whose client hung up.
            visit.status = Cancelled.status
            raise
        finally:
            if not streaming:
                self._served(visit)

    def _admit(self) -> None:
        limit = self.catalog.server.max_concurrent
        if self.open > limit:
            raise Overloaded(
                f"This gateway works on {limit} requests already (server.max_concurrent).",
                retry_after_s=RETRY_AFTER_S,
            )

    async def _whole(self, http: HttpRequest, asked: chat.ChatRequest, visit: _Visit) -> Completion:
        try:
            async with asyncio.timeout(visit.call.remaining_s(self.clock.now())):
                return await _unless_gone(http, self.pipeline.complete(asked.request, visit.call))
        except TimeoutError:
            raise DeadlineExceeded("The deadline of this request has passed.") from None

    async def list_models(self, _: HttpRequest) -> Response:
        """GET /v1/models"""
        listed = [self._card(name, target.kind) for name, target in self.catalog.names()]
        return _json({"object": "list", "data": listed})

    async def show_model(self, http: HttpRequest) -> Response:
        """GET /v1/models/{name}"""
        name = http.path_params["name"]
        for known, target in self.catalog.names():
            if known == name:
                return _json(self._card(name, target.kind))
        raise NotFound(f"No model is called '{name}'. GET /v1/models lists them.", param="model")

    async def health(self, _: HttpRequest) -> Response:
        """GET /healthz"""
        status, parts = await self.healthz()
        return _json(parts, status=status)

    async def show_metrics(self, _: HttpRequest) -> Response:
        """GET /metrics"""
        return PlainTextResponse(await self.metrics(), media_type="text/plain; version=0.0.4")

    def _card(self, name: str, kind: str) -> dict[str, Any]:
        card = {"id": name, "object": "model", "created": 0, "owned_by": "fusion", "kind": kind}
        target = self.catalog.resolve(name)
        if target is not None and target.kind == "model":
            spec = self.catalog.models[target.name]
            card |= {
                "kind": "model" if target.name == name else "alias",
                "model": target.name,
                "tier": spec.tier,
                "context": spec.context,
                "max_output": spec.max_output,
            }
        elif target is not None and name in self.catalog.aliases:
            card |= {"kind": "alias", "model": self.catalog.aliases[name]}
        return card

    def _call(self, http: HttpRequest, asked: chat.ChatRequest, now: float) -> Call:
        who = caller(http)
        who.may_ask(_names(asked.request))
        limit = asked.extension.deadline_s or self.catalog.server.request_timeout_s
        # Serve gives every request an id, logs it and returns it as x-request-id. Ours is the
        # same, so that a client's report leads to the right lines.
        given = http.headers.get("x-request-id", "")
        identity = given if re.fullmatch(r"[\w-]{8,64}", given) else new_id("req")
        depth = http.headers.get(DEPTH_HEADER, "")
        return Call(
            id=identity,
            project=who.project,
            key=who.key,
            deadline=now + limit,
            fusion_depth=int(depth) if depth.isdecimal() else 0,
            metadata=asked.metadata,
        )

    async def _streamed(self, asked: chat.ChatRequest, visit: _Visit) -> Response:
        chunks = chat.Chunks(asked, self._model_of(asked), f"chatcmpl-{visit.call.id}")
        left = visit.call.remaining_s(self.clock.now())
        feed = Feed(self.pipeline.stream(asked.request, visit.call), left)
        try:
            # A failure before anything was said can still be an HTTP status of its own.
            first = await self._first_visible(feed, chunks)
        except BaseException:
            await feed.close()
            raise

        async def ended() -> None:
            await feed.close()
            self._served(visit)

        return EventStream(self._sse(feed, chunks, first, visit), ended)

    def _model_of(self, asked: chat.ChatRequest) -> str:
        """The concrete model that will answer, as far as it is known before it does."""
        target = self.catalog.resolve(asked.request.model)
        if target is not None and target.kind == "panel":
            return self.catalog.writer_of(target.name)
        return asked.request.model if target is None else target.name

    async def _first_visible(self, feed: Feed, chunks: chat.Chunks) -> Event | None:
        """The first event that the client would see, or None if none comes for a heartbeat."""
        until = time.monotonic() + HEARTBEAT_S
        while (left := until - time.monotonic()) > 0:
            event = await feed.next(left)
            if event is None or any(True for _ in chunks.of(event)):
                return event
        return None

    async def _sse(
        self, feed: Feed, chunks: chat.Chunks, first: Event | None, visit: _Visit
    ) -> AsyncGenerator[bytes, None]:
        visit.status = Cancelled.status  # unless something says better, the client went away
        try:
            yield _event(chunks.start())
            said_at, event = time.monotonic(), first
            asked_at = said_at
            while True:
                if time.monotonic() - asked_at >= STILL_S:
                    asked_at = time.monotonic()
                    if not await self.still(visit.caller):
                        raise Unauthorized("The API key of this stream is not good any more.")
                pieces = [] if event is None else [_event(chunk) for chunk in chunks.of(event)]
                if not pieces and time.monotonic() - said_at >= HEARTBEAT_S:
                    pieces = [_HEARTBEAT]
                if isinstance(event, TextDelta | ReasoningDelta | ToolCallDelta):
                    self._note_first_token(visit)
                if isinstance(event, Done):
                    self.recorder.answered(event.completion)
                    visit.status = 200
                    pieces.append(b"data: [DONE]\n\n")
                for piece in pieces:
                    yield piece
                if isinstance(event, Done):
                    return
                if pieces:
                    said_at = time.monotonic()
                wake_at = min(said_at + HEARTBEAT_S, asked_at + STILL_S)
                event = await feed.next(max(0.0, wake_at - time.monotonic()))
        except FusionError as error:
            # The status line is out; an error event is all that can still be said.
            visit.status = error.status
            yield _event(errors.body(error))

    def _note_first_token(self, visit: _Visit) -> None:
        if not visit.first_token_seen:
            visit.first_token_seen = True
            self.recorder.first_token(self._label(visit), self.clock.now() - visit.start)

    def _served(self, visit: _Visit) -> None:
        self.open -= 1
        seconds = self.clock.now() - visit.start
        self.recorder.served(self._label(visit), visit.status, seconds)

    def _label(self, visit: _Visit) -> str:
        # A name that nobody defined must not become a time series of its own.
        return visit.model if self.catalog.resolve(visit.model) else "unknown"


@dataclass(slots=True)
class _Visit:
    """One HTTP request's own facts, for its metrics."""

    start: float
    model: str = ""
    caller: Caller = field(default_factory=Caller)
    call: Call = field(default_factory=Call)
    #: What it ended with; 500 as long as nothing better is known.
    status: int = 500
    first_token_seen: bool = False


def _names(request: Request) -> Iterator[str]:
    """Every name of the catalog that this request says."""
    yield request.model
    if request.fusion is not None:
        yield from request.fusion.analysis_models
        if request.fusion.judge is not None:
            yield request.fusion.judge


async def _body(http: HttpRequest, server: Server) -> bytes:
    limit = int(server.max_body_mb * 1_000_000)
    read = bytearray()
    try:
        async for piece in http.stream():
            read += piece
            if len(read) > limit:
                raise TooLarge(
                    f"The body is larger than {server.max_body_mb:g} MB "
                    "(server.max_body_mb in the catalog)."
                )
    except ClientDisconnect:
        raise Cancelled("The client went away.") from None
    return bytes(read)


async def _unless_gone(http: HttpRequest, work: Any) -> Completion:
    """The result of `work`, which is cancelled when the client hangs up."""
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(http))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Cancelled("The client went away.")
        result: Completion = working.result()
        return result
    finally:
        working.cancel()
        gone.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


async def _disconnected(http: HttpRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


def _json(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse(body, status_code=status, headers=headers)


def _event(body: dict[str, Any]) -> bytes:
    return (
        b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
    )
