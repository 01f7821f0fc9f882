"""What happens at the door to a request for an answer, whatever dialect it speaks."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from models.answerer import Clock
from models.call import Call, new_id
from models.catalog import Server, asked_names
from models.errors import (
    BadRequest,
    Cancelled,
    DeadlineExceeded,
    FusionError,
    Overloaded,
    StoreUnavailable,
    Unsupported,
)
from models.messages import (
    Completion,
    Done,
    ReasoningDelta,
    Request,
    TextDelta,
    ToolCallDelta,
)
from serve.access.caller import Caller, caller
from serve.control.headers import told
from serve.dialects.dialect import Asked, Dialect, Encoder, to_json
from serve.dialects.paths import DIALECTS
from serve.editions.edition import Current, Edition
from serve.gateway import body, knob
from serve.gateway.memory import Memory
from serve.gateway.metrics import Recorder
from serve.gateway.streams import EventStream, Feed
from serve.gateway.watch import Watch
from serve.money.headers import headers as cost_headers

log = logging.getLogger(__name__)

#: Seconds of silence after which a stream says that it lives.
HEARTBEAT_S = 10.0
#: What a client is told to wait when this gateway is full.
RETRY_AFTER_S = 1.0
#: How deep in fusions the caller is: a fusion server may be the upstream of another.
DEPTH_HEADER = "x-openrouter-fusion-depth"


@dataclass(slots=True)
class Door:
    """The routes where models answer."""

    editions: Current
    recorder: Recorder
    clock: Clock
    watch: Watch
    #: Who keeps answers that a request may go on from.
    memory: Memory | None = None
    #: Requests at work in this gateway now.
    open: int = 0

    def routes(self) -> list[BaseRoute]:
        return [
            Route(path, partial(self.answer, dialect), methods=["POST"])
            for path, dialect in DIALECTS.items()
        ]

    async def answer(self, dialect: Dialect, http: HttpRequest) -> Response:
        """POST to a path where this dialect is spoken. Raises FusionError."""
        visit = _Visit(self.clock.now(), self.editions.current, caller(http))
        self.open += 1
        streaming = False
        try:
            self._admit(visit.server)
            asked = dialect.parse(await read_body(http, visit.server))
            asked = knob.turned(asked, http.headers)
            visit.model = asked.request.model
            visit.caller.may_ask(asked_names(asked.request))
            visit.call = _call(http, asked, visit)
            asked = await self._remembering(asked, visit)
            if asked.stream:
                response = await self._streamed(dialect, asked, visit)
                streaming = True
                return response
            answer = await self._whole(http, asked, visit)
            asked = await self._answered(answer, asked, visit)
            told = to_json(dialect.whole(answer, asked, visit.call.id))
            visit.status = 200
            costs = cost_headers(answer.stages)
            return Response(told, media_type="application/json", headers=costs)
        except FusionError as error:
            visit.status = error.status
            raise
        except asyncio.CancelledError:
            # Serve cancels a request whose client hung up.
            visit.status = Cancelled.status
            raise
        finally:
            if not streaming:
                self._served(visit)

    def _admit(self, server: Server) -> None:
        if self.open > server.max_concurrent:
            raise Overloaded(
                f"This gateway works on {server.max_concurrent} requests already "
                "(server.max_concurrent).",
                retry_after_s=RETRY_AFTER_S,
            )

    async def _remembering(self, asked: Asked, visit: _Visit) -> Asked:
        """The same with the conversation before it, and not stored where nothing is kept."""
        if asked.previous is not None and visit.call.session is not None:
            raise BadRequest(
                "Give 'previous_response_id' or a session, not both: each brings the whole "
                "conversation.",
                param="previous_response_id",
            )
        if self.memory is None or not visit.server.response_days:
            if asked.previous is not None:
                raise Unsupported(
                    "This server keeps no answers: send the whole conversation as 'input'.",
                    param="previous_response_id",
                )
            return replace(asked, store=False)
        if asked.previous is None:
            return asked
        before = await self.memory.recall(asked.previous, visit.caller)
        own, said = asked.own_and_said
        return replace(
            asked,
            request=replace(asked.request, messages=(*own, *before, *said)),
        )

    async def _whole(self, http: HttpRequest, asked: Asked, visit: _Visit) -> Completion:
        try:
            async with asyncio.timeout(visit.call.remaining_s(self.clock.now())):
                work = visit.edition.pipeline.complete(asked.request, visit.call)
                return await _unless_gone(http, work)
        except TimeoutError:
            raise DeadlineExceeded("The deadline of this request has passed.") from None

    async def _streamed(self, dialect: Dialect, asked: Asked, visit: _Visit) -> Response:
        encoder = dialect.encoder(asked, _model_of(asked.request, visit), visit.call.id)
        events = visit.edition.pipeline.stream(asked.request, visit.call)
        feed = Feed(events, visit.call.remaining_s(self.clock.now()))
        pieces = self._pieces(feed, encoder, asked, visit)
        head = encoder.start()
        try:
            # A failure before anything was said can still be an HTTP status of its own.
            head += await anext(pieces)
        except BaseException:
            await feed.close()
            raise
        visit.status = Cancelled.status  # unless something says better, the client went away
        self.watch.add(feed, visit.caller)

        async def ended() -> None:
            self.watch.drop(feed, visit.caller)
            await pieces.aclose()
            await feed.close()
            self._served(visit)

        return EventStream(self._body(head, pieces, encoder, visit), ended)

    async def _pieces(
        self, feed: Feed, encoder: Encoder, asked: Asked, visit: _Visit
    ) -> AsyncGenerator[bytes, None]:
        """What the client sees of each event, and a heartbeat in every silence."""
        until = time.monotonic() + HEARTBEAT_S
        while True:
            event = await feed.next(max(0.0, until - time.monotonic()))
            if isinstance(event, Done):
                encoder.asked = await self._answered(event.completion, asked, visit)
            elif isinstance(event, TextDelta | ReasoningDelta | ToolCallDelta):
                self._note_first_token(visit)
            piece = b"" if event is None else encoder.of(event)
            if not piece and time.monotonic() >= until:
                piece = encoder.heartbeat
            if piece:
                yield piece
                until = time.monotonic() + HEARTBEAT_S
            if isinstance(event, Done):
                return

    async def _body(
        self, head: bytes, pieces: AsyncGenerator[bytes, None], encoder: Encoder, visit: _Visit
    ) -> AsyncGenerator[bytes, None]:
        try:
            yield head
            async for piece in pieces:
                yield piece
            visit.status = 200
        except FusionError as error:
            # The status line is out; an error event is all that can still be said.
            visit.status = error.status
            yield encoder.failed(error)
        except Exception as error:  # a bug of ours: the client must not take it for the end
            log.exception("a stream could not be written")
            visit.status = FusionError.status
            yield encoder.failed(FusionError(f"Internal error: {type(error).__name__}."))

    async def _answered(self, answer: Completion, asked: Asked, visit: _Visit) -> Asked:
        """The same, and not stored where the store did not take it: the answer is paid for."""
        self.recorder.answered(answer)
        if self.memory is not None and asked.store:
            _, said = asked.own_and_said
            try:
                await self.memory.keep(visit.call.id, said, answer, visit.caller)
            except StoreUnavailable as error:
                log.warning("an answer is not kept to go on from: %s", error.message)
                return replace(asked, store=False)
        return asked

    def _note_first_token(self, visit: _Visit) -> None:
        if not visit.first_token_seen:
            visit.first_token_seen = True
            self.recorder.first_token(visit.label, self.clock.now() - visit.start)

    def _served(self, visit: _Visit) -> None:
        self.open -= 1
        self.recorder.served(visit.label, visit.status, self.clock.now() - visit.start)


@dataclass(slots=True)
class _Visit:
    """One HTTP request's own facts. What it began with, it ends with."""

    start: float
    edition: Edition
    caller: Caller
    model: str = ""
    call: Call = field(default_factory=Call)
    #: What it ended with; 500 as long as nothing better is known.
    status: int = 500
    first_token_seen: bool = False

    @property
    def server(self) -> Server:
        return self.edition.catalog.server

    @property
    def label(self) -> str:
        # A name that nobody defined must not become a time series of its own.
        return self.model if self.edition.catalog.resolve(self.model) else "unknown"


