"""The log of all verdicts. Append-only: nothing here changes or deletes a row."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import sqlalchemy as sa

from models.errors import StoreUnavailable
from serve.control.policy.engine import Ruling
from serve.money.ledger import plain_name
from serve.store.database import Database
from serve.store.schema import audit
from serve.store.steps import ALONE, Steps, Values

#: How long an allow may wait to be written with others. A deny or an ask never waits.
GATHER_S = 0.2
PAGE = 500
_INSERT = """
insert into audit
(at, request, call, project, "key", session, phase, model, policy, decision, reason)
values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""


class Audit:
    """Denials and asks are in the store before the caller hears of them. What was allowed follows
    within `GATHER_S`, many in one transaction; a process that is killed loses at most those."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._gathered: list[Values] = []
        self._flushing: asyncio.Task[None] | None = None

    async def record(self, ruling: Ruling) -> None:
        rows = _rows(ruling)
        if not rows:
            return
        if ruling.decision == "allow":
            self._gathered += rows
            if self._flushing is None or self._flushing.done():
                self._flushing = asyncio.create_task(self._later())
            return
        await self._write(rows)

    async def flush(self) -> None:
        """Write what was gathered."""
        rows, self._gathered = self._gathered, []
        if not rows:
            return
        try:
            await self._write(rows)
        except StoreUnavailable:
            self._gathered = rows + self._gathered
            raise

    async def export(self, project: str | None = None, after: int = 0) -> AsyncIterator[Any]:
        """The rows behind the one of id `after`, oldest first; of all projects, or of one."""
        while True:
            query = sa.select(audit).where(audit.c.id > after).order_by(audit.c.id).limit(PAGE)
            if project is not None:
                query = query.where(audit.c.project == project)
            async with self._database.read() as connection:
                rows = (await connection.execute(query)).mappings().all()
            for row in rows:
                yield dict(row)
            if len(rows) < PAGE:
                return
            after = rows[-1]["id"]

    async def _later(self) -> None:
        while self._gathered:
            await asyncio.sleep(GATHER_S)
            with suppress(StoreUnavailable):  # kept, and tried again
                await self.flush()

    async def _write(self, rows: list[Values]) -> None:
        def steps() -> Steps[None]:
            yield _INSERT, rows

        await self._database.run(steps(), ALONE)


def _rows(ruling: Ruling) -> list[Values]:
    """In the order of `_INSERT`."""
    event = ruling.event
    call = event.call
    whose = (call.request or call.id, call.id, call.project, call.key, call.session)
    what = (event.phase, plain_name(event.model or event.request.model))
    return [
        (
            round(event.at * 1e6),
            *whose,
            *what,
            said.policy,
            said.verdict.decision,
            said.verdict.reason.replace("\0", "\\x00"),
        )
        for said in ruling.said
    ]
