"""Answers that a request can go on from, over HTTP: their project may have them forgotten."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from serve.access.caller import caller
from serve.control.sessions.memory import StoredAnswers


@dataclass(frozen=True, slots=True)
class ResponsesRoom:
    answers: StoredAnswers

    def routes(self) -> list[BaseRoute]:
        return [Route("/v1/responses/{id}", self.forget, methods=["DELETE"])]

    async def forget(self, request: Request) -> Response:
        """DELETE /v1/responses/{id}"""
        asking = caller(request)
        asking.require("use")
        identity = request.path_params["id"].removeprefix("resp_")
        await self.answers.forget(identity, asking)
        told = {"id": f"resp_{identity}", "object": "response", "deleted": True}
        return JSONResponse(told)
