"""A gateway as a process of its own, without Ray: for tests that kill it.

    python tests/gateway_process.py STORE_URL PORT

Its model `m` costs a dollar an answer and takes a tenth of a second. A session may spend two
dollars; then a person is asked. What a gateway holds is free five seconds after its death, and not
fifteen: who kills many would wait for nothing else.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace

import uvicorn
from starlette.requests import HTTPConnection

from models.answerer import Events, SystemClock
from models.call import Call
from models.catalog import Catalog
from models.fake import FakeModel
from models.messages import Completion, Done, Request, Stage
from models.prices import NANO_PER_USD
from serve.access.caller import Caller
from serve.control import approvals, idempotency, parking
from serve.control.control import Control
from serve.control.entrance import Entrance
from serve.control.idempotency import Idempotent
from serve.control.policed import Policed
from serve.control.policy.catalog import rules
from serve.control.sessions.memory import StoredAnswers
from serve.control.sessions.remembering import Remembering
from serve.control.sessions.store import Sessions
from serve.editions.edition import Edition, Fixed
from serve.gateway.door import Door
from serve.gateway.rooms.approvals import ApprovalsRoom
from serve.gateway.rooms.sessions import SessionsRoom
from serve.gateway.site import site
from serve.gateway.watch import Watch
from serve.store import migrate
from serve.store.database import Database

CATALOG = Catalog.model_validate(
    {
        "models": {
            "m": {"engine": "fake", "max_output": 1, "price": {"input": 0, "output": 1_000_000}}
        },
        "roles": {"judge": "m"},
        "policies": {"budget": {"kind": "spend", "limit_usd": 2}},
    }
)


class Paid:
    """Echoes the last message for a dollar."""

    def __init__(self, seconds: float) -> None:
        self._model = FakeModel("m", lambda r: f"re:{r.messages[-1].text}", first_token_s=seconds)

    async def complete(self, request: Request, call: Call) -> Completion:
        return self._billed(await self._model.complete(request, call))

    async def stream(self, request: Request, call: Call) -> Events:
        async with aclosing(self._model.stream(request, call)) as events:
            async for event in events:
                yield Done(self._billed(event.completion)) if isinstance(event, Done) else event

    def _billed(self, answer: Completion) -> Completion:
        return replace(answer, stages=(Stage("answer", "m", nano_usd=NANO_PER_USD),))


class Silence:
    """A recorder that records nothing."""

    def served(self, model: str, status: int, seconds: float) -> None: ...

    def first_token(self, model: str, seconds: float) -> None: ...

    def answered(self, completion: Completion) -> None: ...


async def everybody(_: HTTPConnection) -> Caller:
    return Caller()


async def still(_: Caller) -> bool:
    return True


async def serve(
    url: str,
    port: int,
    seconds: float = 0.1,
    catalog: Catalog = CATALOG,
    begun: Callable[[uvicorn.Server], None] = lambda _: None,
) -> None:
    clock = SystemClock()
    database = Database(url)
    await migrate.upgrade(database)
    control, sessions = Control(database, clock), Sessions(database, clock)
    made = rules(catalog.policies)
    models = Policed(Paid(seconds), catalog, made, control)
    inner = Remembering(models, catalog, models, sessions)
    pipeline = Idempotent(Entrance(inner, catalog, made, control), database, clock)
    fixed = Fixed(Edition(catalog, models, pipeline))
    door = Door(fixed, Silence(), clock, Watch(still), StoredAnswers(database, clock))
    rooms = [door, ApprovalsRoom(control, fixed), SessionsRoom(sessions)]
    control.start(fixed)
    config = uvicorn.Config(site(rooms, everybody), "127.0.0.1", port, log_level="warning")
    server = uvicorn.Server(config)
    begun(server)
    await server.serve()
    await control.close()
    await database.close()


if __name__ == "__main__":
    approvals.HELD_S = parking.HELD_S = idempotency.HELD_S = 5.0
    asyncio.run(serve(sys.argv[1], int(sys.argv[2])))
