"""Whether the server lives and what it counts: `GET /healthz`, `GET /metrics`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route


@dataclass(frozen=True, slots=True)
class Vitals:
    """`healthz` gives an HTTP status and what is up, `metrics` a Prometheus text."""

    healthz: Callable[[], Awaitable[tuple[int, dict[str, Any]]]]
    metrics: Callable[[], Awaitable[str]]

    def routes(self) -> list[BaseRoute]:
        return [Route("/healthz", self.show_health), Route("/metrics", self.show_metrics)]

    async def show_health(self, _: Request) -> Response:
        """GET /healthz"""
        status, parts = await self.healthz()
        return JSONResponse(parts, status)

    async def show_metrics(self, _: Request) -> Response:
        """GET /metrics"""
        return PlainTextResponse(await self.metrics(), media_type="text/plain; version=0.0.4")
