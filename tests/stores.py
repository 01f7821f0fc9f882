"""Empty stores for tests, on whatever database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from serve.store import migrate, schema
from serve.store.database import Database


@asynccontextmanager
async def empty(url: str) -> AsyncIterator[Database]:
    """A store of the newest schema with nothing in it."""
    made = Database(url)
    if not made.is_sqlite:  # one server serves many tests
        async with made.write() as connection:
            await connection.execute(sa.text("drop schema public cascade"))
            await connection.execute(sa.text("create schema public"))
    await migrate.upgrade(made)
    try:
        yield made
    finally:
        await made.close()


async def differences(database: Database) -> list[object]:
    """What the migrations made otherwise than the schema says."""

    def compare(connection: sa.Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), schema.metadata))

    async with database.read() as connection:
        return await connection.run_sync(compare)
