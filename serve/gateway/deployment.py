"""The gateway as a Ray Serve deployment: carries the site, everything in it is elsewhere."""

from __future__ import annotations

from typing import Any

import ray
from ray import serve as ray_serve
from starlette.types import ASGIApp

from models.answerer import Answerer, SystemClock
from models.catalog import Catalog
from models.flagship.client import new_client
from models.tools.toolset import Toolset
from serve import parts
from serve.access.book import KeyBook
from serve.access.guard import Guard
from serve.auto.notebook import Notebook
from serve.control.sessions.memory import StoredAnswers
from serve.fusion.record import Records
from serve.gateway.count import TokenCount
from serve.gateway.door import Door
from serve.gateway.metrics import ClusterMetrics, RayRecorder
from serve.gateway.rooms.approvals import ApprovalsRoom
from serve.gateway.rooms.batches import BatchesRoom
from serve.gateway.rooms.catalog import CatalogRoom
from serve.gateway.rooms.files import FilesRoom
from serve.gateway.rooms.fusions import FusionsRoom
from serve.gateway.rooms.keys import KeysRoom
from serve.gateway.rooms.names import Names
from serve.gateway.rooms.plans import PlansRoom
from serve.gateway.rooms.responses import ResponsesRoom
from serve.gateway.rooms.router import RouterRoom
from serve.gateway.rooms.sessions import SessionsRoom
from serve.gateway.rooms.usage import UsageRoom
from serve.gateway.rooms.vitals import Vitals
from serve.gateway.site import Room, site
from serve.gateway.watch import Watch
from serve.house import House
from serve.jobs.asking import Ask, Desk, Reply
from serve.jobs.batches import Batches
from serve.jobs.files import Files
from serve.jobs.starter import RayJobs
from serve.money.fees import TillFees
from serve.money.replicas import ReplicaHours
from serve.pipeline import Pipeline
from serve.plans.record import PlanBook
from serve.remote import RemoteJudge, RemoteRouter
from serve.settings import Settings


@ray_serve.ingress()
class Gateway:
    """The HTTP door, and the pipeline behind it for callers inside the cluster."""

    # Serve awaits a coroutine constructor; the type system does not know such a thing.
    async def __init__(  # type: ignore[misc]
        self, settings: dict[str, Any], accounts: Any, judge: Any, router: Any
    ) -> None:
        clock = SystemClock()
        house = House(Settings.model_validate(settings), accounts, clock)
        plans = PlanBook(house.database, clock)
        notebook = Notebook(house.database, clock)
        judging, routing = RemoteJudge(judge, house.till), RemoteRouter(router)
        records = Records(house.database, lambda: house.editions.current.catalog, clock)
        client = new_client()

        def pipeline(catalog: Catalog, models: Answerer) -> Answerer:
            boxes = Toolset(catalog.tools, client, fees=TillFees(house.till, clock)).open
            return Pipeline(
                catalog,
                models,
                judging,
                routing,
                clock,
                boxes,
                records,
                plans,
                routes=notebook.answered,
            )

        await house.open(pipeline)
        book = KeyBook(house.database, house.secret, clock)
        guard = Guard(book, house.secret, house.settings.local, clock)
        answers = StoredAnswers(house.database, clock)
        door = Door(
            editions=house.editions,
            recorder=RayRecorder(),
            clock=clock,
            watch=Watch(guard.still),
            memory=answers,
        )
        files = Files(house.database, clock)
        jobs = RayJobs(ray.get_runtime_context().gcs_address, house.settings.store)
        rooms: list[Room] = [
            door,
            TokenCount(house.editions, house.count),
            Names(house.editions),
            Vitals(house.health, ClusterMetrics().text),
            FilesRoom(files),
            BatchesRoom(Batches(house.database, clock), files, jobs, house.editions, clock),
            CatalogRoom(house.editions, house.history, parts.not_running),
            KeysRoom(book, clock),
            SessionsRoom(house.sessions),
            FusionsRoom(records),
            ResponsesRoom(answers),
            ApprovalsRoom(house.control, house.editions),
            UsageRoom(house.database, house.till.limits),
            PlansRoom(house.editions, plans, clock),
            RouterRoom(house.editions, routing, notebook),
        ]
        house.control.start(house.editions)
        self._hours = ReplicaHours(
            house.database, lambda: house.editions.current.catalog, parts.replicas, clock
        )
        self._hours.start()
        self._house = house
        self._desk = Desk(house.editions, lambda: door.open, clock.now)
        self._site = site(rooms, guard)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return self._site

    async def ask_many(self, asks: list[Ask]) -> list[Reply]:
        """Many requests of a batch, each through the whole pipeline. An error is a reply."""
        return await self._desk.ask_many(asks)

    async def stands_for(self, names: list[str]) -> list[str]:
        """What answers to each of these names now."""
        return self._desk.stands_for(names)
