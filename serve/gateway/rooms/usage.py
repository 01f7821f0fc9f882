"""GET /v1/usage: what was spent. A key sees its own project, one with the scope `admin` all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from serve.access.caller import caller
from serve.money import usage
from serve.money.ledger import Limit
from serve.store.database import Database


class UsageRoom:
    """`limits` are those in force at the moment."""

    def __init__(self, database: Database, limits: Callable[[], Mapping[str, Limit]]) -> None:
        self._database = database
        self._limits = limits

    def routes(self) -> list[BaseRoute]:
        return [Route("/v1/usage", self.show, methods=["GET"])]

    async def show(self, request: Request) -> Response:
        who = caller(request)
        question = usage.question(request.query_params.multi_items())
        project = None if "admin" in who.scopes else who.project
        if project is not None:
            # Beside what was asked: another project's usage is empty, as if there were none.
            question = replace(question, only=(*question.only, ("project", project)))
        answer = await usage.answer(self._database, question, self._limits(), project)
        return JSONResponse(answer)
