"""What happens to an HTTP request at the door, whatever server carries it."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from models.answerer import Answerer, Clock, Events
from models.call import Call, new_id
from models.catalog import Catalog, Server
from models.errors import Cancelled, FusionError, TooLarge
from models.messages import Completion, Done, Event, TextDelta, ToolCallDelta
from serve.gateway import chat, errors
from serve.gateway.metrics import Recorder

#: Seconds of silence after which a stream says that it lives.
HEARTBEAT_S = 10.0
_HEARTBEAT = b": still working\n\n"


@dataclass(slots=True)
class Door:
    """The routes' work. `healthz` and `metrics` say what the cluster says."""

    catalog: Catalog
    pipeline: Answerer
    recorder: Recorder
    clock: Clock
    healthz: Callable[[], Awaitable[tuple[int, dict[str, Any]]]]
    metrics: Callable[[], Awaitable[str]]

    async def chat_completions(self, http: HttpRequest) -> Response:
        """POST /v1/chat/completions"""
        visit = _Visit(self.clock.now())
        try:
            asked = chat.parse(await _body(http, self.catalog.server))
            visit.model = asked.request.model
            visit.call = self._call(http, asked, visit.start)
            if asked.stream:
                return await self._streamed(asked, visit)
            work = self.pipeline.complete(asked.request, visit.call)
            answer = await _unless_gone(http, work)
        except FusionError as error:
            return self._failed(error, visit)
        except asyncio.CancelledError:
            # Serve cancels a request whose client hung up.
            self._served(visit, Cancelled.status)
            raise
        self.recorder.answered(answer)
        self._served(visit, 200)
        return _json(chat.completion(answer, asked, f"chatcmpl-{visit.call.id}"))

    async def list_models(self) -> Response:
        """GET /v1/models"""
        listed = [self._card(name, target.kind) for name, target in self.catalog.names()]
        return _json({"object": "list", "data": listed})

    async def show_model(self, name: str) -> Response:
        """GET /v1/models/{name}"""
        for known, target in self.catalog.names():
            if known == name:
                return _json(self._card(name, target.kind))
        return not_found(f"No model is called '{name}'. GET /v1/models lists them.")

    async def health(self) -> Response:
        """GET /healthz"""
        status, parts = await self.healthz()
        return _json(parts, status=status)

    async def show_metrics(self) -> Response:
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
        limit = asked.extension.deadline_s or self.catalog.server.request_timeout_s
        # Serve gives every request an id, logs it and returns it as x-request-id. Ours is the
        # same, so that a client's report leads to the right lines.
        given = http.headers.get("x-request-id", "")
        identity = given if re.fullmatch(r"[\w-]{8,64}", given) else new_id("req")
        return Call(id=identity, deadline=now + limit, metadata=asked.metadata)

    async def _streamed(self, asked: chat.ChatRequest, visit: _Visit) -> Response:
        chunks = chat.Chunks(asked, asked.request.model, f"chatcmpl-{visit.call.id}")
        feed = _Feed(self.pipeline.stream(asked.request, visit.call))
        try:
            # A failure before anything was said can still be an HTTP status of its own.
            first = await self._first_visible(feed, chunks)
        except BaseException:
            await feed.close()
            raise
        return StreamingResponse(
            self._sse(feed, chunks, first, visit),
            media_type="text/event-stream",
            headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
        )

    async def _first_visible(self, feed: _Feed, chunks: chat.Chunks) -> Event | None:
        """The first event that the client would see, or None if none comes for a heartbeat."""
        until = time.monotonic() + HEARTBEAT_S
        while (left := until - time.monotonic()) > 0:
            event = await feed.next(left)
            if event is None or any(True for _ in chunks.of(event)):
                return event
        return None

    async def _sse(
        self, feed: _Feed, chunks: chat.Chunks, first: Event | None, visit: _Visit
    ) -> AsyncGenerator[bytes, None]:
        status = Cancelled.status  # unless something says better, the client went away
        try:
            yield _event(chunks.start())
            event = first
            while True:
                if event is None:
                    yield _HEARTBEAT
                else:
                    if isinstance(event, TextDelta | ToolCallDelta):
                        self._note_first_token(visit)
                    for chunk in chunks.of(event):
                        yield _event(chunk)
                    if isinstance(event, Done):
                        self.recorder.answered(event.completion)
                        yield b"data: [DONE]\n\n"
                        status = 200
                        return
                event = await feed.next(HEARTBEAT_S)
        except FusionError as error:
            # The status line is out; an error event is all that can still be said.
            status = error.status
            yield _event(errors.body(error))
        finally:
            await feed.close()
            self._served(visit, status)

    def _note_first_token(self, visit: _Visit) -> None:
        if not visit.first_token_seen:
            visit.first_token_seen = True
            self.recorder.first_token(self._label(visit), self.clock.now() - visit.start)

    def _failed(self, error: FusionError, visit: _Visit) -> Response:
        self._served(visit, error.status)
        return _json(errors.body(error), status=error.status, headers=errors.headers(error))

    def _served(self, visit: _Visit, status: int) -> None:
        self.recorder.served(self._label(visit), status, self.clock.now() - visit.start)

    def _label(self, visit: _Visit) -> str:
        # A name that nobody defined must not become a time series of its own.
        return visit.model if self.catalog.resolve(visit.model) else "unknown"


@dataclass(slots=True)
class _Visit:
    """One HTTP request's own facts, for its metrics."""

    start: float
    model: str = ""
    call: Call = field(default_factory=Call)
    first_token_seen: bool = False


class _Feed:
    """Reads a stream of events in one task, so that its reader can wait with a time limit."""

    def __init__(self, events: Events) -> None:
        # Bounded: an engine must not run ahead of a client that reads slowly for ever.
        self._queue: asyncio.Queue[Event | FusionError] = asyncio.Queue(64)
        self._task = asyncio.create_task(self._pump(events))

    async def _pump(self, events: Events) -> None:
        try:
            async for event in events:
                await self._queue.put(event)
        except FusionError as error:
            await self._queue.put(error)
        except Exception as error:  # a bug of ours: the client must not hang on it
            await self._queue.put(FusionError(f"Internal error: {type(error).__name__}."))
            raise
        finally:
            await events.aclose()

    async def next(self, timeout_s: float) -> Event | None:
        """The next event, or None when none came in time. Raises what the stream raised."""
        if self._queue.empty():
            try:
                async with asyncio.timeout(timeout_s):
                    item = await self._queue.get()
            except TimeoutError:
                return None
        else:
            item = self._queue.get_nowait()
        if isinstance(item, FusionError):
            raise item
        return item

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


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


def not_found(message: str) -> Response:
    body = {"message": message, "type": "invalid_request_error", "param": None, "code": "not_found"}
    return _json({"error": body}, status=404)


def _json(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse(body, status_code=status, headers=headers)


def _event(body: dict[str, Any]) -> bytes:
    return (
        b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
    )
