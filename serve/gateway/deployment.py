"""The gateway as a Ray Serve deployment: the routes, everything in them is elsewhere.

Serve pickles the class where `ingress` stands, so all that it names must come before.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import HTTPException
from ray import serve as ray_serve
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.responses import JSONResponse, Response

from models.answerer import SystemClock
from models.catalog import Catalog
from serve import parts
from serve.gateway.door import Door
from serve.gateway.metrics import ClusterMetrics, RayRecorder
from serve.pipeline import Pipeline
from serve.remote import RemoteJudge, RemoteRouter

app = FastAPI(title="Fusion cluster", docs_url=None, redoc_url=None)


@app.exception_handler(StarletteHTTPException)
async def _http_error(_: Request, error: HTTPException) -> Response:
    """Wrong paths and methods, in OpenAI's error shape."""
    body = {
        "message": str(error.detail),
        "type": "invalid_request_error",
        "param": None,
        "code": "not_found" if error.status_code == 404 else "invalid_request",
    }
    return JSONResponse({"error": body}, status_code=error.status_code)


@app.exception_handler(Exception)
async def _bug(_: Request, error: Exception) -> Response:
    """A bug of ours. Its text may hold anything, so only its kind is told; the log has all."""
    body = {
        "message": f"Internal error: {type(error).__name__}.",
        "type": "server_error",
        "param": None,
        "code": "internal_error",
    }
    return JSONResponse({"error": body}, status_code=500)


@ray_serve.ingress(app)
class Gateway:
    """The HTTP door, and the pipeline behind it for callers inside the cluster."""

    def __init__(
        self, catalog: dict[str, Any], handles: parts.Handles, judge: Any, router: Any
    ) -> None:
        known = Catalog.model_validate(catalog)
        clock = SystemClock()
        models = parts.models(known, handles, clock)
        self._pipeline = Pipeline(known, models, RemoteJudge(judge), RemoteRouter(router), clock)
        self._door = Door(
            catalog=known,
            pipeline=self._pipeline,
            recorder=RayRecorder(),
            clock=clock,
            healthz=parts.health,
            metrics=ClusterMetrics().text,
        )

    @app.post("/v1/chat/completions")
    async def chat(self, request: Request) -> Response:
        return await self._door.chat_completions(request)

    @app.get("/v1/models")
    async def models(self) -> Response:
        return await self._door.list_models()

    @app.get("/v1/models/{name:path}")
    async def model(self, name: str) -> Response:
        return await self._door.show_model(name)

    @app.get("/healthz")
    async def healthz(self) -> Response:
        return await self._door.health()

    @app.get("/metrics")
    async def metrics(self) -> Response:
        return await self._door.show_metrics()