def _call(http: HttpRequest, asked: Asked, visit: _Visit) -> Call:
    limit = asked.extension.deadline_s or visit.server.request_timeout_s
    # Serve gives every request an id, logs it and returns it as x-request-id. Ours begins with it,
    # so that a client's report leads to the right lines; it ends with something of its own,
    # because a client may name two requests alike.
    given = http.headers.get("x-request-id", "")
    named = re.fullmatch(r"[\w-]{8,48}", given) is not None
    identity = f"{given}-{secrets.token_hex(6)}" if named else new_id("req")
    depth = http.headers.get(DEPTH_HEADER, "0")
    if not re.fullmatch(r"[0-9]{1,3}", depth):
        raise BadRequest(f"'{DEPTH_HEADER}' must be a small number.", param=DEPTH_HEADER)
    said = {**asked.extension.call, **told(http.headers)}
    return Call(
        id=identity,
        project=visit.caller.project,
        key=visit.caller.key,
        # Whoever waits for a person waits beside, and not within, the time for the answer.
        deadline=visit.start + limit + said.get("waits_s", 0.0),
        cost_cap_nano_usd=asked.extension.cost_cap_nano_usd,
        fusion_depth=int(depth),
        metadata=asked.metadata,
        **said,
    )


def _model_of(request: Request, visit: _Visit) -> str:
    """The concrete model that will answer, as far as it is known before it does."""
    catalog, options = visit.edition.catalog, request.fusion
    target = catalog.resolve(request.model)
    if target is None or target.kind != "panel":
        return request.model if target is None else target.name
    if options is None or not options.enabled:
        return catalog.writer_of(target.name)
    judge = None if options.judge is None else catalog.resolve(options.judge)
    if judge is not None:
        return judge.name
    panel = options.preset if options.preset in catalog.panels else target.name
    return catalog.writer_of(panel)


async def read_body(http: HttpRequest, server: Server) -> bytes:
    """The whole body. Raises TooLarge, DeadlineExceeded, and Cancelled when the client goes
    away."""
    most, mend = int(server.max_body_mb * 1_000_000), " (server.max_body_mb in the catalog)"
    return await body.read(http, most, mend, server.request_timeout_s)


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
