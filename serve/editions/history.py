"""Every catalog that was in force, as numbered versions in the store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncConnection

from models.answerer import Clock
from models.catalog import Catalog
from models.errors import Conflict, FusionError
from serve.store.database import Database
from serve.store.schema import editions

#: `up`: the file of `fusion up` rules, and a changed file replaces it. All others: the store does.
Origin = Literal["up", "apply", "alias", "rollback"]
_LOCK = 7_046_029_254_386_353_132  # any number, the same in every process


@dataclass(frozen=True, slots=True)
class Head:
    """What is known of one catalog of the history. `at` is seconds since the epoch."""

    version: int
    at: float
    origin: Origin
    by: str
    note: str


@dataclass(frozen=True, slots=True)
class Version(Head):
    """One catalog of the history."""

    catalog: Catalog


class History:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def newest_version(self) -> int:
        """0 when there is none yet."""
        async with self._database.read() as connection:
            found = await connection.execute(sa.select(sa.func.max(editions.c.version)))
            return int(found.scalar() or 0)

    async def newest(self) -> Version | None:
        async with self._database.read() as connection:
            return await _newest(connection)

    async def version(self, number: int) -> Version | None:
        async with self._database.read() as connection:
            query = sa.select(editions).where(editions.c.version == number)
            row = (await connection.execute(query)).one_or_none()
            return None if row is None else _read(row)

    async def list(self, most: int = 50) -> list[Head]:
        """The newest first. Of a catalog that does not suit this version of the program there is
        the head alone."""
        async with self._database.read() as connection:
            query = sa.select(editions).order_by(editions.c.version.desc()).limit(most)
            return [_head(row) for row in await connection.execute(query)]

    async def publish(
        self, catalog: Catalog, origin: Origin, *, after: int, by: str = "", note: str = ""
    ) -> int:
        """Put this catalog in force as the version that follows `after`.

        Raises Conflict where that is not the newest any more: somebody else was faster, and what
        he changed must not be undone unseen.
        """
        async with self._database.write() as connection:
            await self._lock(connection)
            newest = await _newest(connection)
            if (newest.version if newest else 0) != after:
                raise Conflict("The catalog was changed by somebody else meanwhile. Look again.")
            return await self._insert(connection, after + 1, catalog, origin, by, note)

    async def ruling(self, file: Catalog, *, take_file: bool = False) -> Version:
        """The catalog that a start puts in force: the file's, unless the store's was changed
        since by hand (`fusion apply`, `alias set`, `rollback`) and `take_file` is not said."""
        async with self._database.write() as connection:
            await self._lock(connection)
            newest = None if take_file else await _newest(connection)
            if newest is not None and (newest.origin != "up" or newest.catalog == file):
                return newest
            query = sa.select(sa.func.max(editions.c.version))
            number = int((await connection.execute(query)).scalar() or 0) + 1
            await self._insert(connection, number, file, "up", "", "")
            made = await _newest(connection)
            assert made is not None
            return made

    async def _lock(self, connection: AsyncConnection) -> None:
        if not self._database.is_sqlite:  # which has one writer at a time by itself
            await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))

    async def _insert(
        self,
        connection: AsyncConnection,
        number: int,
        catalog: Catalog,
        origin: Origin,
        by: str,
        note: str,
    ) -> int:
        row = {
            "version": number,
            "at": int(self._clock.now() * 1e6),
            "origin": origin,
            "by": by,
            "note": note,
            "catalog": catalog.model_dump(mode="json"),
        }
        await connection.execute(sa.insert(editions).values(**row))
        return number


async def _newest(connection: AsyncConnection) -> Version | None:
    query = sa.select(editions).order_by(editions.c.version.desc()).limit(1)
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else _read(row)


def _head(row: Any) -> Head:
    try:
        return _read(row)
    except FusionError:
        note = row.note or "does not suit this version of the program"
        return Head(row.version, row.at / 1e6, row.origin, row.by, note)


def _read(row: Any) -> Version:
    try:
        catalog = Catalog.model_validate(row.catalog)
    except ValidationError as error:
        raise FusionError(
            f"Version {row.version} of the catalog in the store does not suit this version of the "
            f"program ({error.errors()[0]['msg']}). Start with --take-file to let the file rule."
        ) from None
    return Version(row.version, row.at / 1e6, row.origin, row.by, row.note, catalog)
