"""What every fusion did, kept in the store under the id that its answer carries.

Writing never holds an answer up: a record is put in line, and one task writes the line.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import sqlalchemy as sa

from models.answerer import Clock, SystemClock
from models.catalog import Catalog
from models.errors import NotFound, StoreUnavailable
from serve.store import schema
from serve.store.database import TIMEOUT_S, Database

log = logging.getLogger(__name__)

#: Records that may wait for a store that does not answer; then the oldest are given up.
MOST_WAITING = 1000
#: Records in one transaction.
_BATCH = 50
_RETRY_S = 1.0
_DAY_S = 86_400
_MICRO = 1_000_000


@dataclass(frozen=True, slots=True)
class Record:
    """One fusion. `told` is JSON data: all that happened and what came of it."""

    id: str
    at: float
    project: str
    request: str
    told: Mapping[str, Any]


class Keeper(Protocol):
    def keep(self, record: Record) -> None:
        """Take it; never waits and never fails."""
        ...


@dataclass(slots=True)
class Records:
    """The records of all gateways, in the store, as long as the catalog in force says."""

    database: Database
    catalog: Callable[[], Catalog]
    clock: Clock = field(default_factory=SystemClock)
    _waiting: dict[str, Record] = field(default_factory=dict)
    _writer: asyncio.Task[None] | None = None
    _swept_at: float = 0.0

    def keep(self, record: Record) -> None:
        if not self._days:
            return
        self._waiting[record.id] = record
        if len(self._waiting) > MOST_WAITING:
            lost = next(iter(self._waiting))
            del self._waiting[lost]
            log.error("the store takes no records: that of fusion %s is lost", lost)
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())

    async def find(self, identity: str, project: str) -> Mapping[str, Any]:
        """One record of this project. Raises NotFound, also for another project's."""
        record = self._waiting.get(identity)
        if record is not None and record.project == project:
            return record.told
        columns = schema.fusions.c
        query = sa.select(columns.told).where(columns.id == identity, columns.project == project)
        async with self.database.read() as connection:
            told: Mapping[str, Any] | None = (await connection.execute(query)).scalar_one_or_none()
        if told is None:
            raise NotFound(f"There is no fusion '{identity[:64]}', or its record is over.")
        return told

    @property
    def _days(self) -> float:
        return self.catalog().server.fusion_days

    async def close(self) -> None:
        """Wait until what waits is written, and not long for a store that does not take it."""
        if self._writer is not None:
            await asyncio.wait({self._writer}, timeout=TIMEOUT_S)
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)
        if self._waiting:
            log.error("the store takes no records: %d of fusions are lost", len(self._waiting))

    async def _write(self) -> None:
        while self._waiting:
            try:
                await self._write_some()
            except StoreUnavailable as error:
                log.warning("records of fusions wait for the store: %s", error.message)
                await self.clock.sleep(_RETRY_S)

    async def _write_some(self) -> None:
        some = list(self._waiting.values())[:_BATCH]
        rows = [asdict(record) | {"at": int(record.at * _MICRO)} for record in some]
        now = self.clock.now()
        async with self.database.write() as connection:
            # A commit whose answer was lost is repeated: the same rows, once.
            again = schema.fusions.c.id.in_([record.id for record in some])
            await connection.execute(sa.delete(schema.fusions).where(again))
            await connection.execute(sa.insert(schema.fusions), rows)
            if now - self._swept_at > _DAY_S:
                self._swept_at = now
                oldest = int((now - self._days * _DAY_S) * _MICRO)
                old = sa.delete(schema.fusions).where(schema.fusions.c.at < oldest)
                await connection.execute(old)
        for record in some:
            self._waiting.pop(record.id, None)
