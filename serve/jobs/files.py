"""Files of a project, kept in the store: every machine of the cluster reads the same ones.

A file is written in pieces and exists once its last piece is there; what a broken upload left is
removed with what has expired. Nothing changes a file.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from models.answerer import Clock
from models.call import new_id
from models.errors import Conflict, NotFound, TooLarge
from serve.jobs.batch import ENDED, micro
from serve.store.database import Database
from serve.store.schema import batches, file_parts, files

PART = 1 << 17
#: The largest file, in bytes: what OpenAI allows for a batch's input.
MAX_BYTES = 200_000_000
#: How long pieces without a file are kept: an upload may be slow.
_LOST_S = 86_400.0


@dataclass(frozen=True, slots=True)
class File:
    id: str
    project: str
    name: str
    purpose: str
    bytes: int
    #: Seconds since the epoch.
    created_at: float
    expires_at: float | None


@dataclass(slots=True)
class Draft:
    """A file that is being written. `write` pieces of any size, then `Files.keep` it."""

    files: Files
    most: int
    id: str = field(default_factory=lambda: new_id("file"))
    size: int = 0
    _parts: int = 0
    _rest: bytearray = field(default_factory=bytearray)

    async def write(self, piece: bytes) -> None:
        """Raises TooLarge where the file gets larger than it may be."""
        self.size += len(piece)
        if self.size > self.most:
            raise TooLarge(f"The file is larger than {self.most} bytes.", param="file")
        self._rest += piece
        while len(self._rest) >= PART:
            await self._part(PART)

    async def flush(self) -> None:
        if self._rest:
            await self._part(len(self._rest))

    async def _part(self, size: int) -> None:
        with memoryview(self._rest) as rest:
            piece = bytes(rest[:size])
        await self.files.add_part(self.id, self._parts, piece)
        del self._rest[:size]
        self._parts += 1


class Files:
    """All files. Another project's are NotFound."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def now(self) -> float:
        return self._clock.now()

    def draft(self, most: int = MAX_BYTES) -> Draft:
        return Draft(self, most)

    async def add_part(self, file: str, number: int, data: bytes) -> None:
        async with self._database.write() as connection:
            await connection.execute(
                sa.insert(file_parts).values(
                    file=file, number=number, data=data, at=micro(self._clock.now())
                )
            )

    async def keep(
        self, draft: Draft, project: str, name: str, purpose: str, expires_at: float | None = None
    ) -> File:
        """Make the draft a file."""
        await draft.flush()
        now = self._clock.now()
        made = File(draft.id, project, name, purpose, draft.size, now, expires_at)
        async with self._database.write() as connection:
            await connection.execute(
                sa.insert(files).values(
                    id=made.id,
                    project=project,
                    name=name,
                    purpose=purpose,
                    bytes=made.bytes,
                    at=micro(now),
                    expires_at=None if expires_at is None else micro(expires_at),
                )
            )
        return made

    async def discard(self, draft: Draft) -> None:
        """Remove what was written of a draft that will not be kept."""
        await self.remove([draft.id])

    async def get(self, project: str, file: str) -> File:
        async with self._database.read() as connection:
            row = (
                await connection.execute(
                    sa.select(files).where(files.c.id == file, files.c.project == project)
                )
            ).one_or_none()
        if row is None or (row.expires_at and row.expires_at < micro(self._clock.now())):
            raise NotFound(f"There is no file '{file}'. GET /v1/files lists them.", param="file_id")
        return _file(row)

    async def page(
        self, project: str, *, purpose: str | None, after: str | None, limit: int, newest: bool
    ) -> tuple[list[File], bool]:
        """Files in order of age, and whether there are more."""
        query = sa.select(files).where(files.c.project == project)
        if purpose is not None:
            query = query.where(files.c.purpose == purpose)
        if after is not None:
            last = await self.get(project, after)
            at = micro(last.created_at)
            query = query.where(
                sa.tuple_(files.c.at, files.c.id) < (at, last.id)
                if newest
                else sa.tuple_(files.c.at, files.c.id) > (at, last.id)
            )
        keys = (files.c.at, files.c.id)
        query = query.order_by(*(key.desc() if newest else key for key in keys)).limit(limit + 1)
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).all()
        return [_file(row) for row in rows[:limit]], len(rows) > limit

    async def delete(self, project: str, file: str) -> None:
        """Raises Conflict where a batch still reads it."""
        await self.get(project, file)
        async with self._database.read() as connection:
            reader = (await _readers(connection)).get(file)
        if reader is not None:
            raise Conflict(f"Batch '{reader}' has not ended, and reads this file. Cancel it first.")
        await self.remove([file])

    async def content(self, file: str) -> AsyncIterator[bytes]:
        """The whole file, piece by piece."""
        number = 0
        while data := await self._part(file, number, 0, PART):
            yield data
            number += 1

    async def read(self, file: str, start: int, size: int) -> bytes:
        """These bytes of it."""
        end, found = start + size, []
        while start < end:
            number, offset = divmod(start, PART)
            most = min(PART - offset, end - start)
            found.append(await self._part(file, number, offset, most))
            start += most
        return b"".join(found)

    async def sweep(self) -> None:
        """Remove what has expired, and what broken uploads left."""
        now = self._clock.now()
        async with self._database.read() as connection:
            expired = await connection.scalars(
                sa.select(files.c.id).where(files.c.expires_at < micro(now))
            )
            lost = await connection.scalars(
                sa.select(file_parts.c.file)
                .where(file_parts.c.at < micro(now - _LOST_S), file_parts.c.number == 0)
                .where(~sa.exists().where(files.c.id == file_parts.c.file))
            )
            found = {*expired, *lost} - (await _readers(connection)).keys()
        await self.remove(found)

    async def _part(self, file: str, number: int, offset: int, size: int) -> bytes:
        """Bytes of one piece, cut out by the database. None are there past the end."""
        async with self._database.read() as connection:
            data: bytes | None = await connection.scalar(
                sa.select(sa.func.substr(file_parts.c.data, offset + 1, size)).where(
                    file_parts.c.file == file, file_parts.c.number == number
                )
            )
        return data or b""

    async def remove(self, names: Iterable[str]) -> None:
        """Whosever they are; one that is not there is gone already."""
        for name in names:
            async with self._database.write() as connection:
                await connection.execute(sa.delete(files).where(files.c.id == name))
                await connection.execute(sa.delete(file_parts).where(file_parts.c.file == name))


async def _readers(connection: AsyncConnection) -> dict[str, str]:
    """The files that batches are still to read, each with one of these."""
    at_work = sa.select(batches.c.id, batches.c.spec).where(batches.c.state.not_in(ENDED))
    return {row.spec["input_file"]: row.id for row in await connection.execute(at_work)}


def _file(row: sa.Row[tuple[object, ...]]) -> File:
    return File(
        row.id,
        row.project,
        row.name,
        row.purpose,
        row.bytes,
        row.at / 1e6,
        None if row.expires_at is None else row.expires_at / 1e6,
    )
