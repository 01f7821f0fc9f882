"""The gateway's whole HTTP face over fake models, on a real server of this process. No Ray."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import anthropic
import openai
import uvicorn
from starlette.requests import HTTPConnection

from models.answerer import Answerer, Events, SystemClock
from models.call import Call
from models.catalog import Catalog
from models.errors import ModelNotFound
from models.fake import FakeModel
from models.messages import Completion, Done, Event, Request
from serve.access.caller import Caller
from serve.editions.edition import Edition, Fixed
from serve.gateway.count import TokenCount
from serve.gateway.door import Door
from serve.gateway.rooms.names import Names
from serve.gateway.rooms.vitals import Vitals
from serve.gateway.site import Room, site
from serve.gateway.watch import Watch


@dataclass
class Script:
    """An answerer that plays these events. Records every call it got."""

    events: tuple[Event, ...]
    calls: list[tuple[Request, Call]] = field(default_factory=list)

    async def complete(self, request: Request, call: Call) -> Completion:
        self.calls.append((request, call))
        last = self.events[-1]
        assert isinstance(last, Done)
        return last.completion

    async def stream(self, request: Request, call: Call) -> Events:
        self.calls.append((request, call))
        for event in self.events:
            yield event


@dataclass
class Table:
    """Answers for each name with what stands there."""

    models: Mapping[str, Any]

    def _find(self, name: str) -> Answerer:
        if name not in self.models:
            raise ModelNotFound(f"No model is called '{name}'.", param="model")
        found: Answerer = self.models[name]
        return found

    async def complete(self, request: Request, call: Call) -> Completion:
        return await self._find(request.model).complete(request, call)

    async def stream(self, request: Request, call: Call) -> Events:
        async for event in self._find(request.model).stream(request, call):
            yield event


class Silence:
    """A recorder that records nothing."""

    def served(self, model: str, status: int, seconds: float) -> None: ...

    def first_token(self, model: str, seconds: float) -> None: ...

    def answered(self, completion: Completion) -> None: ...


@dataclass
class Doorway:
    """A running server. Put an answerer into `models` and ask for it by its name."""

    url: str
    door: Door
    models: dict[str, Any]
    #: The official clients.
    openai: openai.OpenAI
    anthropic: anthropic.Anthropic

    def says(self, reply: Any, **how: Any) -> FakeModel:
        """From now on the model `m` replies so."""
        self.models["m"] = model = FakeModel("m", reply, **how)
        return model

    def plays(self, *events: Event) -> Script:
        """From now on the model `m` plays these events."""
        self.models["m"] = script = Script(events)
        return script


CATALOG = Catalog.model_validate(
    {
        "server": {"max_body_mb": 1},
        "models": {
            "m": {"engine": "fake"},
            "far": {"engine": "openai", "base_url": "http://127.0.0.1:9/v1", "image_tokens": 1000},
        },
        "panels": {"p": {"members": ["far"], "judge": "m"}},
        "roles": {"judge": "m"},
    }
)


async def _everybody(_: HTTPConnection) -> Caller:
    return Caller()


async def _always(_: Caller) -> bool:
    return True


async def _count(catalog: Catalog, request: Request) -> int | None:
    """The hosted model's tokens are words; the other's nobody knows."""
    if request.model == "far":
        return None
    return sum(len(message.text.split()) for message in request.messages)


async def _health() -> tuple[int, dict[str, Any]]:
    return 200, {"status": "ok"}


async def _metrics() -> str:
    return ""


@contextmanager
def doorway(
    catalog: Catalog = CATALOG, wiring: Callable[[Answerer], Answerer] = lambda table: table
) -> Iterator[Doorway]:
    """`wiring` makes what answers for every name, of what answers for models."""
    models: dict[str, Any] = {}
    table = Table(models)
    editions = Fixed(Edition(catalog, table, wiring(table)))
    door = Door(editions, Silence(), SystemClock(), Watch(_always))
    rooms: list[Room] = [
        door,
        TokenCount(editions, _count),
        Names(editions),
        Vitals(_health, _metrics),
    ]
    config = uvicorn.Config(site(rooms, _everybody), port=0, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    url, patience = (
        f"http://127.0.0.1:{port}",
        dict[str, Any](api_key="none", max_retries=0, timeout=20),
    )
    try:
        with (
            openai.OpenAI(base_url=f"{url}/v1", **patience) as one,
            anthropic.Anthropic(base_url=url, **patience) as other,
        ):
            yield Doorway(url, door, models, one, other)
    finally:
        server.should_exit = True
        thread.join(10)
