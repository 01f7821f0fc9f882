"""What a fusion did, over HTTP, for the project that asked."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from models.messages import Stage, Usage
from serve.access.caller import caller
from serve.dialects.dialect import to_json
from serve.dialects.extension import cost, shown
from serve.fusion.record import Records


class FusionsRoom:
    def __init__(self, records: Records) -> None:
        self._records = records

    def routes(self) -> list[BaseRoute]:
        return [Route("/v1/fusions/{id}", self.show, methods=["GET"])]

    async def show(self, request: Request) -> Response:
        """GET /v1/fusions/{id}"""
        asking = caller(request)
        asking.require("use")
        told = await self._records.find(request.path_params["id"], asking.project)
        stages = tuple(_stage(raw) for raw in told["stages"])
        body: dict[str, Any] = {
            **told,
            "object": "fusion",
            "cost_usd": cost(stages),
            "stages": [shown(stage) for stage in stages],
        }
        return Response(to_json(body), media_type="application/json")


def _stage(raw: dict[str, Any]) -> Stage:
    return Stage(**{**raw, "usage": Usage(**raw["usage"])})
