"""Empty stores for tests, on whatever database."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from models.fake import FakeClock
from models.messages import Usage
from serve.money.bank import Bank
from serve.money.ledger import Entry
from serve.store import migrate, schema
from serve.store.database import Database

_folder = tempfile.TemporaryDirectory()
#: An empty store of this process, to be copied.
_MIGRATED = f"{_folder.name}/empty.db"


@asynccontextmanager
async def empty(url: str) -> AsyncIterator[Database]:
    """A store of the newest schema with nothing in it."""
    if url.startswith("sqlite:///"):
        await _migrate_once()
        _copied(Path(url.removeprefix("sqlite:///")))
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


async def _migrate_once() -> None:
    """All migrations take a tenth of a second, which is most of what many a test would take."""
    if not _is_migrated():
        made = Database(f"sqlite:///{_MIGRATED}")
        await migrate.upgrade(made)
        await made.close()


def _is_migrated() -> bool:
    return Path(_MIGRATED).exists()


def _copied(to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(_MIGRATED, to)


async def differences(database: Database) -> list[object]:
    """What the migrations made otherwise than the schema says."""

    def compare(connection: sa.Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), schema.metadata))

    async with database.read() as connection:
        return await connection.run_sync(compare)


async def spend(database: Database) -> None:
    """Book five calls of November and December 2026: 0.06 USD at the flagship, 0.02 at home."""
    cent, morning = 10_000_000, 1_795_593_600.0  # 2026-11-25T08:00:00Z
    calls = [
        ("default", "flagship", "judge", "gpt", "k1", 3 * cent, "exact", morning),
        ("default", "flagship", "panelist", "gpt", "k1", 2 * cent, "exact", morning),
        ("other", "flagship", "panelist", "gpt", "k2", cent, "estimated", morning),
        ("default", "workforce", "panelist", "small", None, 2 * cent, "exact", morning),
        ("default", "workforce", "panelist", "small", None, None, "exact", morning + 6 * 86_400),
    ]
    entries = [
        Entry(
            *(f"led_{number}", at, f"req_{number}", project, tier, role, model),
            key=key,
            usage=Usage(10, 5),
            nano_usd=cost,
            basis=basis,
        )
        for number, (project, tier, role, model, key, cost, basis, at) in enumerate(calls)
    ]
    bank = Bank(database, FakeClock(morning))
    await bank.settle("", [(entry, entry.cost) for entry in entries])
