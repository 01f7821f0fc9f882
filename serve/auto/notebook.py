"""What happened to answers of `fusion/auto`, in the store: for feedback, and to learn from.

A route is kept for as long as feedback may come; a lesson is one event of a log that every
replica of the router reads; the checkpoint is what the lessons up to a number came to.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from models.answerer import Clock
from models.errors import Conflict, NotFound
from router.live import Event
from serve.auto import events
from serve.auto.events import Route
from serve.store.database import Database
from serve.store.schema import lessons, router_state, routes

#: What a dialect puts before the id of a request to make the id of its answer.
_PREFIX = re.compile(r"^(chatcmpl|resp|msg)[-_]")
#: How long feedback on an answer is taken.
ROUTE_KEPT_S = 30 * 86_400.0
#: Lessons that are read at once.
PAGE = 2_000
#: PostgreSQL gives numbers before it commits: so many are looked at again.
OVERLAP = 200


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What the lessons up to `number` came to. `era` changes when it was put there by hand."""

    era: int
    number: int
    state: dict[str, Any] | None


class Notebook:
    """Every method may raise StoreUnavailable."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def answered(self, route: Route, happened: Sequence[Event]) -> None:
        """Keep the route of an answer, and what it taught already."""
        async with self._database.write() as connection:
            # A caller may name two requests alike: feedback is about the later one.
            same = (routes.c.project == route.project) & (routes.c.id == route.id)
            await connection.execute(sa.delete(routes).where(same))
            row = {"project": route.project, "id": route.id, "at": self._now()}
            await connection.execute(sa.insert(routes).values(**row, data=route.to_json()))
            await self._add(connection, happened)

    async def feedback(self, project: str, answer: str, score: float) -> Route:
        """Take a caller's word on an answer of his: its id is the answer's or the request's.

        Raises NotFound for an answer that is not this project's, Conflict for the second word.
        """
        id = _PREFIX.sub("", answer)
        async with self._database.write() as connection:
            same = (routes.c.project == project) & (routes.c.id == id)
            query = sa.select(routes.c.data, routes.c.score).where(same).with_for_update()
            row = (await connection.execute(query)).one_or_none()
            if row is None:
                raise NotFound(
                    f"No answer of fusion/auto has the id '{answer}'. Take the id of the answer, "
                    "within 30 days.",
                    param="id",
                )
            if row.score is not None:
                raise Conflict(f"The answer '{answer}' was judged already, with {row.score:g}.")
            await connection.execute(sa.update(routes).where(same).values(score=score))
            route = Route.from_json(project, id, row.data)
            await self._add(connection, route.judged(score))
            return route

    async def since(self, number: int) -> list[tuple[int, Event | None]]:
        """Lessons with a greater number, in order, at most `PAGE`; None for one that cannot be
        read, so that who reads on knows that it was there."""
        async with self._database.read() as connection:
            query = sa.select(lessons).where(lessons.c.number > number)
            rows = await connection.execute(query.order_by(lessons.c.number).limit(PAGE))
            return [(row.number, events.read(row.data)) for row in rows]

    async def newest(self) -> int:
        """The number of the last lesson."""
        async with self._database.read() as connection:
            found = await connection.execute(sa.select(sa.func.max(lessons.c.number)))
            return int(found.scalar() or 0)

    async def checkpoint(self) -> Checkpoint:
        async with self._database.read() as connection:
            row = (await connection.execute(sa.select(router_state))).one_or_none()
            if row is None:
                return Checkpoint(0, 0, None)
            return Checkpoint(row.era, row.number, json.loads(row.data) if row.data else None)

    async def era(self) -> int:
        """The era of the checkpoint, without reading all of it."""
        async with self._database.read() as connection:
            found = await connection.execute(sa.select(router_state.c.era))
            return int(found.scalar() or 0)

    async def keep(self, made: Checkpoint) -> bool:
        """Put a checkpoint there, unless one of a later era or number is. Drops what is old."""
        async with self._database.write() as connection:
            later = (router_state.c.era != made.era) | (router_state.c.number > made.number)
            found = (await connection.execute(sa.select(router_state.c.era))).one_or_none()
            if (
                found is not None
                and (
                    await connection.execute(sa.select(router_state.c.era).where(later))
                ).one_or_none()
            ):
                return False
            await self._put(connection, made, found is not None)
            old = self._now() - int(ROUTE_KEPT_S * 1e6)
            await connection.execute(sa.delete(routes).where(routes.c.at < old))
            settled = lessons.c.number <= made.number - OVERLAP
            await connection.execute(sa.delete(lessons).where(settled, lessons.c.at < old))
            return True

    async def replace(self, state: dict[str, Any] | None) -> Checkpoint:
        """Begin a new era with this state, or with nothing learned. Earlier lessons are over."""
        async with self._database.write() as connection:
            found = (await connection.execute(sa.select(router_state.c.era))).one_or_none()
            newest = (await connection.execute(sa.select(sa.func.max(lessons.c.number)))).scalar()
            made = Checkpoint((found.era if found else 0) + 1, int(newest or 0), state)
            await self._put(connection, made, found is not None)
            return made

    async def _put(self, connection: Any, made: Checkpoint, there: bool) -> None:
        values = {
            "era": made.era,
            "number": made.number,
            "at": self._now(),
            "data": json.dumps(made.state) if made.state is not None else None,
        }
        statement = sa.update(router_state) if there else sa.insert(router_state)
        await connection.execute(statement.values(id=1, **values))

    async def _add(self, connection: Any, happened: Sequence[Event]) -> None:
        if happened:
            rows = [{"at": self._now(), "data": events.write(event)} for event in happened]
            await connection.execute(sa.insert(lessons), rows)

    def _now(self) -> int:
        return int(self._clock.now() * 1e6)
