"""Plans over HTTP: make one, watch it, stop it, go on with it."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from decimal import Decimal
from typing import Annotated, Any

from pydantic import Field
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from models import prices
from models.answerer import Clock
from models.call import Call
from models.catalog import PLAN, asked_names
from models.errors import BadRequest, Conflict, FusionError
from models.messages import (
    Completion,
    Done,
    Event,
    PlanOptions,
    Progress,
    Request,
    TextDelta,
    user,
)
from serve.access.caller import caller
from serve.control.headers import told
from serve.dialects import errors
from serve.editions.edition import Current
from serve.gateway import body
from serve.gateway.streams import EventStream, Feed
from serve.plans import graph, reading, templates
from serve.plans.graph import BadGraph
from serve.plans.record import PlanBook, Saved, Status

_HEARTBEAT_S = 10.0

#: As everywhere; the default is the catalog's `request_timeout_s`.
Deadline = Annotated[float, Field(gt=0, le=86_400)]


class Document(body.Body):
    name: str
    text: str


class NewPlan(body.Body):
    """`graph` or `template` in place of a planner; `documents` are read first."""

    task: str
    graph: dict[str, Any] | None = None
    template: str | None = None
    documents: tuple[Document, ...] | list[Document] = ()
    budget_usd: Decimal | float | str | None = None
    deadline_s: Deadline | None = None
    stream: bool = False


class Resumption(body.Body):
    budget_usd: Decimal | float | str | None = None
    deadline_s: Deadline | None = None
    stream: bool = False


class PlansRoom:
    def __init__(self, editions: Current, book: PlanBook, clock: Clock) -> None:
        self._editions = editions
        self._book = book
        self._clock = clock

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/v1/plans", self.create, methods=["POST"]),
            Route("/v1/plans", self.list, methods=["GET"]),
            Route("/v1/plans/{id}", self.show, methods=["GET"]),
            Route("/v1/plans/{id}/cancel", self.cancel, methods=["POST"]),
            Route("/v1/plans/{id}/pause", self.pause, methods=["POST"]),
            Route("/v1/plans/{id}/resume", self.resume, methods=["POST"]),
        ]

    async def create(self, http: HttpRequest) -> Response:
        """POST /v1/plans"""
        caller(http).may_ask([PLAN])
        asked = await body.parse(http, NewPlan, 64_000_000)
        if not asked.task.strip():
            raise BadRequest("'task' is empty.", param="task")
        options = PlanOptions(graph=_graph(asked))
        caller(http).may_ask(asked_names(Request(PLAN, (), plan=options)))
        return await self._run(http, options, asked.task, asked)

    async def list(self, http: HttpRequest) -> Response:
        """GET /v1/plans"""
        found = await self._book.list(caller(http).project)
        return JSONResponse({"object": "list", "data": found})

    async def show(self, http: HttpRequest) -> Response:
        """GET /v1/plans/{id}"""
        return JSONResponse(_shown(await self._find(http)))

    async def cancel(self, http: HttpRequest) -> Response:
        """POST /v1/plans/{id}/cancel. Whichever gateway runs it stops within half a second."""
        return await self._stop(http, "cancelled")

    async def pause(self, http: HttpRequest) -> Response:
        """POST /v1/plans/{id}/pause. What is under way ends and is kept; nothing new begins."""
        return await self._stop(http, "paused")

    async def _stop(self, http: HttpRequest, status: Status) -> Response:
        caller(http).require("use")
        found = await self._find(http)
        await self._book.stop(found.id, status)
        return JSONResponse(_shown(await self._find(http)))

    async def resume(self, http: HttpRequest) -> Response:
        """POST /v1/plans/{id}/resume. Finished subtasks are neither done nor paid for again."""
        caller(http).may_ask([PLAN])
        asked = await body.parse(http, Resumption)
        found = await self._find(http)
        if found.status == "done":
            raise Conflict("This plan is done; GET it.")
        options = PlanOptions(resume=found.id)
        return await self._run(http, options, found.task, asked)

    async def _find(self, http: HttpRequest) -> Saved:
        return await self._book.find(http.path_params["id"], caller(http).project)

    async def _run(
        self, http: HttpRequest, options: PlanOptions, task: str, asked: NewPlan | Resumption
    ) -> Response:
        who = caller(http)
        now = self._clock.now()
        limit = asked.deadline_s or self._editions.current.catalog.server.request_timeout_s
        said = told(http.headers)
        limit += said.get("waits_s", 0.0)
        call = Call(
            project=who.project,
            key=who.key,
            deadline=now + limit,
            cost_cap_nano_usd=_nano(asked.budget_usd),
            **said,
        )
        answerer = self._editions.current.pipeline
        request = Request(PLAN, (user(task),), plan=options)
        if not asked.stream:
            return JSONResponse(_answer(await answerer.complete(request, call)))
        feed = Feed(answerer.stream(request, call), limit)
        return EventStream(_events(feed), feed.close)


def _graph(asked: NewPlan) -> Mapping[str, Any] | None:
    """The caller's graph, with what reads the documents before it. Raises BadRequest."""
    if asked.graph is not None and asked.template is not None:
        raise BadRequest("Say 'graph' or 'template', not both.", param="template")
    raw = asked.graph if asked.template is None else templates.load(asked.template)
    pieces = [piece for one in asked.documents for piece in reading.split(one.name, one.text)]
    if asked.documents and not pieces:
        raise BadRequest("The documents are empty.", param="documents")
    if raw is None and pieces:
        raw = templates.load("reading")
    if raw is None:
        return None
    try:
        made = reading.with_documents(graph.parse(raw), asked.task, pieces)
    except BadGraph as error:
        raise BadRequest(str(error), param="graph") from None
    return made.model_dump(mode="json")


def _nano(budget: Any) -> int | None:
    if budget is None:
        return None
    try:
        nano = int(Decimal(str(budget)) * prices.NANO_PER_USD)
    except (ArithmeticError, ValueError):
        nano = 0
    if not 0 < nano < 10**18:
        raise BadRequest("'budget_usd' is an amount of dollars above 0.", param="budget_usd")
    return nano


def _answer(completion: Completion) -> dict[str, Any]:
    return {
        "object": "plan",
        "status": "done",
        **completion.extension["plan"],
        "model": completion.model,
        "answer": completion.text,
        "cost_usd": prices.usd(sum(stage.nano_usd or 0 for stage in completion.stages)),
    }


def _shown(saved: Saved) -> dict[str, Any]:
    return {
        "object": "plan",
        "id": saved.id,
        "status": saved.status,
        "created": int(saved.at),
        "task": saved.task,
        "graph": saved.graph.model_dump(mode="json"),
        "results": [{"id": one.subtask, "text": one.text, **one.told} for one in saved.done],
        **(saved.told or {}),
    }


async def _events(feed: Feed) -> AsyncGenerator[bytes, None]:
    """Server-sent events: `plan.…`, `plan.answer.delta`, and `plan.completed` or `error`."""
    try:
        while True:
            event = await feed.next(_HEARTBEAT_S)
            if event is None:
                yield b": still working\n\n"
            elif (line := _event(event)) is not None:
                yield line
            if isinstance(event, Done):
                return
    except FusionError as error:
        yield _line("error", errors.body(error)["error"])


def _event(event: Event) -> bytes | None:
    match event:
        case Progress(kind, data):
            return _line(kind, data)
        case TextDelta(text):
            return _line("plan.answer.delta", {"text": text})
        case Done(completion):
            return _line("plan.completed", _answer(completion))
    return None


def _line(kind: str, data: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()
