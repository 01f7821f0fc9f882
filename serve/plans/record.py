"""Plans in the store: what each result was, so that nothing is done or paid for twice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import sqlalchemy as sa

from models.answerer import Clock
from models.errors import Conflict, NotFound
from serve.plans.graph import Graph
from serve.store import schema
from serve.store.database import Database
from serve.store.steps import Steps, Values

#: `interrupted`: it runs, by what the store says, and whoever ran it has not been heard of.
Status = Literal["running", "done", "failed", "cancelled", "paused", "interrupted"]
#: How long whoever runs a plan holds it without saying that it is still at it.
HELD_S = 15.0
_KEEP = """
    insert into plan_steps (plan, subtask, at, text, told) values (?, ?, ?, ?, ?)
    on conflict (plan, subtask)
    do update set at = excluded.at, text = excluded.text, told = excluded.told
"""


@dataclass(frozen=True, slots=True)
class Done:
    """One result. `told` is JSON: who did it, for how much, in how long."""

    subtask: str
    text: str
    told: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Saved:
    """A plan as it stands in the store. `at` is seconds since the epoch."""

    id: str
    project: str
    at: float
    status: Status
    task: str
    graph: Graph
    told: Mapping[str, Any] | None
    done: tuple[Done, ...]


class Records(Protocol):
    """Where a plan under way is written down. `holder` is one run of it."""

    async def begin(
        self, plan: str, project: str, task: str, graph: Graph, holder: str
    ) -> None: ...

    async def take(self, plan: str, holder: str) -> None:
        """Go on with it. Raises Conflict while another run holds it."""
        ...

    async def still(self, plan: str, holder: str) -> Status:
        """Hold it for longer; what others want of it. Raises Conflict where it was lost."""
        ...

    async def grown(self, plan: str, graph: Graph) -> None: ...

    async def finished(self, plan: str, done: Done) -> None: ...

    async def end(
        self, plan: str, holder: str, status: Status, told: Mapping[str, Any]
    ) -> None: ...

    async def find(self, plan: str, project: str) -> Saved: ...


class PlanBook:
    """The plans of all gateways. Every method may raise StoreUnavailable."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._waiting: list[tuple[str, Done, asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None

    async def begin(self, plan: str, project: str, task: str, graph: Graph, holder: str) -> None:
        row = {
            "id": plan,
            "project": project,
            "at": self._now(),
            "status": "running",
            "holder": holder,
            "held_until": self._until(),
            "task": task,
            "graph": graph.model_dump(mode="json"),
        }
        async with self._database.write() as connection:
            await connection.execute(sa.insert(schema.plans).values(**row))

    async def take(self, plan: str, holder: str) -> None:
        """Go on with it, as its only run. Raises Conflict while another run holds it."""
        columns = schema.plans.c
        free = columns.holder.is_(None) | (columns.held_until <= self._now())
        values = {"status": "running", "holder": holder, "held_until": self._until(), "told": {}}
        async with self._database.write() as connection:
            taken = await connection.execute(
                sa.update(schema.plans).where((columns.id == plan) & free).values(values)
            )
        if taken.rowcount != 1:
            raise Conflict(
                f"Plan {plan} is being worked on. It can be resumed when that has ended.",
                retry_after_s=HELD_S,
            )

    async def still(self, plan: str, holder: str) -> Status:
        """Hold it for longer; what others want of it. Raises Conflict where another run has taken
        it, as this one was not heard of for so long."""
        columns = schema.plans.c
        mine = (columns.id == plan) & (columns.holder == holder)
        async with self._database.write() as connection:
            found = await connection.execute(
                sa.update(schema.plans)
                .where(mine)
                .values(held_until=self._until())
                .returning(columns.status)
            )
            status: Status | None = found.scalar_one_or_none()
        if status is None:
            raise Conflict(f"Another run goes on with plan {plan}.")
        return status

    async def stop(self, plan: str, status: Status) -> None:
        """Have whoever runs it stop: `cancelled` or `paused`. Nothing, where nobody runs it."""
        columns = schema.plans.c
        runs = (columns.id == plan) & (columns.status == "running")
        async with self._database.write() as connection:
            await connection.execute(sa.update(schema.plans).where(runs).values(status=status))

    async def grown(self, plan: str, graph: Graph) -> None:
        """The graph is another one now: a list was taken apart, or a failure planned around."""
        async with self._database.write() as connection:
            change = sa.update(schema.plans).where(schema.plans.c.id == plan)
            await connection.execute(change.values(graph=graph.model_dump(mode="json")))

    async def finished(self, plan: str, done: Done) -> None:
        """Keep this result, in place of one that was rejected. Returns when it is kept.

        Results that come while the store writes are written together: a row of subtasks ends at
        about the same time, and a transaction costs as much for twenty as for one.
        """
        kept: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((plan, done, kept))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())
        await kept

    async def _write(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                await self._database.run(_keep([self._step(*one) for one in batch]))
            except Exception as error:
                _answer(batch, error)
            else:
                _answer(batch, None)

    def _step(self, plan: str, done: Done, _: object) -> Values:
        return plan, done.subtask, self._now(), done.text, json.dumps(dict(done.told))

    async def end(self, plan: str, holder: str, status: Status, told: Mapping[str, Any]) -> None:
        """This run of it has ended so. Nothing, where another run has taken it."""
        mine = (schema.plans.c.id == plan) & (schema.plans.c.holder == holder)
        values = {"status": status, "told": dict(told), "holder": None, "held_until": None}
        async with self._database.write() as connection:
            await connection.execute(sa.update(schema.plans).where(mine).values(values))

    async def find(self, plan: str, project: str) -> Saved:
        """A plan of this project. Raises NotFound, also for another project's."""
        plans, steps = schema.plans, schema.plan_steps
        async with self._database.read() as connection:
            query = sa.select(plans).where(plans.c.id == plan, plans.c.project == project)
            row = (await connection.execute(query)).one_or_none()
            if row is None:
                raise NotFound(f"There is no plan '{plan[:64]}'.")
            found = await connection.execute(
                sa.select(steps).where(steps.c.plan == plan).order_by(steps.c.at)
            )
            done = tuple(Done(one.subtask, one.text, one.told) for one in found)
        graph = Graph.model_validate(row.graph)
        status = self._status(row)
        return Saved(row.id, row.project, row.at / 1e6, status, row.task, graph, row.told, done)

    async def list(self, project: str, most: int = 50) -> list[Mapping[str, Any]]:
        """The newest plans of this project, without their results."""
        columns = schema.plans.c
        query = (
            sa.select(columns.id, columns.at, columns.status, columns.task, columns.held_until)
            .where(columns.project == project)
            .order_by(columns.at.desc())
            .limit(most)
        )
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).all()
        return [
            {
                "id": row.id,
                "at": row.at // 1_000_000,
                "status": self._status(row),
                "task": row.task,
            }
            for row in rows
        ]

    def _status(self, row: Any) -> Status:
        lost = row.status == "running" and (row.held_until or 0) <= self._now()
        return "interrupted" if lost else row.status

    def _until(self) -> int:
        return self._now() + int(HELD_S * 1e6)

    def _now(self) -> int:
        return int(self._clock.now() * 1e6)


def _keep(rows: list[Values]) -> Steps[None]:
    yield _KEEP, rows


def _answer(
    batch: Sequence[tuple[str, Done, asyncio.Future[None]]], error: Exception | None
) -> None:
    for _, _, kept in batch:
        if kept.done():  # whoever waited for it was cancelled
            continue
        if error is None:
            kept.set_result(None)
        else:
            kept.set_exception(error)
