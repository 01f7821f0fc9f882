"""The gateway as a Ray Serve deployment: carries the site, everything in it is elsewhere."""

from __future__ import annotations

from typing import Any

from ray import serve as ray_serve
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp

from models.answerer import SystemClock
from models.catalog import Catalog
from serve import parts
from serve.access.caller import Caller
from serve.gateway.door import Door
from serve.gateway.metrics import ClusterMetrics, RayRecorder
from serve.gateway.site import Room, site
from serve.money.till import open_till
from serve.pipeline import Pipeline
from serve.remote import RemoteJudge, RemoteRouter
from serve.store import migrate
from serve.store.database import Database


@ray_serve.ingress()
class Gateway:
    """The HTTP door, and the pipeline behind it for callers inside the cluster."""

    # Serve awaits a coroutine constructor; the type system does not know such a thing.
    async def __init__(  # type: ignore[misc]
        self, catalog: dict[str, Any], store: str, handles: parts.Handles, judge: Any, router: Any
    ) -> None:
        known = Catalog.model_validate(catalog)
        clock = SystemClock()
        self._store = Database(store)
        await migrate.upgrade(self._store)
        till = await open_till(self._store, lambda: known, clock)
        models = parts.models(known, handles, clock, till)
        self._pipeline = Pipeline(known, models, RemoteJudge(judge), RemoteRouter(router), clock)
        rooms: list[Room] = [
            Door(
                catalog=known,
                pipeline=self._pipeline,
                recorder=RayRecorder(),
                clock=clock,
                healthz=parts.health,
                metrics=ClusterMetrics().text,
            ),
        ]
        self._site = site(rooms, _everybody)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return self._site


async def _everybody(_: HTTPConnection) -> Caller:
    return Caller()
