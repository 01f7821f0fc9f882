"""The HTTP face of batches on a real port of this process, with a fake to ask and no Ray."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send
from support import free_port

from models.answerer import SystemClock
from models.catalog import Catalog
from models.fake import FakeModel
from serve.access.caller import Caller
from serve.editions.edition import Edition, Fixed
from serve.gateway.rooms.batches import BatchesRoom
from serve.gateway.rooms.files import FilesRoom
from serve.gateway.rooms.names import Names
from serve.gateway.site import Room, site
from serve.jobs.batches import Batches
from serve.jobs.fake import FakeAsker
from serve.jobs.files import Files
from serve.jobs.runner import Runner
from serve.jobs.starter import Inline
from serve.store import migrate
from serve.store.database import Database

CATALOG = Catalog.model_validate(
    {
        "models": {"m": {"engine": "fake"}},
        "aliases": {"a": "m", "brain": "m"},
        "roles": {"judge": "m"},
    }
)


class _Server:
    """Everything of it lives in one loop of a thread of its own."""

    def __init__(self, folder: Path, asker: FakeAsker, port: int | None = None) -> None:
        self.port = port or free_port()
        self.http = uvicorn.Server(
            uvicorn.Config(
                self._answer,
                port=self.port,
                log_level="warning",
                lifespan="off",
                interface="asgi3",
            )
        )
        self._folder, self._asker = folder, asker
        self._site: ASGIApp

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._site(scope, receive, send)

    def run(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        database, clock = Database(f"sqlite:///{self._folder}/store.db"), SystemClock()
        await migrate.upgrade(database)
        batches, files = Batches(database, clock), Files(database, clock)
        jobs = Inline(lambda: Runner(batches, files, self._asker, clock))
        current = Fixed(Edition(CATALOG, FakeModel(), FakeModel()))
        rooms: list[Room] = [
            FilesRoom(files),
            Names(current),
            BatchesRoom(batches, files, jobs, current, clock),
        ]
        self._site = site(rooms, _everybody)
        await self.http.serve()
        await asyncio.gather(*jobs.tasks.values())
        await database.close()


@contextmanager
def serving(folder: Path, asker: FakeAsker) -> Iterator[str]:
    """The address of a server whose batches ask `asker`."""
    server = _Server(folder, asker)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.http.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.http.should_exit = True
        thread.join()


def serve(folder: Path, asker: FakeAsker, port: int) -> None:
    """Until this process is killed."""
    _Server(folder, asker, port).run()


async def _everybody(_: HTTPConnection) -> Caller:
    return Caller()
