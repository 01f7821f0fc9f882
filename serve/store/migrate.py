"""Brings a database to the schema of this version.

python -m serve.store.migrate "what changed"    writes a migration from the change of schema.py
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from serve.store.database import Database

_LOCK = 7_046_029_254_386_353_131  # any number, the same in every process


async def upgrade(database: Database, to: str = "head") -> None:
    """Apply every migration that this database lacks, up to a revision. Two processes at once are
    one after the other. Raises ValueError if a newer version of this program has used it."""
    async with database.migration() as connection:
        if not database.is_sqlite:
            await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        await connection.run_sync(_run, to)


def _run(connection: sa.Connection, to: str) -> None:
    config = _config()
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, to)
    except CommandError as error:
        raise ValueError(
            f"The store was made by a newer version of this program ({error})."
        ) from None


def _config() -> Config:
    config = Config()
    # Alembic reads its options as templates, where a percent sign begins a variable.
    folder = str(Path(__file__).parent / "migrations").replace("%", "%%")
    config.set_main_option("script_location", folder)
    return config


def newest() -> str:
    """The revision that this version of the program needs."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None
    return head


async def _write(message: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{folder}/draft.db")
        await upgrade(database)

        def revision(connection: sa.Connection) -> None:
            config = _config()
            config.attributes["connection"] = connection
            number = len(list(ScriptDirectory.from_config(config).walk_revisions())) + 1
            command.revision(config, message, autogenerate=True, rev_id=f"{number:04}")

        async with database.write() as connection:
            await connection.run_sync(revision)
        await database.close()


if __name__ == "__main__":
    asyncio.run(_write(sys.argv[1]))
