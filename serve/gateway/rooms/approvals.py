"""Approvals and the audit log over HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from models.errors import BadRequest
from serve.access.caller import Caller, caller
from serve.control.approvals import Decision
from serve.control.control import Control
from serve.editions.edition import Current
from serve.gateway import body

STATES = ("pending", "approved", "rejected", "expired")


class Answer(body.Body):
    decision: Literal["approve", "reject"]
    #: Let this one request pass, and nothing more.
    once: bool = False
    #: The new ceiling, in the units that the approval names.
    ceiling: float | None = Field(None, ge=0, le=1e12)
    #: Why, in the words of who decides.
    reason: str = ""


class ApprovalsRoom:
    def __init__(self, control: Control, editions: Current) -> None:
        self._control = control
        self._editions = editions

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/v1/approvals", self.list, methods=["GET"]),
            Route("/v1/approvals/{id}", self.show, methods=["GET"]),
            Route("/v1/approvals/{id}", self.decide, methods=["POST"]),
            Route("/v1/audit", self.audit, methods=["GET"]),
        ]

    async def list(self, request: Request) -> Response:
        state = request.query_params.get("state")
        if state is not None and state not in STATES:
            raise BadRequest(f"'state' is one of {', '.join(STATES)}.", param="state")
        found = await self._control.approvals.newest(_project(caller(request)), state)
        return JSONResponse({"object": "list", "data": found})

    async def show(self, request: Request) -> Response:
        project = _project(caller(request))
        return JSONResponse(await self._control.approvals.read(request.path_params["id"], project))

    async def decide(self, request: Request) -> Response:
        who = caller(request)
        who.require("approve")
        answer = await body.parse(request, Answer)
        if answer.decision == "reject" and (answer.once or answer.ceiling is not None):
            raise BadRequest("A rejection takes a 'reason' and nothing else.", param="decision")
        if answer.once and answer.ceiling is not None:
            raise BadRequest("Say 'once' or a 'ceiling', not both.", param="ceiling")
        decision = Decision(
            approve=answer.decision == "approve",
            by=who.key or "operator",
            origin=request.client.host if request.client else "",
            note=answer.reason,
            once=answer.once,
            ceiling=answer.ceiling,
        )
        tell = self._editions.current.catalog.approvals.webhook is not None
        decided = await self._control.approvals.decide(
            request.path_params["id"], decision, _project(who), tell=tell
        )
        return JSONResponse(decided)

    async def audit(self, request: Request) -> Response:
        """All verdicts as JSON lines, oldest first; `after` is the id of the last one known."""
        who = caller(request)
        who.require("admin")
        after = request.query_params.get("after", "0")
        if not after.isascii() or not after.isdecimal() or len(after) > 18:
            raise BadRequest("'after' is the id of a row.", param="after")
        project = request.query_params.get("project")
        await self._control.audit.flush()

        async def lines() -> AsyncIterator[bytes]:
            async for row in self._control.audit.export(project, int(after)):
                yield json.dumps(row, ensure_ascii=False).encode() + b"\n"

        return StreamingResponse(lines(), media_type="application/x-ndjson")


def _project(who: Caller) -> str | None:
    """Whose approvals this caller sees; None for everybody's."""
    return None if "admin" in who.scopes else who.project
